// Package encap knows the kinds of tunnel devices: what the configuration may say of each, the bytes that it adds to a packet, how the
// kernel is told to make one (the attributes of rtnetlink, the line for a shell) and what the kernel tells of one. It is pure, and the
// one place where a kind is declared.
//
//	[uplink.KIND], [[tunnel]] ── Settings ─► Params ─┬─ Overhead ───────────► MTU
//	                                   ▲             ├─ Args ───────────────► ip link add ... type KIND ...
//	   IFLA_INFO_DATA ── Decode ───────┘             └─ LinkKind, Attributes ► IFLA_INFO_KIND, IFLA_INFO_DATA
package encap
