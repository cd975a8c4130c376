// Package monitor watches every path, an uplink in one address family, and says what planning is to believe of it.
//
//	configuration ── Configure ──┐             ┌── RouteInstalled, SetActive, SetActiveCarriers ── what a pass has done
//	                             v             v
//	kernel facts ─── Verdicts ─> Monitor ──> uplink.Watcher, one per path ──> probe.Prober
//	                             │   ^             │ transitions, misses, answers
//	rules.Verdict, by path <─────┘   │             v
//	                                 └── uplink.Correlator, failback, carriers, quotas, drains
//
//	counters of devices ──> one-way traffic, inbound streams, load ──> probe at once, Received, Load
//
// A verdict comes from probes and from what the kernel knows (package uplink). Here are the rules that need more than
// one path: the probe interval follows who carries traffic and what the day's budget has left; a path that misses an
// answer has the others probed; a tunnel is not probed while its carrier is suspect; an uplink with manual failback is
// held until the operator releases it.
//
// Monitor has one lock. It is taken before those of watchers, never the other way round: watchers call back without
// theirs. No callback of [Options] is called under it.
package monitor
