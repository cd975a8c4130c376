package uplink

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
)

var (
	noon  = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	pathA = rules.Path{Uplink: 1, Family: rules.IPv4}
	pathB = rules.Path{Uplink: 2, Family: rules.IPv4}
)

func TestTheFastestIsUsedAndKept(t *testing.T) {
	const ms = time.Millisecond
	type span struct {
		seconds   int
		a, b      time.Duration // 0: not known; negative: no contender
		congested bool          // a
	}
	for name, c := range map[string]struct {
		spans []span
		want  rules.Path // at the end
		moves int        // after the first choice
	}{
		"nobody has answered":                        {[]span{{5, 0, 0, false}}, rules.Path{}, 0},
		"the first to be known waits for the other":  {[]span{{5, 0, 40 * ms, false}}, rules.Path{}, 0},
		"but not for long":                           {[]span{{11, 0, 40 * ms, false}}, pathB, 0},
		"the faster one":                             {[]span{{1, 40 * ms, 15 * ms, false}}, pathB, 0},
		"equals":                                     {[]span{{600, 20 * ms, 20 * ms, false}}, pathA, 0},
		"a little faster is not enough":              {[]span{{10, 20 * ms, 21 * ms, false}, {3600, 24 * ms, 20 * ms, false}}, pathA, 0},
		"a fifth of a long time is not enough":       {[]span{{10, 300 * ms, 310 * ms, false}, {3600, 300 * ms, 250 * ms, false}}, pathA, 0},
		"clearly faster, for a moment":               {[]span{{10, 20 * ms, 30 * ms, false}, {30, 90 * ms, 30 * ms, false}, {300, 20 * ms, 30 * ms, false}}, pathA, 0},
		"clearly faster, for minutes":                {[]span{{10, 20 * ms, 30 * ms, false}, {180, 90 * ms, 30 * ms, false}}, pathB, 1},
		"slow by its own traffic":                    {[]span{{10, 20 * ms, 30 * ms, false}, {3600, 900 * ms, 30 * ms, true}}, pathA, 0},
		"it comes back once":                         {[]span{{10, 20 * ms, 30 * ms, false}, {300, 90 * ms, 30 * ms, false}, {1200, 20 * ms, 30 * ms, false}}, pathA, 2},
		"but not soon":                               {[]span{{10, 20 * ms, 30 * ms, false}, {300, 90 * ms, 30 * ms, false}, {300, 20 * ms, 30 * ms, false}}, pathB, 1},
		"one that is gone is left at once":           {[]span{{10, 20 * ms, 30 * ms, false}, {1, -1, 30 * ms, false}}, pathB, 1},
		"what comes back is measured before":         {[]span{{10, 20 * ms, 40 * ms, false}, {10, -1, 40 * ms, false}, {30, 20 * ms, 40 * ms, false}}, pathB, 1},
		"and is used again":                          {[]span{{10, 20 * ms, 40 * ms, false}, {10, -1, 40 * ms, false}, {65, 20 * ms, 40 * ms, false}}, pathA, 2},
		"nobody is left":                             {[]span{{10, 20 * ms, 40 * ms, false}, {1, -1, -1, false}}, rules.Path{}, 1},
		"one whose time is not known any more stays": {[]span{{10, 20 * ms, 40 * ms, false}, {600, 0, 40 * ms, false}}, pathA, 0},
		"a rival without a time is never preferred":  {[]span{{10, 20 * ms, 0, false}, {600, 500 * ms, 0, false}}, pathA, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var f Fastest
			now, got, moves := noon, rules.Path{}, 0
			for _, s := range c.spans {
				for range s.seconds {
					now = now.Add(time.Second)
					contenders := make(map[rules.Path]Contender)
					if s.a >= 0 {
						contenders[pathA] = Contender{s.a, s.congested}
					}
					if s.b >= 0 {
						contenders[pathB] = Contender{s.b, false}
					}
					best, known := f.Observe(contenders, now)
					if known != (best != rules.Path{}) {
						t.Fatalf("%v is known: %v", best, known)
					}
					if best != got && got != (rules.Path{}) {
						moves++
					}
					got = best
				}
			}
			if got != c.want || moves != c.moves {
				t.Errorf("%v after %d moves, want %v after %d", got, moves, c.want, c.moves)
			}
		})
	}
}

