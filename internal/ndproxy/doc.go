// Package ndproxy finds out which addresses of an IPv6 network are on which of the two links that have it: the line of an uplink, and a LAN that
// was given the network of that line (RFC 4389, without forwarding what others say).
//
//	line: solicitations, advertisements ─┐                   ┌─► Hosts: planning has the kernel answer for them, and routes to them
//	                                     ├─► table (pure) ───┤
//	LAN:  solicitations, advertisements ─┘                   └─► questions and answers on either link
//
// Hosts of the LAN are all that are heard there; hosts of the line are those that somebody here wants to talk to, or that talk to somebody
// here. An address that is new on one link is asked for on the other before it counts: duplicate address detection works over both. Those
// that have not been heard for a while are asked whether they are still there.
//
// A [Proxy] has a packet socket on each link, which hears solicitations of every address. It answers itself only until the kernel does; that
// goes on over a restart. Scans are bounded: so many questions a second, so many addresses.
package ndproxy
