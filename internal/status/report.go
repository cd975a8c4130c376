package status

// Report is how the uplinks were in one month, for who pays for them.
type Report struct {
	Month   string               `json:"month"`  // "2026-11", in the router's time zone
	Months  List[string]         `json:"months"` // those that there is a report of, the latest first
	Until   Time                 `json:"until"`  // the end of the month, or now
	Uplinks List[ReportedUplink] `json:"uplinks"`
}

// ReportedUplink is one uplink in a month.
type ReportedUplink struct {
	Name          string               `json:"name"`
	ReceivedBytes int64                `json:"received_bytes"` // by its device, while the daemon ran
	SentBytes     int64                `json:"sent_bytes"`
	FlowsOut      int64                `json:"flows_out"` // connections begun here, the daemon's probes left out
	FlowsIn       int64                `json:"flows_in"`  // begun by others, whether anybody answered or not
	Families      List[ReportedFamily] `json:"families"`  // those that were watched
}

// ReportedFamily is one family of an uplink. What the daemon did not see, for it did not run or knew nothing yet, is neither up nor down.
type ReportedFamily struct {
	Family       string       `json:"family"`       // "ipv4" or "ipv6"
	Availability *float64     `json:"availability"` // up of up and down, 0..1; null when nothing was seen
	UpS          int64        `json:"up_s"`
	DownS        int64        `json:"down_s"`
	UnwatchedS   int64        `json:"unwatched_s"`
	RTTp50ms     Millis       `json:"rtt_p50_ms"` // of answered probes, to 5 %
	RTTp95ms     Millis       `json:"rtt_p95_ms"`
	RTTp99ms     Millis       `json:"rtt_p99_ms"`
	Outages      List[Outage] `json:"outages"` // the earliest first, those that reach into other months too
}

// Outage is a time for which an uplink was down in one family.
type Outage struct {
	Begin    Time         `json:"begin"`
	End      Time         `json:"end"`      // "" while it lasts
	LengthS  float64      `json:"length_s"` // of what was seen of it
	EndSeen  bool         `json:"end_seen"` // false: the daemon did not run when it ended, and End is when it saw it last
	Code     string       `json:"code"`     // [uplink.Code]
	Cause    string       `json:"cause"`    // the same for people
	Common   bool         `json:"common"`   // every uplink of the family was silent: the cause may be none of the line's
	Evidence List[string] `json:"evidence"`
}
