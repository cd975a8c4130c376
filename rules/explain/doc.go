// Package explain walks a packet over rules, tables and our packet filter as the kernel does, and says at each step why. It is pure.
//
//	Packet ──> path.go ── departure: of a socket here ──> source, fiblookup.go, output chains, fiblookup.go again ──┐
//	                   └─ arrival: by a device ─────────> prerouting chains, fiblookup.go, source validation ───────┤
//	                                                                                                                ▼
//	Routing: what the kernel holds (every table, IPsec policies)                       forward and postrouting chains, IPsec
//	State:   the plan in force, of which packetfilter.go takes our chains                                           │
//	                                                                        Explanation: steps, outcome, egresses <─┘
//
// whatif.go is the routing that there would be if an uplink had no carrier.
//
// Its tests are in package rules, which has the worlds to walk in.
package explain
