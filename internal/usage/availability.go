package usage

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// longestSample bounds what one sample stands for: of a daemon that was stopped meanwhile nothing is known.
	longestSample = 5 * time.Second
	// firstYear is the first that a clock which is set can show. What is seen before that is counted to the month in which it is set.
	firstYear = 2025
	unset     = "unset"
	// clockStep is by how much a clock that was set right differs from one that runs.
	clockStep = 2 * time.Second
	// mostUplinks bounds the uplinks of a month, those that have left the configuration included.
	mostUplinks = 128
	// Times are counted by powers of rttBase above rttUnit.
	rttUnit, rttBase, rttBuckets = 100 * time.Microsecond, 1.1, 128
)

// availability is when uplinks were up and down, by month. It is pure: the caller brings the time.
type availability struct {
	Months map[string]map[string]*uplinkMonth  `json:"months"` // by month, by uplink name
	Since  map[string]time.Time                `json:"since"`  // when each uplink was seen first
	Open   map[string]map[string]*outageRecord `json:"open"`   // outages that last, by uplink name and family

	last, lastWall time.Time // of the latest sample, by both clocks
}

// uplinkMonth is one uplink in a month.
type uplinkMonth struct {
	Received int64                   `json:"received"`
	Sent     int64                   `json:"sent"`
	FlowsOut int64                   `json:"flows_out"`
	FlowsIn  int64                   `json:"flows_in"`
	Families map[string]*familyMonth `json:"families"`
}

type familyMonth struct {
	Up   float64       `json:"up_s"`
	Down float64       `json:"down_s"`
	RTT  map[int]int64 `json:"rtt,omitempty"` // answers, by bucket
	// Times are the percentiles of a month that is over, in milliseconds.
	Times []status.Millis `json:"rtt_ms,omitempty"`
}

// percentiles are those of round-trip times that are told.
var percentiles = [...]float64{0.5, 0.95, 0.99}

// outageRecord is an outage as it is kept.
type outageRecord struct {
	ID       int64         `json:"id"` // when it began by the clock of then: what is known of it is written again
	Uplink   string        `json:"uplink"`
	Family   string        `json:"family"`
	Outage   status.Outage `json:"outage"`
	LastSeen status.Time   `json:"last_seen"` // while it lasts, and was written

	began   time.Time // of what is seen of it in this run; zero: nothing yet
	carried float64   // seconds before that
	resumed bool      // it is of an earlier run
}

func newAvailability() availability {
	return availability{Months: make(map[string]map[string]*uplinkMonth), Since: make(map[string]time.Time), Open: make(map[string]map[string]*outageRecord)}
}

// tidy drops what a damaged file may hold.
func (a *availability) tidy() {
	fresh := newAvailability()
	a.Months, a.Since, a.Open = orMap(a.Months, fresh.Months), orMap(a.Since, fresh.Since), orMap(a.Open, fresh.Open)
	valid := func(seconds float64) bool { return seconds >= 0 && seconds <= 32*24*3600 } // NaN is not
	maps.DeleteFunc(a.Months, func(month string, uplinks map[string]*uplinkMonth) bool {
		at, err := time.Parse(monthForm, month)
		if month != unset && (err != nil || at.Format(monthForm) != month) {
			return true
		}
		maps.DeleteFunc(uplinks, func(_ string, u *uplinkMonth) bool {
			if u == nil || slices.ContainsFunc([]int64{u.Received, u.Sent, u.FlowsOut, u.FlowsIn}, func(n int64) bool { return n < 0 || n > maxBytes }) {
				return true
			}
			maps.DeleteFunc(u.Families, func(name string, f *familyMonth) bool {
				if f == nil || !valid(f.Up) || !valid(f.Down) || !isFamily(name) {
					return true
				}
				maps.DeleteFunc(f.RTT, func(i int, n int64) bool { return i < 0 || i >= rttBuckets || n < 0 || n > maxBytes })
				return false
			})
			return false
		})
		return len(uplinks) == 0
	})
	maps.DeleteFunc(a.Open, func(name string, families map[string]*outageRecord) bool {
		maps.DeleteFunc(families, func(family string, o *outageRecord) bool {
			return o == nil || o.Uplink != name || o.Family != family || !isFamily(family) || !(o.Outage.LengthS >= 0)
		})
		return len(families) == 0
	})
	for _, families := range a.Open {
		for _, o := range families {
			o.resume()
		}
	}
}

