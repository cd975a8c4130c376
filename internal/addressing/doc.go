// Package addressing runs the clients and servers that give uplinks and LANs their addresses, and keeps what they have learned over
// restarts.
//
//	               Configure, Observe (links, addresses, gateways)
//	                                  │
//	                                  ▼                            one supervisor each: it makes, replaces and stops instances
//	dhcp4.Client       by uplink ─► leases ───────┐
//	ndisc.Discoverer   by uplink ─► routers ──────┼─► Learned ─► the daemon plans ─► UpdateRA(report)
//	dhcp6.Client       by uplink ─► delegations ──┘                                       │
//	ndisc.Advertiser   by LAN    ◄─ lans ◄────────────────────────────────────────────────┤
//	dhcp6.Server       by LAN    ◄► downstream ◄── what is left of delegations ───────────┤
//	                                     └───────► AddTo: routes to those who have a part
//	ndproxy.Proxy      by uplink ◄► proxies    ◄── networks on two links ─────────────────┘
//	                                     └───────► AddTo: which hosts are on which
//
// What changes goes out by the callbacks of [Options]: Changed (plan again), OnEvent, ProbeNow, and Save for the state directory.
// What probing says of uplinks comes in by Options.Verdict, for routers are left when probes say so.
//
// # Goroutines
//
// Each client has one, which its supervisor starts and waits for; [Engine.Run] is the supervisors and a tick each second, at which
// lifetimes end. Callbacks come from all of these.
//
// # Locks
//
// leases, routers, delegations, lans, downstream and proxies have a lock each, and so has the supervisor inside each of them. The order is: a part's lock, then
// that of its supervisor. While the latter is held nothing is called but the function that makes an instance, which takes no lock. No part
// takes another's lock, or Engine.mu, while it holds its own; no callback of Options is called under a lock.
package addressing