// Whatever the times are: without deaths there are at most seven moves in any hour, and who is chosen is a contender.
func TestTheFastestDoesNotFlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f Fastest
		now, before := noon, rules.Path{}
		var moved []time.Time
		for range rapid.IntRange(1, 300).Draw(t, "spans") {
			contenders := make(map[rules.Path]Contender)
			for id := 1; id <= 3; id++ {
				contenders[rules.Path{Uplink: id}] = Contender{
					RTT:       time.Duration(rapid.IntRange(0, 400).Draw(t, "ms")) * time.Millisecond,
					Congested: rapid.IntRange(0, 9).Draw(t, "congested") == 0,
				}
			}
			for range rapid.SampledFrom([]int{1, 30, 100, 400}).Draw(t, "seconds") {
				now = now.Add(time.Second)
				best, known := f.Observe(contenders, now)
				if _, is := contenders[best]; known != is {
					t.Fatalf("%v is chosen of %v", best, contenders)
				}
				if known && best != before && before != (rules.Path{}) {
					moved = append(moved, now)
					if n := len(moved); n > 7 && now.Sub(moved[n-8]) < time.Hour {
						t.Fatalf("eight moves in %v", now.Sub(moved[n-8]))
					}
				}
				if before != (rules.Path{}) && !known {
					t.Fatal("nobody is chosen any more")
				}
				before = best
			}
		}
	})
}

func TestAFullLineHasNewFlowsGoElsewhere(t *testing.T) {
	type span struct {
		seconds int
		share   float64
	}
	for name, c := range map[string]struct {
		spans []span
		full  bool // at the end
		turns int  // how often it has become full
	}{
		"idle":                         {[]span{{60, 0.1}}, false, 0},
		"a page that loads":            {[]span{{60, 0.1}, {3, 1}}, false, 0},
		"a download":                   {[]span{{60, 0.1}, {20, 1}}, true, 1},
		"just below":                   {[]span{{3600, 0.89}}, false, 0},
		"a pause of the download":      {[]span{{60, 0.1}, {20, 1}, {30, 0.1}}, true, 1},
		"its end":                      {[]span{{60, 0.1}, {20, 1}, {40, 0.1}}, false, 1},
		"a little room is none":        {[]span{{60, 0.1}, {20, 1}, {3600, 0.8}}, true, 1},
		"soon full again":              {[]span{{60, 0.1}, {20, 1}, {40, 0.1}, {20, 1}, {50, 0.1}}, true, 2},
		"which takes longer each time": {[]span{{60, 0.1}, {20, 1}, {40, 0.1}, {20, 1}, {70, 0.1}}, false, 2},
		"and is forgotten":             {[]span{{60, 0.1}, {20, 1}, {40, 0.1}, {20, 1}, {700, 0.1}, {20, 1}, {40, 0.1}}, false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var o Overflow
			now, turns := noon, 0
			for _, s := range c.spans {
				for range s.seconds {
					now = now.Add(time.Second)
					was := o.Full()
					if o.Observe(s.share, 0.9, now); o.Full() && !was {
						turns++
					}
				}
			}
			if o.Full() != c.full || turns != c.turns {
				t.Errorf("full %v after %d turns, want %v after %d", o.Full(), turns, c.full, c.turns)
			}
			if o.Observe(1, 0, now.Add(time.Second)); o.Full() {
				t.Error("full without a limit")
			}
		})
	}
}

// Whatever the loads are, there are at most twenty moves in an hour, and a line that is idle for twenty minutes is not full.
func TestOverflowDoesNotFlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o Overflow
		now, idle := noon, 0
		var moved []time.Time
		for range rapid.IntRange(1, 300).Draw(t, "spans") {
			share := rapid.SampledFrom([]float64{0, 0.3, 0.67, 0.68, 0.89, 0.91, 1, 5}).Draw(t, "share")
			for range rapid.SampledFrom([]int{1, 5, 40, 130, 700}).Draw(t, "seconds") {
				now = now.Add(time.Second)
				was := o.Full()
				if o.Observe(share, 0.9, now); o.Full() != was {
					moved = append(moved, now)
					if n := len(moved); n > 20 && now.Sub(moved[n-21]) < time.Hour {
						t.Fatalf("21 moves in %v", now.Sub(moved[n-21]))
					}
				}
				if idle++; share > 0.5 {
					idle = 0
				}
				if idle > 20*60 && o.Full() {
					t.Fatal("full, and idle for twenty minutes")
				}
			}
		}
	})
}

func TestTheFullerDirectionCounts(t *testing.T) {
	for _, c := range []struct {
		b    Bandwidth
		l    Load
		want float64
	}{
		{Bandwidth{100, 10}, Load{50, 9}, 0.9}, {Bandwidth{100, 10}, Load{80, 1}, 0.8}, {Bandwidth{Sent: 10}, Load{1e9, 5}, 0.5},
		{Bandwidth{Received: 100}, Load{50, 1e9}, 0.5}, {Bandwidth{}, Load{1, 1}, 0},
	} {
		if got := c.b.Share(c.l); got != c.want {
			t.Errorf("%v of %v is %v, want %v", c.l, c.b, got, c.want)
		}
	}
}