// resume has the outage go on in another run, when that has seen that it does.
func (o *outageRecord) resume() {
	o.began, o.carried, o.resumed = time.Time{}, o.Outage.LengthS, true
	if o.LastSeen.IsZero() {
		o.LastSeen = o.Outage.Begin
	}
}

func orMap[M ~map[K]V, K comparable, V any](m, otherwise M) M {
	if m == nil {
		return otherwise
	}
	return m
}

func isFamily(name string) bool { return name == rules.IPv4.String() || name == rules.IPv6.String() }

// month names the month of a time, or that it is not known.
func monthOf(now time.Time) string {
	if now.Year() < firstYear {
		return unset
	}
	return now.Format(monthForm)
}

// of returns an uplink's record of the month, nil where there are too many.
func (a *availability) of(now time.Time, name string) *uplinkMonth {
	month := monthOf(now)
	uplinks := a.Months[month]
	if uplinks == nil {
		uplinks = make(map[string]*uplinkMonth)
		a.Months[month] = uplinks
		a.forget(month)
		a.reduce(month)
	}
	if month != unset {
		if _, known := a.Since[name]; !known && len(a.Since) < 4*mostUplinks {
			a.Since[name] = now.Round(0)
		}
		for unknown, u := range a.Months[unset] {
			uplinks[unknown] = u.plus(uplinks[unknown])
		}
		delete(a.Months, unset)
	}
	u := uplinks[name]
	if u == nil && len(uplinks) < mostUplinks {
		u = new(uplinkMonth)
		uplinks[name] = u
	}
	return u
}

// forget drops the oldest months that are more than kept; a month to come is of a clock that was wrong.
func (a *availability) forget(present string) {
	months := slices.Sorted(maps.Keys(a.Months)) // unset sorts last, and is not counted
	months = slices.DeleteFunc(months, func(m string) bool { return m == unset || m == present })
	for len(months) > keptMonths-1 {
		delete(a.Months, months[0])
		months = months[1:]
	}
	for name, at := range a.Since {
		if !slices.ContainsFunc(slices.Collect(maps.Values(a.Months)), func(m map[string]*uplinkMonth) bool { return m[name] != nil }) && at.Before(a.last.AddDate(0, -keptMonths, 0)) {
			delete(a.Since, name)
		}
	}
}

// reduce keeps of the times of months that are over no more than is told.
func (a *availability) reduce(present string) {
	for month, uplinks := range a.Months {
		if month == present || month == unset {
			continue
		}
		for _, u := range uplinks {
			for _, f := range u.Families {
				f.Times, f.RTT = f.times(), nil
			}
		}
	}
}

func (u *uplinkMonth) plus(o *uplinkMonth) *uplinkMonth {
	if o == nil {
		return u
	}
	o.Received, o.Sent = o.Received+u.Received, o.Sent+u.Sent
	o.FlowsOut, o.FlowsIn = o.FlowsOut+u.FlowsOut, o.FlowsIn+u.FlowsIn
	for name, f := range u.Families {
		to := o.family(name)
		to.Up, to.Down = to.Up+f.Up, to.Down+f.Down
		for i, n := range f.RTT {
			to.RTT[i] += n
		}
		if len(f.Times) > 0 {
			to.Times = f.Times
		}
	}
	return o
}

func (u *uplinkMonth) family(name string) *familyMonth {
	if u.Families == nil {
		u.Families = make(map[string]*familyMonth)
	}
	f := u.Families[name]
	if f == nil {
		f = new(familyMonth)
		u.Families[name] = f
	}
	if f.RTT == nil {
		f.RTT = make(map[int]int64)
	}
	return f
}

