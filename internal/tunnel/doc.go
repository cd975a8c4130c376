// Package tunnel runs what tunnels need besides their devices, which the plan makes like everything else: it reads the
// keys of WireGuard uplinks, resolves the names of endpoints, and follows which peers are there.
//
//	configuration, key files ──┐
//	snapshots ─────────────────┼─> Engine ──> Learn: netcfg.WireGuard, addresses, networks of peers ──> the plan
//	resolver ──────────────────┤         └──> events, status, evidence
//	handshakes, echoes ────────┘
//
// Prober answers probes of the kind handshake by what WireGuard counts. Peers and handshakeTracker are pure.
//
// Two goroutines belong to Run: one follows peers, with one more for each echo, and one resolves names. Configure, Observe,
// Learn and Settled are called by others. The lock is never held while a device, a file or a resolver is asked;
// Options.Dead alone is called under it, and must not call back.
package tunnel
