package usage

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// watch is a record of one path, a clock that may be set, and what a disk holds.
type watch struct {
	availability
	now   time.Time
	state uplink.State
	code  uplink.Code
	past  []outageRecord
	set   time.Duration // what the clock is wrong by
}

func newWatch(at time.Time) *watch {
	return &watch{availability: newAvailability(), now: at, state: uplink.Up, code: uplink.CodeAnswer}
}

// pass lets seconds pass, with a sample in each.
func (w *watch) pass(seconds int) {
	for range seconds {
		w.now = w.now.Add(time.Second)
		w.past = append(w.past, w.sample(w.now, w.now.Add(w.set), []status.PathVerdict{{Uplink: "fiber", Family: rules.IPv4,
			Verdict: uplink.Verdict{State: w.state, Reason: uplink.Reason{Code: w.code}, Requests: 9}}}, map[string]traffic{"fiber": {10, 1}})...)
	}
}

func (w *watch) turn(to uplink.State) {
	from := w.state
	w.state, w.code = to, uplink.CodeSilence
	o := w.transition(&uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: from, To: to, Reason: uplink.Reason{Code: w.code, Text: "silent"}, Evidence: []string{"a target"}, At: w.now}, false)
	if o != nil && !o.Outage.End.IsZero() {
		w.past = append(w.past, *o)
	}
}

// restart keeps what the disk has, and knows nothing until the first sample.
func (w *watch) restart(t fatal, away time.Duration, document []byte) {
	w.now = w.now.Add(away)
	var read availability
	if err := json.Unmarshal(document, &read); err != nil {
		t.Fatal(err)
	}
	read.tidy()
	w.availability = read
}

type fatal interface{ Fatal(...any) }

func (w *watch) document(t fatal) []byte {
	b, err := json.Marshal(w.saved(w.now))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *watch) told(month string) status.ReportedFamily {
	r, _ := w.report(month, w.now, slices.Clone(w.past))
	for _, u := range r.Uplinks {
		if u.Name == "fiber" && len(u.Families) > 0 {
			return u.Families[0]
		}
	}
	return status.ReportedFamily{}
}

