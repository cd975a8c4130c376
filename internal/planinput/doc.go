// Package planinput turns the configuration, and what was learned since, into what planning takes. It is pure.
//
//	config.Config ──────────────────────┐
//	AssignIDs: ids, kept for life ──────┤
//	Learned: leases, routers, tunnels ──┴──> Build ──> rules.Config
package planinput
