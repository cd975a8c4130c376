package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/notify/service"
)

const (
	// returnPatience is how long after an uplink works again it is waited for new traffic to return to it, which belongs to the same message.
	returnPatience = 2 * time.Minute
	// flapWindow is the time over which outages are counted, and the time between two messages on an uplink that flaps; flapLimit is how
	// many make it flap, and longOutage how long one of those lasts until it is told by itself.
	flapWindow = time.Hour
	flapLimit  = 4
	longOutage = 10 * time.Minute
	// absorbWindow is how long before a common outage an uplink may have failed that is part of it, and how long after it one may take to recover.
	absorbWindow = time.Minute
)

// Outage is a time in which an uplink did not work in one family or both, or, under [internet], none did.
type Outage struct {
	Begin    time.Time `json:"begin"`
	Over     time.Time `json:"over,omitzero"`     // it works again; zero while it does not
	Returned bool      `json:"returned"`          // new traffic uses it again
	Down     []string  `json:"down,omitempty"`    // families that do not work now
	Families []string  `json:"families"`          // those that did not at any time of it
	Cause    string    `json:"cause"`             // in words
	Carrier  string    `json:"carrier,omitempty"` // what new traffic has used since; "" where it has not moved
	Wanted   bool      `json:"wanted"`            // something of it is among the kinds of event that are asked for
	Told     bool      `json:"told"`              // that it began
	Absorbed bool      `json:"absorbed"`          // part of an outage of everything, unless it lasts beyond Until
	Until    time.Time `json:"until,omitzero"`    // zero while that outage lasts
}

// span is an outage that is over.
type span struct {
	Begin time.Time     `json:"begin"`
	Took  time.Duration `json:"took_ns"`
	Cause string        `json:"cause"`
}

// absorbed reports whether an outage is no more than a part of one of everything.
func (o *Outage) absorbed(now time.Time) bool {
	end := now
	if !o.Over.IsZero() {
		end = o.Over
	}
	return o.Absorbed && (o.Until.IsZero() || end.Before(o.Until))
}

// line is what is remembered of one uplink, or of all.
type line struct {
	Open       *Outage   `json:"open,omitempty"`
	Recent     []span    `json:"recent,omitempty"`     // of the last flapWindow
	NextDigest time.Time `json:"next_digest,omitzero"` // of one that flaps; zero: it does not
}

func (l *line) idle() bool { return l.Open == nil && len(l.Recent) == 0 && l.NextDigest.IsZero() }

// fail notes that a family does not work.
func (l *line) fail(at time.Time, family, cause string, certain bool) {
	o := l.Open
	if o == nil {
		o = &Outage{Begin: at}
		l.Open = o
	}
	if !o.Over.IsZero() && !o.Until.IsZero() && at.After(o.Until) {
		o.Absorbed = false
	}
	o.Over, o.Returned = time.Time{}, false
	for _, list := range []*[]string{&o.Down, &o.Families} {
		if !slices.Contains(*list, family) {
			*list = append(*list, family)
			slices.Sort(*list)
		}
	}
	if o.Cause == "" || certain {
		o.Cause = cause
	}
}

// mend notes that a family works.
func (l *line) mend(at time.Time, family string) {
	if o := l.Open; o != nil && slices.Contains(o.Down, family) {
		o.Down = slices.DeleteFunc(o.Down, func(f string) bool { return f == family })
		if len(o.Down) == 0 {
			o.Over = at
		}
	}
}

// due returns the messages on this line that are due, and when to ask again, zero for not before another event.
func (l *line) due(name string, now time.Time, after time.Duration) (messages []item, next time.Time) {
	l.Recent = slices.DeleteFunc(l.Recent, func(s span) bool { return now.Sub(s.Begin) >= flapWindow+s.Took })
	again := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	flaps := !l.NextDigest.IsZero()
	if o := l.Open; o != nil {
		silent := after
		if flaps {
			silent = max(after, longOutage)
		}
		switch {
		case o.Over.IsZero() && o.absorbed(now):
			if !o.Until.IsZero() {
				again(o.Until)
			}
		case o.Over.IsZero() && (!o.Wanted || o.Told):
		case o.Over.IsZero() && now.Before(o.Begin.Add(silent)):
			again(o.Begin.Add(silent))
		case o.Over.IsZero():
			o.Told = true
			messages = append(messages, opening(name, o))
		case o.Carrier != "" && !o.Returned && now.Before(o.Over.Add(returnPatience)):
			again(o.Over.Add(returnPatience))
		default:
			l.Open = nil
			if !o.Wanted || o.absorbed(now) {
				break
			}
			l.Recent = append(l.Recent, span{o.Begin, o.Over.Sub(o.Begin), o.Cause})
			if o.Told || !flaps {
				messages = append(messages, closing(name, o))
			}
			if !flaps && len(l.Recent) >= flapLimit {
				l.NextDigest = now.Add(flapWindow)
				messages = append(messages, l.flapping(name, now))
			}
		}
	}
	switch {
	case l.NextDigest.IsZero():
	case now.Before(l.NextDigest):
		again(l.NextDigest)
	default:
		messages = append(messages, l.digest(name, now))
		l.NextDigest = now.Add(flapWindow)
		if len(l.Recent) == 0 && l.Open == nil {
			l.NextDigest = time.Time{}
		} else {
			again(l.NextDigest)
		}
	}
	return messages, next
}