func TestOutagesAndAvailabilityAreTold(t *testing.T) {
	type outage struct {
		begin, end time.Duration // since noon; -1: lasts
		length     float64
		seen       bool
	}
	for name, c := range map[string]struct {
		do                  func(*testing.T, *watch)
		up, down, unwatched int64
		want                []outage
	}{
		"all is well": {func(_ *testing.T, w *watch) { w.pass(100) }, 99, 0, 0, nil},
		"one outage": {func(_ *testing.T, w *watch) {
			w.pass(10)
			w.turn(uplink.Down)
			w.pass(30)
			w.turn(uplink.Recovering)
			w.pass(10)
		},
			19, 30, 0, []outage{{10 * time.Second, 40 * time.Second, 30, true}}},
		"one between two samples": {func(_ *testing.T, w *watch) {
			w.pass(10)
			w.turn(uplink.Down)
			w.now = w.now.Add(300 * time.Millisecond)
			w.turn(uplink.Recovering)
			w.pass(10)
		},
			19, 0, 0, []outage{{10 * time.Second, 10300 * time.Millisecond, 0.3, true}}},
		"one that lasts":          {func(_ *testing.T, w *watch) { w.pass(10); w.turn(uplink.Down); w.pass(30) }, 9, 30, 0, []outage{{10 * time.Second, -1, 30, false}}},
		"suspicion is none":       {func(_ *testing.T, w *watch) { w.pass(10); w.turn(uplink.Suspect); w.pass(30) }, 39, 0, 0, nil},
		"nothing is known yet":    {func(_ *testing.T, w *watch) { w.state = uplink.Init; w.pass(50); w.turn(uplink.Up); w.pass(10) }, 10, 0, 49, nil},
		"the daemon does not run": {func(t *testing.T, w *watch) { w.pass(10); w.restart(t, time.Hour, w.document(t)); w.pass(10) }, 18, 0, 3602, nil},
		"the daemon hangs":        {func(_ *testing.T, w *watch) { w.pass(10); w.now = w.now.Add(time.Minute); w.pass(10) }, 23, 0, 56, nil},
		"a restart in an outage": {func(t *testing.T, w *watch) {
			w.pass(10)
			w.turn(uplink.Down)
			w.pass(30)
			w.restart(t, time.Minute, w.document(t))
			w.pass(20)
			w.turn(uplink.Recovering)
		}, 9, 49, 62, []outage{{10 * time.Second, 120 * time.Second, 49, true}}},
		"an outage that ends while the daemon does not run": {func(t *testing.T, w *watch) {
			w.pass(10)
			w.turn(uplink.Down)
			w.pass(30)
			w.restart(t, time.Minute, w.document(t))
			w.state = uplink.Up
			w.pass(20)
		}, 28, 30, 62, []outage{{10 * time.Second, 40 * time.Second, 30, false}}},
		"a verdict of an earlier run counts when it is one of this": {func(t *testing.T, w *watch) {
			w.pass(10)
			w.code = uplink.CodeRestart
			for range 20 {
				w.now = w.now.Add(time.Second)
				w.sample(w.now, w.now, []status.PathVerdict{{Uplink: "fiber", Verdict: uplink.Verdict{State: uplink.Up, Reason: uplink.Reason{Code: uplink.CodeRestart}, Requests: 3}}}, nil)
			}
			w.pass(5)
		}, 14, 0, 20, nil},
		"killed, with a document that is older": {func(t *testing.T, w *watch) {
			w.pass(10)
			old := w.document(t)
			w.pass(300)
			w.restart(t, time.Minute, old)
			w.pass(11)
		}, 19, 0, 361, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(noon)
			c.do(t, w)
			got := w.told("2026-11")
			since := w.Since["fiber"].Sub(noon)
			if got.UpS != c.up || got.DownS != c.down || got.UnwatchedS < c.unwatched-1 || got.UnwatchedS > c.unwatched+1 || len(got.Outages) != len(c.want) {
				t.Fatalf("since %v: %+v, want up %d, down %d, not seen %d, and %d outages", since, got, c.up, c.down, c.unwatched, len(c.want))
			}
			for i, o := range got.Outages {
				want := c.want[i]
				ends := o.End.IsZero() == (want.end < 0) && (want.end < 0 || o.End.Equal(noon.Add(want.end)))
				if !o.Begin.Equal(noon.Add(want.begin)) || !ends || math.Abs(o.LengthS-want.length) > 1e-6 || o.EndSeen != want.seen || o.Code != "silence" || o.Cause != "silent" || len(o.Evidence) != 1 {
					t.Errorf("%+v, want %+v", o, want)
				}
			}
		})
	}
}

// A clock that is set changes when an outage was, and not how long.
// The log of outages is written at once, the rest now and then: after a kill it is all that there is.
func TestOutagesAreToldBeforeAnythingIsSeenAgain(t *testing.T) {
	w := newWatch(time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC))
	w.pass(60)
	w.turn(uplink.Down)
	w.pass(30)
	w.turn(uplink.Up)
	killed := newAvailability()
	for month, want := range map[string]int{"2026-11": 1, "2026-10": 0, "2026-12": 0} {
		report, ok := killed.report(month, w.now, slices.Clone(w.past))
		if !ok || len(report.Uplinks) != want || want == 1 && (len(report.Uplinks[0].Families) != 1 || len(report.Uplinks[0].Families[0].Outages) != 1) {
			t.Errorf("%s: %+v", month, report)
		}
	}
}

func TestAClockThatIsSetChangesNoLength(t *testing.T) {
	for _, step := range []time.Duration{-40 * time.Minute, 3 * time.Hour, 700 * time.Millisecond} {
		w := newWatch(noon)
		w.pass(10)
		w.turn(uplink.Down)
		w.pass(20)
		w.set = step
		w.pass(20)
		w.turn(uplink.Recovering)
		w.pass(5)
		r, _ := w.report("2026-11", w.now.Add(4*time.Hour), w.past)
		f := r.Uplinks[0].Families[0]
		began := noon.Add(10 * time.Second)
		if step.Abs() >= clockStep {
			began = began.Add(step)
		}
		if len(f.Outages) != 1 || f.DownS != 40 || f.UpS != 14 || f.Outages[0].LengthS != 40 || !f.Outages[0].Begin.Equal(began) || f.Outages[0].End.Sub(began) != 40*time.Second {
			t.Errorf("set by %v: %+v", step, f)
		}
	}
}

