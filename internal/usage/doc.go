// Package usage counts what uplinks carry: rates and verdicts of the last day for charts, the volumes of metered uplinks by day and
// month, of which it knows the quotas, and when each uplink was up, by month, with its outages.
//
//	counters of devices ──> sampler ──┬─ rates, once a second ──> history: 5 min of seconds, 1 h of tens of seconds,
//	verdicts of paths ────────────────┘                           │         24 h of two minutes
//	                                  │                           └──> History
//	                                  ├─ verdicts, bytes; transitions, answers ──> availability ──> Report, the state directory
//	                                  └─ bytes ──> accounts ──┬──> OverQuota, Wake
//	                                                          └──> Usage, the state directory
package usage
