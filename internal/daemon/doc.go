// Package daemon joins the parts into the running program. It is the only package that knows them all.
//
//	config ──> plan input (ids from the state directory, leases) ──> reconcile.Engine <── kernel hints
//	                                                                   │        ▲
//	watchers (probe + uplink, one per uplink and family) <── facts ────┘        │
//	       └── verdicts, transitions ───────────────────────────────────────────┘
//	       └── events, status, metrics ──> api
package daemon
