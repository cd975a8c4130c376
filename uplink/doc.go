// Package uplink judges one uplink in one address family: may it carry traffic,
// and why.
//
//	kernel facts ── SetPath ─────────┐ (synchronous)
//	                                 v
//	probe.Prober <── Watcher ──> Machine ──> Transition ──> OnChange
//	      │             │           ^             (queued, in order)
//	      └─ outcome ─> probe.Detector
//	                     Signal, Report, loss
//
// [Machine] is pure: every input carries the time, and Deadline says when Tick
// is due. [Watcher] joins a Machine with a [probe.Detector], runs the probes and
// keeps the lock; it is the only part here that starts goroutines.
//
// # Verdicts
//
//	init            -> up            the first answer
//	init            -> down          no answer for a whole burst and Confirm
//	up              -> degraded      at least 20 % of the last 60 (at least 20) probes lost
//	degraded        -> up            less than 5 % lost
//	up, degraded    -> suspect       Fall misses in a burst
//	suspect         -> up, degraded  any answer, late ones too
//	suspect         -> down          no answer for Confirm, 640 ms
//	down            -> recovering    an answer, when the path has been whole for Stable, 2 s
//	recovering      -> up            Rise answers in a row, over at least Hold, 10 s
//	recovering      -> down          Fall misses in a burst
//	any             -> down          carrier, address or gateway lost; a burst found no route
//	down            -> init          the path is whole for the first time
//	disabled                         by configuration, for ever
//
// init is unknown, not bad, so it is used at once. suspect asks for what can be
// undone: new flows go elsewhere. down asks for the rest. A lost path is down
// without any delay; it is looked at again when it has been whole for Stable.
// Local faults of probing change no verdict; only a whole burst of probes that
// find no route does.
package uplink
