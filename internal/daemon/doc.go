// Package daemon joins the engines into the running program: start, stop, reload, and who hears what.
//
//	configuration, ids ──> planinput.Build <── what addressing and tunnels have learned
//	                            │
//	     kernel hints ──> reconcile.Engine ── facts ──> monitor ── verdicts ──> reconcile.Engine
//	                            │ onSnapshot, onPass         │ onTransition
//	                            ▼                            ▼
//	        addressing, tunnel, usage       decision log ──> events, hooks; metrics; status ──> api
//
// Locks, outer before inner: reloading (one configuration at a time), then those of the engines, then mu and the saver's.
package daemon