func TestTheOutageOfAnUplinkThatIsRemovedEnds(t *testing.T) {
	w := newWatch(noon)
	w.pass(10)
	w.turn(uplink.Down)
	w.pass(20)
	over := w.sample(w.now.Add(time.Second), w.now.Add(time.Second), nil, nil)
	if len(over) != 1 || over[0].Outage.EndSeen || over[0].Outage.End.IsZero() || len(w.Open) != 0 {
		t.Errorf("%+v, %+v", over, w.Open)
	}
}

func TestWhatIsSeenBeforeTheClockIsSetIsOfTheMonthInWhichItIs(t *testing.T) {
	w := newWatch(time.Date(1970, 1, 1, 0, 0, 5, 0, time.UTC))
	w.pass(100)
	if r, _ := w.report("1970-01", w.now, nil); len(r.Uplinks) != 0 || len(r.Months) != 0 {
		t.Errorf("a report of 1970: %+v", r)
	}
	w.now = noon
	w.pass(10)
	if got := w.told("2026-11"); got.UpS < 109 || got.UpS > 115 {
		t.Errorf("%+v", got)
	}
	if len(w.Months) != 1 {
		t.Errorf("%d months", len(w.Months))
	}
}

func TestPercentilesAreWithinFivePercent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAvailability()
		var all []float64
		for range rapid.IntRange(1, 400).Draw(t, "answers") {
			ms := rapid.Float64Range(0.1, 9000).Draw(t, "ms")
			all = append(all, ms)
			a.rtt(noon, "fiber", rules.IPv4, time.Duration(ms*float64(time.Millisecond)))
		}
		slices.Sort(all)
		check := func() {
			r, _ := a.report("2026-11", noon, nil)
			f := r.Uplinks[0].Families[0]
			for part, got := range map[float64]status.Millis{0.5: f.RTTp50ms, 0.95: f.RTTp95ms, 0.99: f.RTTp99ms} {
				want := all[int(math.Ceil(part*float64(len(all))))-1]
				if ratio := float64(got) / want; ratio < 0.945 || ratio > 1.055 {
					t.Errorf("%v of the answers are within %v ms, want %v", part, got, want)
				}
			}
		}
		check()
		a.of(noon.AddDate(0, 1, 0), "fiber") // the next month keeps no more than is told
		if f := a.Months["2026-11"]["fiber"].Families["ipv4"]; len(f.RTT) != 0 {
			t.Errorf("%d buckets are kept", len(f.RTT))
		}
		check()
	})
}

// Whatever happens, what is told is no more than the time that passed, outages do not overlap, and all survives the disk.
func TestTheReportAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWatch(noon)
		disk := w.document(t)
		watchedFor := 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1, 2:
				n := rapid.IntRange(1, 300).Draw(t, "seconds")
				w.pass(n)
				watchedFor += n
			case 3, 4:
				w.turn(rapid.SampledFrom([]uplink.State{uplink.Up, uplink.Down, uplink.Suspect, uplink.Recovering, uplink.Init}).Draw(t, "verdict"))
				if len(w.past) > 0 || len(w.Open) > 0 {
					disk = w.document(t) // transitions are written
				}
			case 5:
				disk = w.document(t)
			case 6:
				w.restart(t, time.Duration(rapid.IntRange(0, 86400).Draw(t, "away"))*time.Second, disk)
			}
		}
		for _, month := range []string{"2026-11", "2026-12"} {
			r, ok := w.report(month, w.now, slices.Clone(w.past))
			if !ok {
				t.Fatal("no report")
			}
			for _, u := range r.Uplinks {
				for _, f := range u.Families {
					if f.UpS+f.DownS > int64(watchedFor)+1 || f.UpS < 0 || f.DownS < 0 || f.UnwatchedS < 0 || u.ReceivedBytes > int64(10*watchedFor) {
						t.Errorf("%+v of %d seconds", u, watchedFor)
					}
					if f.Availability != nil && (*f.Availability < 0 || *f.Availability > 1) {
						t.Errorf("availability %v", *f.Availability)
					}
					for i, o := range f.Outages {
						if o.LengthS < 0 || !o.End.IsZero() && o.End.Before(o.Begin.Time) || o.End.IsZero() && i != len(f.Outages)-1 {
							t.Errorf("%+v", o)
						}
						if i > 0 && o.Begin.Before(f.Outages[i-1].End.Time) {
							t.Errorf("%+v begins before %+v is over", o, f.Outages[i-1])
						}
						if !o.End.IsZero() && o.LengthS > o.End.Sub(o.Begin.Time).Seconds()+0.001 {
							t.Errorf("%+v is longer than it lasted", o)
						}
					}
				}
			}
		}
	})
}

