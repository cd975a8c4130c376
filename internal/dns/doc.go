// Package dns has name resolution follow the uplinks.
//
//	addressing: DHCP, routers, DHCPv6 ──┐
//	other programs: files, D-Bus ───────┼─► Learn ─► the daemon plans (rules to each server) ─► Planned(report)
//	configuration ──────────────────────┘                                                          │ servers, best first
//	                                                                                               ▼
//	              probe.Prober ◄── checks, by the server's own uplink ──► health ────────────► choose (pure)
//	                                                                                               │ changed
//	                                  resolv.conf, dnsmasq, unbound, systemd-resolved ◄── workers ◄┘
//
// Which servers there are, and how well their uplinks work, is planning's to say; whether a server itself answers, and the truth, is found
// out here while somebody is told of servers. What is chosen goes to each output by a worker of its own: one that hangs holds up no other.
//
// # Goroutines
//
// [Engine.Run] is one worker for each output, one loop that starts checks, with a goroutine for each check under way, and one that
// looks at other programs: what they have learned, and whether dnsmasq has read its sets.
//
// # Locks
//
// Engine.mu guards all that is learned and chosen. No callback of [Options], no file and no socket is used under it. What a worker has
// written belongs to its goroutine.
package dns
