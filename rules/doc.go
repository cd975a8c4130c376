// Package rules plans the kernel state that a multi-uplink router needs. It is pure: it reads no
// clock, no file and no socket, and the same inputs always give the same plan.
//
//	Config  ──┐
//	Observed ─┼─> Plan ──> netcfg.State (wanted) ──┐
//	verdicts ─┘      └───> Report (why)            ├─> netcfg.Diff ──> []netcfg.Op ──> a kernel adapter, or text for people
//	Observed ─────> Ours ─> netcfg.State (have)  ──┘
//
// The routing model is the one of docs/architecture.md: one table and one mark per uplink, rules that
// put a connection's mark first, then a socket's device, then a packet's source, and a weighted default
// for everything else. Whatever carries our routing protocol number is ours; nothing else is.
package rules