func TestMonthsAreBounded(t *testing.T) {
	a := newAvailability()
	for month := range 60 {
		at := time.Date(2026, time.Month(1+month), 3, 0, 0, 0, 0, time.UTC)
		for n := range 200 {
			a.of(at, string(rune('a'+n%26))+string(rune('a'+n/26)))
		}
		a.last = at
	}
	if len(a.Months) != keptMonths {
		t.Errorf("%d months", len(a.Months))
	}
	for month, uplinks := range a.Months {
		if len(uplinks) > mostUplinks {
			t.Errorf("%d uplinks in %s", len(uplinks), month)
		}
	}
	if a.Months["2030-12"] == nil || a.Months["2028-11"] != nil {
		t.Error("not the latest months are kept")
	}
}

func TestDamagedAvailabilityIsTidied(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"months":{"2026-11":null,"2026-13":{},"x":{"fiber":{}}},"open":{"fiber":null}}`,
		`{"months":{"2026-11":{"fiber":null,"lte":{"received":-1},"dsl":{"families":{"ipv4":null,"ipv9":{},"ipv6":{"up_s":-1,"rtt":{"-5":1,"9999":1,"3":-1}}}}}}}`,
		`{"months":{"2026-11":{"dsl":{"families":{"ipv4":{"up_s":1e300}}}}},"open":{"fiber":{"ipv4":null,"ipv6":{"uplink":"x"}}}}`,
	} {
		var a availability
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		a.tidy()
		w := &watch{availability: a, now: noon, state: uplink.Up, code: uplink.CodeAnswer}
		w.pass(10)
		w.turn(uplink.Down)
		w.pass(10)
		if got := w.told("2026-11"); got.UpS != 9 || got.DownS != 10 || len(got.Outages) != 1 {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// disk is an OutageLog.
type disk struct {
	lines   []json.RawMessage
	damaged error
}

func (d *disk) Append(values ...any) {
	for _, v := range values {
		line, _ := json.Marshal(v)
		d.lines = append(d.lines, line)
	}
}

func (d *disk) Load(each func(json.RawMessage)) error {
	for _, line := range d.lines {
		each(line)
	}
	return d.damaged
}

// A log that is a socket, say, is told of at the start; the meter works on.
func TestALogThatCannotBeReadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, told := &disk{damaged: errors.New("outages.log is a socket")}, make(chan error, 1)
		m := New(Options{Log: slog.New(slog.DiscardHandler), Outages: log, OnDamaged: func(err error) { told <- err },
			Counters: func(map[int]counters.Device) (time.Time, error) { return time.Now(), nil }, Devices: func() map[string]int { return nil },
			Verdicts: func() []status.PathVerdict { return nil }, Save: func(string, func() any) {}, Flows: func() (map[string]rules.Flows, error) { return nil, nil }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := <-told; !errors.Is(err, log.damaged) {
			t.Errorf("told: %v", err)
		}
	})
}

// The daemon is killed after the log has an outage, and before the document that it lasts is replaced.
func TestAnOutageIsToldOnceWhateverWasWritten(t *testing.T) {
	kept := make(map[string][]byte)
	log := &disk{}
	dead := false
	start := func() *Meter {
		m := New(Options{Log: slog.New(slog.DiscardHandler), Outages: log, Flows: func() (map[string]rules.Flows, error) { return nil, nil }, Save: func(document string, read func() any) {
			if !dead {
				kept[document], _ = json.Marshal(read())
			}
		}})
		for name, v := range m.Documents() {
			if text := kept[name]; text != nil {
				if err := json.Unmarshal(text, v); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.Configure(&config.Config{Uplinks: []config.Uplink{{Name: "fiber"}}})
		if err := m.resume(); err != nil {
			t.Error(err)
		}
		return m
	}
	sample := func(m *Meter, state uplink.State) {
		m.watch(time.Now(), []status.PathVerdict{{Uplink: "fiber", Family: rules.IPv4, Common: true, Verdict: uplink.Verdict{State: state}}}, nil)
	}
	m := start()
	sample(m, uplink.Up)
	m.Transition(uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: uplink.Suspect, To: uplink.Down, At: time.Now()})
	dead = true
	m.Transition(uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: uplink.Down, To: uplink.Recovering, At: time.Now()})
	if len(log.lines) != 2 { // its begin, and its end
		t.Fatalf("%s", log.lines)
	}
	dead = false
	m = start()
	sample(m, uplink.Up)
	r, ok := m.Report("")
	if !ok || len(r.Uplinks) != 1 || len(r.Uplinks[0].Families) != 1 || len(r.Uplinks[0].Families[0].Outages) != 1 || len(log.lines) != 2 {
		t.Fatalf("%+v, %s", r, log.lines)
	}
	if o := r.Uplinks[0].Families[0].Outages[0]; !o.EndSeen || !o.Common {
		t.Errorf("%+v", o)
	}
	// Killed within an outage, of which the document knows nothing.
	dead = true
	m.Transition(uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: uplink.Suspect, To: uplink.Down, At: time.Now()})
	dead = false
	m = start()
	if r, _ := m.Report(""); len(r.Uplinks) == 1 && !r.Uplinks[0].Families[0].Outages[1].End.IsZero() {
		t.Errorf("%+v", r)
	}
	sample(m, uplink.Up)
	if r, _ := m.Report(""); len(r.Uplinks) != 1 || len(r.Uplinks[0].Families[0].Outages) != 2 || r.Uplinks[0].Families[0].Outages[1].EndSeen || r.Uplinks[0].Families[0].Outages[1].End.IsZero() {
		t.Errorf("%+v", r)
	}
	if _, ok := m.Report("2026-1"); ok {
		t.Error("2026-1 is no month")
	}
}

// Readings go on over the tables that are counted in, and what was counted before the daemon began is none of its business.
func TestFlowsAreCountedOnce(t *testing.T) {
	now, broken := map[string]rules.Flows{"fiber": {Out: 1000, In: 7}}, error(nil)
	m := New(Options{Log: slog.New(slog.DiscardHandler), Flows: func() (map[string]rules.Flows, error) { return now, broken }})
	m.Configure(&config.Config{Uplinks: []config.Uplink{{Name: "fiber"}, {Name: "lte"}}})
	m.countFlows()
	for _, step := range []struct {
		reading map[string]rules.Flows
		broken  error
		want    map[string]rules.Flows
	}{
		{reading: map[string]rules.Flows{"fiber": {Out: 1003, In: 7}}, want: map[string]rules.Flows{"fiber": {Out: 3}}},
		{reading: map[string]rules.Flows{"fiber": {Out: 1003, In: 9}, "lte": {Out: 5}}, want: map[string]rules.Flows{"fiber": {Out: 3, In: 2}, "lte": {Out: 5}}}, // which is new
		{broken: errors.New("no buffers"), want: map[string]rules.Flows{"fiber": {Out: 3, In: 2}, "lte": {Out: 5}}},
		{reading: map[string]rules.Flows{"fiber": {Out: 1004, In: 9}, "lte": {Out: 5}}, want: map[string]rules.Flows{"fiber": {Out: 4, In: 2}, "lte": {Out: 5}}},
	} {
		now, broken = step.reading, step.broken
		r, ok := m.Report("")
		got := make(map[string]rules.Flows)
		for _, u := range r.Uplinks {
			got[u.Name] = rules.Flows{Out: uint64(u.FlowsOut), In: uint64(u.FlowsIn)}
		}
		if diff := cmp.Diff(step.want, got); !ok || diff != "" {
			t.Errorf("after %v (-want +got):\n%s", step.reading, diff)
		}
	}
}
