// Package dhcp4 is a DHCPv4 client (RFC 2131) for uplinks that nobody else configures.
//
//	link events ─┐
//	messages ────┼─> machine (pure, time given by its caller) ──> messages to send, lease gained or lost
//	time ────────┘
//
// Client runs a machine over a Conn. The real Conn is a packet socket with a kernel filter, so that
// nothing but DHCP replies wakes us; renewals leave by an ordinary socket, as unicast. A link that blips
// keeps its lease and confirms it (INIT-REBOOT); a lease is released to nobody, for a restart shall not
// change the address.
package dhcp4
