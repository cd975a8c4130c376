package uplink

import (
	"math"
	"testing"
	"time"
)

func TestCongestionIsWhatOurOwnTrafficMakes(t *testing.T) {
	const ms = time.Millisecond
	type span struct {
		seconds int
		mbit    float64 // received
		rtt     time.Duration
		up      float64 // Mbit/s sent
	}
	for name, c := range map[string]struct {
		spans []span
		want  bool // at the end
	}{
		"an idle line":                                        {[]span{{60, 0.01, 12 * ms, 0}}, false},
		"a full line with a queue":                            {[]span{{60, 0.01, 12 * ms, 0}, {5, 9.5, 120 * ms, 0}}, true},
		"for a moment only":                                   {[]span{{60, 0.01, 12 * ms, 0}, {1, 9.5, 120 * ms, 0}}, false},
		"a full line without a queue":                         {[]span{{60, 0.01, 12 * ms, 0}, {60, 9.5, 16 * ms, 0}}, false},
		"a slow provider":                                     {[]span{{60, 0.01, 12 * ms, 0}, {60, 0.05, 120 * ms, 0}}, false},
		"a slow provider under light load":                    {[]span{{60, 9.5, 12 * ms, 0}, {60, 2, 120 * ms, 0}}, false},
		"a queue that drains":                                 {[]span{{60, 0.01, 12 * ms, 0}, {30, 9.5, 120 * ms, 0}, {10, 0.1, 12 * ms, 0}}, false},
		"a pause of the download":                             {[]span{{60, 0.01, 12 * ms, 0}, {30, 9.5, 120 * ms, 0}, {3, 0.1, 40 * ms, 0}}, true},
		"a line that got slower long ago":                     {[]span{{60, 9.5, 12 * ms, 0}, {2400, 0.01, 12 * ms, 0}, {20, 2, 300 * ms, 0}}, true},
		"a route that got longer for good":                    {[]span{{60, 9.5, 12 * ms, 0}, {9000, 9.5, 80 * ms, 0}}, false},
		"an upload of an hour":                                {[]span{{60, 0.01, 12 * ms, 0}, {3600, 0.1, 2000 * ms, 2}}, true},
		"an upload by a line that downloads 25 times as fast": {[]span{{60, 50, 20 * ms, 1}, {60, 0.01, 12 * ms, 0}, {5, 0.1, 2000 * ms, 2}}, true},
		"an upload that first fills the modem's queue":        {[]span{{60, 0.01, 12 * ms, 0}, {2, 0.1, 300 * ms, 20}, {60, 0.1, 2000 * ms, 2}}, true},
		"a satellite, of which 700 ms is all":                 {[]span{{60, 0.01, 700 * ms, 0}, {30, 20, 900 * ms, 0}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g Congestion
			now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
			for _, s := range c.spans {
				for range s.seconds {
					now = now.Add(time.Second)
					g.Load(Load{s.mbit * 1e6, s.up * 1e6}, now)
					g.Times(s.rtt, now, now)
				}
			}
			if g.Congested() != c.want || (g.Reason() != "") != c.want {
				t.Errorf("congested: %v (%q), want %v", g.Congested(), g.Reason(), c.want)
			}
		})
	}
}

// A modem's queue takes more than the line carries. Whether it did only a probe can tell that was sent afterwards.
func TestWhatFillsAQueueIsNotWhatTheLineCarries(t *testing.T) {
	begin := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for name, answer := range map[string]func(at time.Time) (rtt time.Duration, sent time.Time){ // while the queue fills
		"answered late":               func(at time.Time) (time.Duration, time.Time) { return 300 * ms, at },
		"asked before":                func(at time.Time) (time.Duration, time.Time) { return 12 * ms, at.Add(-1001 * ms) },
		"of a target not asked since": func(time.Time) (time.Duration, time.Time) { return 12 * ms, begin },
	} {
		var g Congestion
		now := begin
		pass := func(seconds int, bits float64, answer func(at time.Time) (time.Duration, time.Time)) {
			for range seconds {
				now = now.Add(time.Second)
				g.Load(Load{Sent: bits}, now)
				rtt, sent := answer(now)
				g.Times(rtt, sent, now.Add(900*ms))
			}
		}
		pass(5, 1e4, func(at time.Time) (time.Duration, time.Time) { return 12 * ms, at })
		pass(2, 4e6, answer)
		pass(4, 2e6, func(at time.Time) (time.Duration, time.Time) { return 500 * ms, at })
		if !g.Congested() {
			t.Errorf("%s: %v of %v bits a second is no load", name, g.sent.load, g.sent.peak)
		}
	}
}

