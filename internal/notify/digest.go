package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/notify/service"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// internet is the name of the outage of everything among those of uplinks, whose names have no space.
const internet = "the Internet"

const (
	// singleWindow and singleLimit bound how many messages there are of a kind of event that is told event by event.
	singleWindow = time.Hour
	singleLimit  = 6
)

// item is a message in a queue. One that does not open an outage replaces one of the same key that does, or that says the same of an
// earlier time, and has not been sent.
type item struct {
	Key     string          `json:"key,omitempty"`
	Opens   bool            `json:"opens,omitempty"`
	Message service.Message `json:"message"`
}

// digest decides what is worth a message, and when. It is pure: time is given, and it is all JSON.
type digest struct {
	Lines   map[string]*line    `json:"lines,omitempty"`   // by uplink, and of the Internet
	Moves   map[string]*move    `json:"moves,omitempty"`   // by family: traffic that moved though nothing had failed
	Singles map[string]*singles `json:"singles,omitempty"` // by kind of event
	Pending []item              `json:"pending,omitempty"` // due at once
	Seen    uint64              `json:"seen"`              // the latest event
	Settled time.Time           `json:"settled,omitzero"`  // until then new traffic moves because everything comes back
	// Balanced are the families whose new traffic moved last because of latency or load: that is what was asked for, and no news.
	Balanced map[string]bool `json:"balanced,omitempty"`

	after time.Duration
	kinds map[string]bool
}

