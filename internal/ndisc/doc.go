// Package ndisc speaks router discovery (RFC 4861): it listens to the routers of an uplink, and it is the
// router of a LAN.
//
//	uplink:  advertisements ─> parse ─> machine (pure) ──> View: routers, prefixes, addresses, routes, DNS
//	                                       └─> solicitations, backed off (RFC 7559)
//
//	LAN:     delegations, verdicts ─> Advertised (pure, kept over restarts) ──> Content
//	         Content, solicitations ─> schedule (pure) ──> advertisements
//	         advertisements of others ─> otherRouters (pure) ──> []Other
//
// Discoverer and Advertiser run these over a Conn. The real one is a raw ICMPv6 socket that is bound to the
// device; nothing here asks the kernel to configure anything. A Discoverer stands in for the kernel's own
// handling of advertisements, so the device's accept_ra is to be 0 and its link-local address is to exist.
//
// Neither withdraws anything when it ends: a restart shall disturb nobody. Advertiser.Withdraw does, on purpose.
package ndisc
