package status

import "github.com/uplinkd/uplinkd/uplink"

// EventKind says what happened.
type EventKind string

// The kinds of event.
const (
	EventVerdict    EventKind = "verdict" // an uplink is judged anew
	EventSwitch     EventKind = "switch"  // new flows take other uplinks
	EventRepair     EventKind = "repair"  // the kernel had lost something of ours
	EventReload     EventKind = "reload"
	EventDrain      EventKind = "drain"
	EventStart      EventKind = "start"
	EventStop       EventKind = "stop"
	EventLease      EventKind = "lease"       // a delegated prefix came, changed or went
	EventCause      EventKind = "cause"       // every uplink of a family is silent, or no longer
	EventQuota      EventKind = "quota"       // the bytes of a month are used up, or there are some again
	EventPeer       EventKind = "peer"        // another end of a tunnel came or went
	EventDNS        EventKind = "dns"         // names are asked for elsewhere, or a DNS server answers otherwise than before
	EventSet        EventKind = "set"         // a set has other addresses now, or its source cannot be used
	EventKillSwitch EventKind = "kill-switch" // a policy refuses its traffic now, or no longer
	EventRecover    EventKind = "recover"     // a line that stays dead is helped, or is not
	EventPair       EventKind = "pair"        // this router of a pair works now, or waits; the other one came or went
	EventGap        EventKind = "gap"         // this reader has lost events; made by EventLog only
)

// CauseCode says what an [EventCause] tells.
type CauseCode string

// The codes.
const (
	CauseBegan CauseCode = "common-outage"
	CauseOver  CauseCode = "common-outage-over"
)

// RecoverCode says what an [EventRecover] tells; the others are [uplink.RecoveryHold].
type RecoverCode string

// The codes.
const (
	RecoverStarted RecoverCode = "started"
	RecoverDone    RecoverCode = "done"
	RecoverFailed  RecoverCode = "failed"
)

// Event is one line of the decision log. Empty fields do not apply.
type Event struct {
	ID       uint64       `json:"id"`
	Time     Time         `json:"time"`
	Kind     EventKind    `json:"kind"`
	Uplink   string       `json:"uplink"`
	Family   string       `json:"family"` // "ipv4", "ipv6" or ""
	From     string       `json:"from"`
	To       string       `json:"to"`
	Code     string       `json:"code"`   // of a verdict, why it is that: [uplink.Code]; of a switch, how well those work: [rules.ChoiceCode]; of a cause: [CauseCode]; of a recover: [RecoverCode]
	Reason   string       `json:"reason"` // the same for people
	Evidence List[string] `json:"evidence"`
	Message  string       `json:"message"`
	Lost     uint64       `json:"lost,omitempty"` // gap: how many events
}

// VerdictEvent returns the event that reports t.
func VerdictEvent(t uplink.Transition) Event {
	return Event{
		Time: At(t.At), Kind: EventVerdict, Uplink: t.Uplink, Family: t.Family.String(),
		From: string(t.From), To: string(t.To), Code: string(t.Reason.Code), Reason: t.Reason.Text, Evidence: t.Evidence,
	}
}