// A queue that has drained before the next probe has drained in that time.
func TestAShortUploadIsNotMoreThanTheLineCarries(t *testing.T) {
	const line = 2e6
	for percent := 110; percent < 195; percent += 5 {
		over := float64(percent) / 100 // of a second's worth of the line, in one second
		for phase := time.Duration((over - 1) * float64(time.Second)); phase < time.Second; phase += 50 * ms {
			var g Congestion
			now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
			pass := func(seconds int, bits float64, rtt time.Duration) {
				for range seconds {
					now = now.Add(time.Second)
					g.Load(Load{Sent: bits}, now)
					g.Times(rtt, now.Add(phase), now.Add(phase+rtt))
				}
			}
			pass(60, 1e4, 12*ms)
			pass(1, over*line, 12*ms)
			pass(2, 1e4, 12*ms)
			if g.sent.peak > 1.01*line {
				t.Fatalf("%v of the line's second, the next probe %v after it: a peak of %v", over, phase, g.sent.peak)
			}
			if pass(5, line, 500*ms); !g.Congested() {
				t.Fatalf("%v of the line's second, the next probe %v after it: a full line is no load", over, phase)
			}
		}
	}
}

// The nearest target is asked in its turn only. What its time was before says nothing about a queue of since.
func TestEvaluatorTheNearestTargetTellsOfItsOwnProbesOnly(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	e := NewEvaluator(WatcherConfig{Targets: targets(t, 2)}, now)
	e.SetLink(Link{Carrier: true, HasAddress: true, HasGateway: true}, now)
	e.Begin(now)
	answered := func(target int, rtt time.Duration) {
		id := e.Sent(target, now)
		now = now.Add(rtt)
		e.Reply(id, now, rtt)
	}
	answered(0, 10*ms)
	answered(1, 40*ms)
	now = now.Add(time.Second)
	e.Load(Load{Sent: 4e6}, now)
	answered(1, 800*ms)
	if peak := e.fsm.quality.congestion.sent.peak; peak != 0 {
		t.Errorf("the line is taken to carry %v bits a second", peak)
	}
	answered(0, 10*ms)
	now = now.Add(190 * ms)
	e.Load(Load{Sent: 4e6}, now)
	if peak := e.fsm.quality.congestion.sent.peak; math.Abs(peak-4e6) > 1e4 {
		t.Errorf("and %v when there was no queue", peak)
	}
}

// Of a line that takes as long as a window of the load, the answers still tell of the load before their probes.
func TestALongLineHasAPeak(t *testing.T) {
	for _, rtt := range []time.Duration{5 * ms, 600 * ms, 1400 * ms} {
		for phase := time.Duration(0); phase < time.Second; phase += 50 * ms {
			var g Congestion
			begin := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
			load := begin
			for i := range 60 {
				answered := begin.Add(time.Duration(i)*time.Second + phase)
				for ; !load.After(answered); load = load.Add(time.Second) {
					g.Load(Load{Sent: 8e6}, load)
				}
				g.Times(rtt, answered.Add(-rtt), answered)
			}
			if g.sent.peak < 7e6 {
				t.Errorf("RTT %v, probes %v after loads: a peak of %v", rtt, phase, g.sent.peak)
			}
		}
	}
}
