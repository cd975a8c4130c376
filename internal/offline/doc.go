// Package offline is what commands do without a daemon: they look at the kernel, the configuration and the state directory, and
// judge paths as the daemon that runs, or the last one, did.
//
//	configuration file ─┐
//	state directory ────┼─> session ─> rules.Config, verdicts ─┬─> Plan, Explain, Doctor: change nothing
//	kernel ─────────────┘                                      ├─> Guard: closes kill switches before there is a network
//	                                                           └─> Clean: takes all that is ours away
//	kernel ─> Init: a configuration to begin with
//	files of other systems ─> Import: a configuration that does the same
package offline