func opening(name string, o *Outage) item {
	m := service.Message{Time: o.Begin, Kind: "switch", Uplink: name, Priority: service.Warning, Title: name + " is down",
		Text: fmt.Sprintf("%s is down%s since %s: %s.%s", name, in(o.Families), clock(o.Begin, o.Begin), o.Cause, carriedBy(o))}
	if name == internet {
		m.Kind, m.Uplink, m.Priority, m.Title = "cause", "", service.Critical, "No Internet"
		m.Text = fmt.Sprintf("No uplink has worked%s since %s: %s.", in(o.Families), clock(o.Begin, o.Begin), o.Cause)
	}
	return item{Key: name, Opens: true, Message: m}
}

func closing(name string, o *Outage) item {
	when := fmt.Sprintf("%s, %s to %s", length(o.Over.Sub(o.Begin)), clock(o.Begin, o.Over), clock(o.Over, o.Over))
	m := service.Message{Time: o.Over, Kind: "switch", Uplink: name, Title: name + " is back",
		Text: fmt.Sprintf("%s was down%s for %s: %s.", name, in(o.Families), when, o.Cause)}
	switch {
	case o.Carrier == "":
	case o.Returned:
		m.Text += " New traffic uses it again."
	default:
		m.Text += carriedBy(o)
	}
	if name == internet {
		m.Kind, m.Uplink, m.Title = "cause", "", "The Internet is back"
		m.Text = fmt.Sprintf("No uplink worked%s for %s: %s.", in(o.Families), when, o.Cause)
	}
	return item{Key: name, Message: m}
}

func (l *line) flapping(name string, now time.Time) item {
	began := l.Recent[0].Begin
	return item{Message: service.Message{Time: now, Kind: "switch", Uplink: uplinkOf(name), Priority: service.Warning, Title: title(name) + " keeps failing",
		Text: fmt.Sprintf("%s has failed %d times within %s. From now on there is one message an hour, until it has worked for an hour.", title(name), len(l.Recent), length(now.Sub(began)))}}
}

func (l *line) digest(name string, now time.Time) item {
	m := service.Message{Time: now, Kind: "switch", Uplink: uplinkOf(name), Priority: service.Warning, Title: title(name) + " still keeps failing"}
	var sum, longest time.Duration
	for _, s := range l.Recent {
		sum, longest = sum+s.Took, max(longest, s.Took)
	}
	switch n := len(l.Recent); {
	case n > 0:
		m.Text = fmt.Sprintf("%s failed %s within the last hour, for %s in all, the longest %s. The latest cause: %s.", title(name), times(n), length(sum), length(longest), l.Recent[n-1].Cause)
	case l.Open != nil:
		m.Title, m.Text = title(name)+" is still down", fmt.Sprintf("%s has been down since %s: %s.", title(name), clock(l.Open.Begin, now), l.Open.Cause)
	default:
		m.Priority, m.Title, m.Text = service.Info, title(name)+" is stable", title(name)+" has worked for an hour."
	}
	return item{Key: name + " flaps", Message: m}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func title(name string) string {
	if name == internet {
		return "The Internet connection"
	}
	return name
}

func uplinkOf(name string) string {
	if name == internet {
		return ""
	}
	return name
}

// in names the families where they are not all that there are.
func in(families []string) string {
	if len(families) == 1 {
		return " in " + strings.NewReplacer("ipv4", "IPv4", "ipv6", "IPv6").Replace(families[0])
	}
	return ""
}

func carriedBy(o *Outage) string {
	if o.Carrier == "" {
		return ""
	}
	return " New traffic uses " + strings.ReplaceAll(o.Carrier, ",", " and ") + "."
}

// clock is the local time of day of t, with the date where that is not the day of ref.
func clock(t, ref time.Time) string {
	t, ref = t.Local(), ref.Local()
	if t.YearDay() == ref.YearDay() && t.Year() == ref.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// length says how long something took, in its two largest units.
func length(d time.Duration) string {
	d = max(d, 0)
	switch s := int64(d.Round(time.Second) / time.Second); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return two(s/60, "min", s%60, "s")
	case s < 86400:
		return two(s/3600, "h", s%3600/60, "min")
	default:
		return two(s/86400, "d", s%86400/3600, "h")
	}
}

func two(a int64, unit string, b int64, lower string) string {
	if b == 0 {
		return fmt.Sprintf("%d %s", a, unit)
	}
	return fmt.Sprintf("%d %s %d %s", a, unit, b, lower)
}