// move is new traffic that uses other uplinks than before, where no outage explains it.
type move struct {
	At     time.Time `json:"at"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Reason string    `json:"reason"`
}

// singles counts the events of a kind.
type singles struct {
	Since  time.Time `json:"since"`
	Count  int       `json:"count"`
	Latest string    `json:"latest"`
}

// anchor puts what is remembered on the monotonic clock, and has it say the time of day as it is now: setting that makes nothing come
// sooner or later.
func (d *digest) anchor(now time.Time) {
	for _, l := range d.Lines {
		if o := l.Open; o != nil {
			o.Begin, o.Over, o.Until = past(o.Begin, now), past(o.Over, now), anchored(o.Until, now)
		}
		for i := range l.Recent {
			l.Recent[i].Begin = past(l.Recent[i].Begin, now)
		}
		l.NextDigest = anchored(l.NextDigest, now)
	}
	for _, m := range d.Moves {
		m.At = past(m.At, now)
	}
	for _, s := range d.Singles {
		s.Since = past(s.Since, now)
	}
	d.Settled = anchored(d.Settled, now)
}

func anchored(t, now time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return now.Add(t.Sub(now))
}

// past is for what has been: by a clock that was set back since, it may seem to come.
func past(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return anchored(t, now)
}

// event takes an event in the order of the log.
func (d *digest) event(e status.Event) {
	at := e.Time.Time
	d.Seen = max(d.Seen, e.ID)
	switch e.Kind {
	case status.EventVerdict:
		d.verdict(at, e)
	case status.EventSwitch:
		d.switched(at, e)
	case status.EventCause:
		d.common(at, e)
	default:
		if d.kinds[string(e.Kind)] {
			d.single(at, e)
		}
	}
}

func (d *digest) line(name string) *line {
	l := d.Lines[name]
	if l == nil {
		if d.Lines == nil {
			d.Lines = make(map[string]*line)
		}
		l = new(line)
		d.Lines[name] = l
	}
	return l
}

func (d *digest) verdict(at time.Time, e status.Event) {
	l := d.line(e.Uplink)
	switch to := uplink.State(e.To); to {
	case uplink.Suspect, uplink.Down:
		l.fail(at, e.Family, e.Reason, to == uplink.Down)
		l.Open.Absorbed = l.Open.Absorbed || !l.Open.Told && d.offline()
		l.Open.Wanted = l.Open.Wanted || to == uplink.Down && d.kinds[string(status.EventVerdict)]
	case uplink.Up, uplink.Degraded:
		l.mend(at, e.Family)
		d.answers(at, e.Family)
	case uplink.Recovering: // it is not used yet, but somebody is there
		d.answers(at, e.Family)
	case uplink.Disabled:
		l.mend(at, e.Family)
	case uplink.Init: // neither works nor fails for sure
	}
}

// answers ends an outage of everything: a daemon that was restarted within it does not tell that it is over.
func (d *digest) answers(at time.Time, family string) {
	l := d.Lines[internet]
	if l == nil || l.Open == nil {
		return
	}
	if l.mend(at, family); !l.Open.Over.IsZero() {
		d.Settled = at.Add(absorbWindow)
		for _, other := range d.Lines {
			if o := other.Open; other != l && o != nil && o.Absorbed && o.Until.IsZero() {
				o.Until = at.Add(absorbWindow)
			}
		}
	}
}

// offline reports whether there is an outage of everything.
func (d *digest) offline() bool {
	l := d.Lines[internet]
	return l != nil && l.Open != nil && l.Open.Over.IsZero()
}

func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func (d *digest) switched(at time.Time, e status.Event) {
	if !d.kinds[string(status.EventSwitch)] {
		return
	}
	from, to := names(e.From), names(e.To)
	balanced := e.Code == string(rules.ChoiceFastest) || e.Code == string(rules.ChoiceOverflow)
	explained := d.offline() || at.Before(d.Settled) || len(from) == 0 || balanced || d.Balanced[e.Family]
	if d.Balanced == nil {
		d.Balanced = make(map[string]bool)
	}
	d.Balanced[e.Family] = balanced
	for name, l := range d.Lines {
		o := l.Open
		if o == nil {
			continue
		}
		left, came := slices.Contains(from, name) && !slices.Contains(to, name), slices.Contains(to, name) && !slices.Contains(from, name)
		switch {
		case left:
			o.Wanted, o.Carrier, o.Returned = true, e.To, false
			explained = true
		case came:
			o.Returned = true
			explained = true
		case o.Carrier != "" && !slices.Contains(to, name):
			o.Carrier = e.To
		}
	}
	if m := d.Moves[e.Family]; m != nil {
		if m.To, m.Reason = e.To, e.Reason; m.To == m.From {
			delete(d.Moves, e.Family)
		}
		return
	}
	if !explained {
		if d.Moves == nil {
			d.Moves = make(map[string]*move)
		}
		d.Moves[e.Family] = &move{at, e.From, e.To, e.Reason}
	}
}

func (d *digest) common(at time.Time, e status.Event) {
	l := d.line(internet)
	if e.Code == string(status.CauseOver) {
		d.answers(at, e.Family)
		return
	}
	l.fail(at, e.Family, "no target answers by any of them", false)
	l.Open.Wanted = l.Open.Wanted || d.kinds[string(status.EventCause)]
	if !l.Open.Wanted {
		return
	}
	for _, other := range d.Lines {
		if o := other.Open; other != l && o != nil && !o.Told && at.Sub(o.Begin) <= absorbWindow {
			o.Absorbed = true
		}
	}
}

func (d *digest) single(at time.Time, e status.Event) {
	s := d.Singles[string(e.Kind)]
	if s == nil {
		if d.Singles == nil {
			d.Singles = make(map[string]*singles)
		}
		s = &singles{Since: at}
		d.Singles[string(e.Kind)] = s
	}
	s.Count++
	text := e.Message
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Uplink != "" && !strings.Contains(text, e.Uplink) {
		text = e.Uplink + ": " + text
	}
	if s.Latest = text; s.Count <= singleLimit {
		d.Pending = append(d.Pending, item{Message: service.Message{Time: at, Kind: string(e.Kind), Uplink: e.Uplink, Priority: loudness[e.Kind], Title: singleTitles[e.Kind], Text: text + "."}})
	}
}

// singleTitles are those of kinds that are told event by event.
var (
	singleTitles = map[status.EventKind]string{
		status.EventQuota: "Data allowance", status.EventKillSwitch: "Kill switch", status.EventDrain: "Drain", status.EventReload: "Configuration",
		status.EventLease: "Addresses", status.EventRepair: "Kernel state repaired", status.EventStart: "uplinkd started", status.EventStop: "uplinkd stopped",
		status.EventPeer: "Tunnel", status.EventDNS: "DNS", status.EventSet: "Set", status.EventRecover: "Recovery", status.EventPair: "Pair",
	}
	loudness = map[status.EventKind]service.Priority{status.EventQuota: service.Warning, status.EventKillSwitch: service.Critical, status.EventRepair: service.Warning}
)

// due returns what is due, and when to ask again: zero for not before another event.
func (d *digest) due(now time.Time) (messages []item, next time.Time) {
	messages, d.Pending = d.Pending, nil
	again := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	var lines []string
	for name := range d.Lines {
		lines = append(lines, name)
	}
	slices.Sort(lines)
	for _, name := range lines {
		l := d.Lines[name]
		more, at := l.due(name, now, d.after)
		messages = append(messages, more...)
		again(at)
		if l.idle() {
			delete(d.Lines, name)
		}
	}
	more, at := d.moved(now)
	messages = append(messages, more...)
	again(at)
	for kind, s := range d.Singles {
		end := s.Since.Add(singleWindow)
		if now.Before(end) {
			again(end)
			continue
		}
		delete(d.Singles, kind)
		if n := s.Count - singleLimit; n > 0 {
			k := status.EventKind(kind)
			messages = append(messages, item{Message: service.Message{Time: now, Kind: kind, Priority: loudness[k], Title: singleTitles[k],
				Text: fmt.Sprintf("This happened %d times more within the hour. The latest: %s.", n, s.Latest)}})
		}
	}
	return messages, next
}

// moved tells of moves that have lasted.
func (d *digest) moved(now time.Time) (messages []item, next time.Time) {
	for _, family := range []string{"ipv4", "ipv6"} {
		m := d.Moves[family]
		if m == nil {
			continue
		}
		if at := m.At.Add(d.after); now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		delete(d.Moves, family)
		families := []string{family}
		for other, o := range d.Moves { // the other family did the same at the same time, more or less
			if o.From == m.From && o.To == m.To {
				families = append(families, other)
				delete(d.Moves, other)
			}
		}
		to := strings.ReplaceAll(m.To, ",", " and ")
		if to == "" {
			to = "no uplink"
		}
		messages = append(messages, item{Message: service.Message{Time: m.At, Kind: "switch", Uplink: m.To, Title: "New traffic uses " + to,
			Text: fmt.Sprintf("New traffic%s uses %s instead of %s since %s: %s.", in(families), to, strings.ReplaceAll(m.From, ",", " and "), clock(m.At, m.At), m.Reason)}})
	}
	return messages, next
}

// resync closes what is over already, where events were missed: works says whether an uplink works in a family, and whether there is one.
func (d *digest) resync(now time.Time, works func(name, family string) bool) {
	for name, l := range d.Lines {
		if l.Open == nil || name == internet {
			continue
		}
		for _, family := range slices.Clone(l.Open.Down) {
			if works(name, family) {
				l.mend(now, family)
			}
		}
	}
}
