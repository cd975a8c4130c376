// Package lab is a whole dual-WAN world in network namespaces: to try uplinkd by hand (`uplinkd lab run`), for the
// end-to-end tests and for the benchmarks.
//
//	                        ┌ wan1 ── cust1 [isp1 "fiber"] up0 ── isp1 ┐
//	[lan] eth0 ── lan0 [router]                                       [inet] 192.0.2.1, .2, .3, .53, .100 on lo
//	                        └ wan2 ── cust2 [isp2 "lte"]   up0 ── isp2 ┘
//
//	link         IPv4                                    IPv6
//	LAN          203.0.113.128/25, .129 router, .130 lan  2001:db8:1::/64, ::1 router, ::2 lan
//	fiber        198.51.100.0/26, .1 isp1, .2 router      2001:db8:a::/64, ::1 and fe80::1 isp1, ::2 router
//	lte          203.0.113.0/26, .1 isp2, .2 router       2001:db8:b::/64, ::1 and fe80::1 isp2, ::2 router
//	isp1 - inet  198.51.100.128/30                        2001:db8:fff1::/64
//	isp2 - inet  203.0.113.64/30                          2001:db8:fff2::/64
//	Internet     192.0.2.1, .2, .3, .53, client .100      2001:db8:ffff::1, ::2, ::3, ::53, client ::100
//
// An ISP drops what its customer sends with somebody else's source address, counts it, and counts what it lets pass;
// the Internet reaches a customer's network through that customer's ISP only. The router is what a DHCP client leaves
// behind: a default route per uplink in main, metrics 100 and 200, reverse-path filtering strict, forwarding on.
//
// Everything happens inside private user (for ordinary users), mount and network namespaces, entered by [Main] in
// tests and by [Run] in the program: the names below /run/netns are private too, and when the process dies, however
// it dies, the kernel removes the world.
//
// Data flow: [New] renders the topology into `ip -batch` and `nft -f` scripts, one of each per namespace;
// [World.Break] changes a break's state and renders the ISP's break table as a whole, so that repeating it is
// harmless; [FlowProbe] and [Stream] measure what traffic felt; echo servers tell each flow which source address they
// saw, from which [World.UplinkOf] tells the uplink.
//
// It needs iproute2, nft, and a kernel of 5.16 or later, whose netdev egress hook the breaks use.
//
// The package speaks to the kernel through the tools that an administrator would use, so that it shares no code, and
// no mistake, with what it tests.
package lab
