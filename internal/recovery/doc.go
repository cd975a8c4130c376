// Package recovery helps lines that stay dead: it runs what the owner has named for that, such as a modem's reset.
//
//	verdicts of all paths ──> uplink.Recovery, one per uplink ──> the owner's program, one at a time per uplink
//	                                   │                                │
//	                                   └─ runs of the last day ─> disk  └─> events
package recovery
