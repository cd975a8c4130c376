// Package daemon joins the engines into the running program: start, stop, reload, and who hears what.
//
//	configuration, ids ──> planinput.Build <── what addressing and tunnels have learned
//	                            │
//	     kernel hints ──> reconcile.Engine ── facts ──> monitor ── verdicts ──> reconcile.Engine
//	                            │ onSnapshot, onPass         │ onTransition
//	                            ▼                            ▼
//	        addressing, tunnel, usage       decision log ──> events, hooks; metrics; status ──> api
//
// What grows goes elsewhere: which configuration is in force to internal/commit, what a pair hands over to internal/pair, what the status shows
// of a plan to internal/status. A test bounds the lines here and the methods of [Daemon].
//
// Locks, outer before inner: reloading (one configuration at a time), then those of the engines, then mu, the
// reloader's and the saver's.
package daemon