// sample takes the verdicts as they are now, a second or so after the last time, and what devices have moved since. Now has a monotonic reading,
// wall is the same by the clock. It returns outages that are found to be over: of an earlier run, and of uplinks that are gone.
func (a *availability) sample(now, wall time.Time, verdicts []status.PathVerdict, moved map[string]traffic) (over []outageRecord) {
	elapsed := 0.
	if !a.last.IsZero() {
		passed := now.Sub(a.last)
		elapsed = min(max(passed, 0), longestSample).Seconds()
		if step := wall.Sub(a.lastWall) - passed; step.Abs() >= clockStep {
			a.shift(step)
		}
	}
	a.last, a.lastWall = now, wall
	configured := make(map[string]bool, len(verdicts))
	for i := range verdicts {
		v := &verdicts[i]
		configured[v.Uplink+"/"+v.Family.String()] = true
		if !v.Current() {
			continue
		}
		family, down := v.Family.String(), v.Verdict.State == uplink.Down
		if o := a.Open[v.Uplink][family]; o != nil && o.began.IsZero() {
			if down {
				o.began = now
			} else {
				a.close(o, o.LastSeen.Time, false)
				over = append(over, *o)
			}
		}
		if u := a.of(wall, v.Uplink); u != nil {
			if f := u.family(family); down {
				f.Down += elapsed
			} else {
				f.Up += elapsed
			}
		}
	}
	for name, m := range moved {
		if u := a.of(wall, name); u != nil {
			u.Received, u.Sent = u.Received+int64(m.received), u.Sent+int64(m.sent)
		}
	}
	for name, families := range a.Open {
		for family, o := range families {
			if configured[name+"/"+family] {
				continue
			}
			if at := o.LastSeen.Time; o.began.IsZero() {
				a.close(o, at, false)
			} else {
				a.close(o, wall, false)
			}
			over = append(over, *o)
		}
	}
	return over
}

// flows takes what each uplink has had since the last time.
func (a *availability) flows(now time.Time, since map[string]rules.Flows) {
	for name, n := range since {
		if u := a.of(now, name); u != nil {
			u.FlowsOut, u.FlowsIn = u.FlowsOut+int64(n.Out), u.FlowsIn+int64(n.In)
		}
	}
}

// shift has outages that last begin when they did by the clock that was set right.
func (a *availability) shift(step time.Duration) {
	for _, families := range a.Open {
		for _, o := range families {
			if !o.resumed {
				o.Outage.Begin.Time = o.Outage.Begin.Add(step)
			}
		}
	}
}

// transition takes a changed verdict. It returns the outage that has begun or is over by it, nil for none.
func (a *availability) transition(t *uplink.Transition, common bool) *outageRecord {
	family := t.Family.String()
	o := a.Open[t.Uplink][family]
	switch {
	case t.To == uplink.Down && o == nil:
		o = &outageRecord{ID: t.At.UnixNano(), Uplink: t.Uplink, Family: family, began: t.At, Outage: status.Outage{Begin: status.At(t.At.Round(0).Truncate(time.Millisecond)), Code: string(t.Reason.Code),
			Cause: t.Reason.Text, Common: common, Evidence: slices.Clone(t.Evidence)}}
		if a.Open[t.Uplink] == nil {
			a.Open[t.Uplink] = make(map[string]*outageRecord)
		}
		a.Open[t.Uplink][family] = o
	case t.To == uplink.Down || o == nil:
		return nil
	case o.began.IsZero(): // of an earlier run, of which this one has seen nothing
		a.close(o, o.LastSeen.Time, false)
	default:
		a.close(o, t.At, true)
	}
	return o
}

// close ends an outage.
func (a *availability) close(o *outageRecord, at time.Time, seen bool) {
	o.Outage.LengthS = o.length(at)
	o.Outage.EndSeen = seen
	o.Outage.End = status.At(at.Round(0))
	if shortest := o.Outage.Begin.Add(time.Duration(o.Outage.LengthS * float64(time.Second))); !o.resumed && seen || at.Before(shortest) {
		o.Outage.End = status.At(shortest) // whatever the clock does
	}
	o.LastSeen = status.Time{}
	delete(a.Open[o.Uplink], o.Family)
	if len(a.Open[o.Uplink]) == 0 {
		delete(a.Open, o.Uplink)
	}
}

// length returns the seconds that were seen of an outage.
func (o *outageRecord) length(now time.Time) float64 {
	if o.began.IsZero() {
		return o.carried
	}
	return o.carried + max(now.Sub(o.began).Seconds(), 0)
}

// rtt takes the time of an answer.
func (a *availability) rtt(now time.Time, name string, family rules.Family, rtt time.Duration) {
	u := a.of(now, name)
	if u == nil || rtt <= 0 {
		return
	}
	i := int(math.Round(math.Log(float64(rtt)/float64(rttUnit)) / math.Log(rttBase)))
	u.family(family.String()).RTT[min(max(i, 0), rttBuckets-1)]++
}

// times returns the percentiles; zeros without answers.
func (f *familyMonth) times() []status.Millis {
	if len(f.RTT) == 0 && len(f.Times) == len(percentiles) {
		return f.Times
	}
	total := int64(0)
	for _, n := range f.RTT {
		total += n
	}
	list := make([]status.Millis, len(percentiles))
	buckets := slices.Sorted(maps.Keys(f.RTT))
	for at, part := range percentiles {
		rest := int64(math.Ceil(part * float64(total)))
		for _, i := range buckets {
			if rest -= f.RTT[i]; rest <= 0 && total > 0 {
				list[at] = status.Milliseconds(time.Duration(float64(rttUnit) * math.Pow(rttBase, float64(i))))
				break
			}
		}
	}
	return list
}

