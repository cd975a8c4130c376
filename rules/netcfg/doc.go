// Package netcfg has the part of the kernel's network configuration that is ours: addresses, routes, rules, nftables tables, link groups,
// parameters, filters of traffic control, tunnel devices. It knows how one such state becomes another, in an order in which every step is
// safe, and how each change is written for a shell. It is pure: rules says which state is wanted, internal/kernel carries changes out.
//
//	have State ─┐
//	            ├─ Diff ─► []Op ─┬─ Command ───────► plan, logs
//	want State ─┘                └─ internal/kernel ─► the kernel
package netcfg
