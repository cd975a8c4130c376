// Package clat carries the IPv4 of uplinks that have IPv6 alone (464XLAT, RFC 6877). The translator is tayga, which has a tun device:
//
//	resolvers of the plan ──> ipv4only.arpa, asked by the uplink (RFC 7050) ──┐
//	router advertisements (RFC 8781, by internal/addressing) ─────────────────┼──> planinput.Learned ──> plan
//	nat64_prefix of the configuration ────────────────────────────────────────┘                           │
//	                                                      tayga, one per uplink, started again <── rules.CLAT
//
// What routes, masquerading and filters there are for the device is the plan's business, as for any uplink's device that comes and goes.
//
// A translator outlives a daemon that is killed, and the next one takes it over; a daemon that is stopped stops it.
package clat