// saved returns what is to be kept, as it is now.
func (a *availability) saved(now time.Time) availability {
	out := newAvailability()
	for month, uplinks := range a.Months {
		out.Months[month] = make(map[string]*uplinkMonth, len(uplinks))
		for name, u := range uplinks {
			out.Months[month][name] = u.plus(new(uplinkMonth))
		}
	}
	maps.Copy(out.Since, a.Since)
	for name, families := range a.Open {
		out.Open[name] = make(map[string]*outageRecord, len(families))
		for family, o := range families {
			kept := *o
			kept.Outage.LengthS = o.length(now)
			if !o.began.IsZero() {
				kept.LastSeen = status.At(now.Round(0))
			}
			out.Open[name][family] = &kept
		}
	}
	return out
}

// report tells of a month; past are the outages that are over.
func (a *availability) report(month string, now time.Time, past []outageRecord) (status.Report, bool) {
	begin, err := time.ParseInLocation(monthForm, month, now.Location())
	if err != nil || begin.Format(monthForm) != month {
		return status.Report{}, false
	}
	end := begin.AddDate(0, 1, 0)
	if now.Before(end) {
		end = now
	}
	r := status.Report{Month: month, Until: status.At(end)}
	for m := range a.Months {
		if m != unset {
			r.Months = append(r.Months, m)
		}
	}
	slices.SortFunc(r.Months, func(a, b string) int { return cmp.Compare(b, a) })
	for _, families := range a.Open {
		for _, o := range families {
			lasts := *o
			lasts.Outage.LengthS = o.length(now)
			past = append(past, lasts)
		}
	}
	past = slices.DeleteFunc(past, func(o outageRecord) bool {
		return !o.Outage.Begin.Before(end) || !o.Outage.End.IsZero() && !o.Outage.End.After(begin)
	})
	slices.SortStableFunc(past, func(x, y outageRecord) int { return x.Outage.Begin.Compare(y.Outage.Begin.Time) })
	families := a.familiesIn(month, past)
	for _, name := range slices.Sorted(maps.Keys(families)) {
		u := cmp.Or(a.Months[month][name], new(uplinkMonth))
		since := begin
		if at, known := a.Since[name]; known && at.After(since) {
			since = at
		}
		out := status.ReportedUplink{Name: name, ReceivedBytes: u.Received, SentBytes: u.Sent, FlowsOut: u.FlowsOut, FlowsIn: u.FlowsIn}
		for _, family := range slices.Sorted(maps.Keys(families[name])) {
			f := cmp.Or(u.Families[family], new(familyMonth))
			times := f.times()
			rf := status.ReportedFamily{Family: family, UpS: int64(math.Round(f.Up)), DownS: int64(math.Round(f.Down)), RTTp50ms: times[0], RTTp95ms: times[1], RTTp99ms: times[2]}
			rf.UnwatchedS = max(int64(end.Sub(since).Seconds())-rf.UpS-rf.DownS, 0)
			if seen := f.Up + f.Down; seen > 0 {
				part := f.Up / seen
				rf.Availability = &part
			}
			var before outageRecord
			for _, o := range past {
				twice := o.Uplink == before.Uplink && o.Family == before.Family && o.ID == before.ID
				if o.Uplink == name && o.Family == family && !twice {
					rf.Outages = append(rf.Outages, o.Outage)
					before = o
				}
			}
			out.Families = append(out.Families, rf)
		}
		r.Uplinks = append(r.Uplinks, out)
	}
	return r, true
}

// familiesIn are those that were sampled in a month, by uplink name, and those of its outages: the log has these when the daemon was killed
// before it wrote down anything else.
func (a *availability) familiesIn(month string, outages []outageRecord) map[string]map[string]bool {
	families := make(map[string]map[string]bool)
	for name, u := range a.Months[month] {
		families[name] = make(map[string]bool)
		for family := range u.Families {
			families[name][family] = true
		}
	}
	for _, o := range outages {
		if families[o.Uplink] == nil {
			families[o.Uplink] = make(map[string]bool)
		}
		families[o.Uplink][o.Family] = true
	}
	return families
}
