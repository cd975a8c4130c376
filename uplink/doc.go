// Package uplink judges one uplink in one address family: may it carry traffic,
// and why.
//
//	kernel facts ── SetPath ─────────┐ (synchronous)
//	                                 v
//	probe.Prober <── Watcher ──────> FSM ──> Transition ──> OnChange
//	      │             │             ^           (queued, in order)
//	      └─ outcome ─> probe.Detector
//	                     Signal, BurstReport, Outcome
//
// [FSM] is pure: every input carries the time, and Deadline says when Tick is
// due. [Evaluator] joins it with a [probe.Detector] and is pure like both.
// [Watcher] runs the probes for an Evaluator and keeps the lock; it is the only
// part here that starts goroutines. [Correlator] compares the reports of all
// watchers, and tells a dead uplink from dead targets.
//
// # Verdicts
//
//	init            -> up            the first answer
//	init            -> down          no answer for a whole burst and Confirm
//	up              -> degraded      losses are better explained by 30 % than by 5 %
//	degraded        -> up            and by 2 % than by 15 %
//	up, degraded    -> suspect       Fall misses in a burst
//	suspect         -> up, degraded  any answer, late ones too
//	suspect         -> down          no answer for Confirm: 640 ms, or what the link's bursts of loss ask for
//	down            -> recovering    an answer, when the path has been complete for Stable, 2 s
//	recovering      -> up            Rise answers in a row, over at least Hold, 10 s
//	recovering      -> down          Fall misses in a burst
//	any             -> down          carrier, address or gateway lost; a burst found no route
//	down            -> init          the path is complete for the first time
//	disabled                         by configuration, for ever
//
// init is unknown, not bad, so it is used at once. suspect asks for what can be
// undone: new flows go elsewhere. down asks for the rest. A lost path is down
// without any delay; it is probed again when it has been complete for Stable.
// Beside the verdict there is a class, good, fair or poor, of loss, latency and
// jitter. It is for choosing among uplinks that work and changes no verdict.
// Local faults of probing change no verdict; only a whole burst of probes that
// find no route does.
package uplink
