package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/uplink"
)

func TestBurstsLoseTheirShareInTheirLength(t *testing.T) {
	const step = 10 * ms
	for _, mean := range []time.Duration{50 * ms, 200 * ms, 500 * ms} {
		rng := rand.New(rand.NewPCG(1, 2))
		b := newBursts(0.01, mean)
		lost, runs, before := 0, 0, false
		const n = 5_000_000
		for i := range n {
			now := b.lose(time.Duration(i)*step, rng)
			if now {
				lost++
				if !before {
					runs++
				}
			}
			before = now
		}
		if share := float64(lost) / n; math.Abs(share-0.01) > 0.001 {
			t.Errorf("bursts of %v lose %.4f, want 0.01", mean, share)
		}
		// A run that is seen at all lasts its residual time beyond the first look.
		if got := time.Duration(lost) * step / time.Duration(runs); got < mean*9/10 || got > mean*11/10+2*step {
			t.Errorf("bursts of %v last %v", mean, got)
		}
	}
}

func TestHolesEndWhatPassesThem(t *testing.T) {
	const rtt = 40 * ms
	rng := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]struct {
		fail func(*link, time.Duration)
		// survives is the latest departure before the fault that is answered.
		survives time.Duration
	}{
		"near: the answer must be back":           {faults[0].do, -rtt - ms},
		"far: the answer must be past the middle": {faults[1].do, -rtt*3/4 - ms},
		"nothing goes out":                        {faults[2].do, -rtt/4 - ms},
		"nothing comes in":                        {faults[3].do, -rtt*3/4 - ms},
	} {
		l := &link{rtt: rtt}
		c.fail(l, time.Second)
		if got := l.probe(time.Second+c.survives, rng); got != rtt {
			t.Errorf("%s: %v at the last moment", name, got)
		}
		if got := l.probe(time.Second+c.survives+2*ms, rng); got >= 0 {
			t.Errorf("%s: %v after it", name, got)
		}
	}
}

func TestTheSameSeedTellsTheSame(t *testing.T) {
	s := settings{interval: time.Second}
	first := find(s, 7, faults[1].do)
	if diff := cmp.Diff(first, find(s, 7, faults[1].do), cmp.AllowUnexported(found{})); diff != "" {
		t.Error(diff)
	}
	if first.suspect > 1800*ms || first.down < first.suspect {
		t.Errorf("%+v", first)
	}
}

// A down is as long as it keeps traffic away: until the uplink is up, or the run ends.
func TestADownLastsUntilItIsUpAgain(t *testing.T) {
	var got tally
	for _, c := range []struct {
		from, to uplink.State
		at       time.Duration
	}{
		{uplink.Init, uplink.Up, 0},
		{uplink.Up, uplink.Suspect, time.Minute},
		{uplink.Suspect, uplink.Down, 2 * time.Minute},
		{uplink.Down, uplink.Recovering, 3 * time.Minute},
		{uplink.Recovering, uplink.Down, 4 * time.Minute},
		{uplink.Down, uplink.Recovering, 5 * time.Minute},
		{uplink.Recovering, uplink.Up, 9 * time.Minute},
		{uplink.Up, uplink.Down, 10 * time.Minute},
	} {
		got.count(uplink.Transition{From: c.from, To: c.to}, c.at)
	}
	if got.downs != 3 || got.longestDown != 7*time.Minute {
		t.Errorf("%d downs, the longest of %v", got.downs, got.longestDown)
	}
	if got.ended(time.Hour); got.longestDown != 50*time.Minute {
		t.Errorf("%v with one that the run ended", got.longestDown)
	}
}

func TestSimulateFailsForAMissedBarAndPrintsAllTables(t *testing.T) {
	var out, errs bytes.Buffer
	r := newReport(&out)
	r.bar(true, "kept")
	r.bar(false, "%d missed", 1)
	if diff := cmp.Diff([]string{"1 missed"}, r.missed); diff != "" {
		t.Error(diff)
	}
	if code := simulate([]string{"-nonsense"}, &out, &errs); code != 2 {
		t.Errorf("exit %d for wrong usage", code)
	}
	r.year(2, time.Hour)
	if diff := cmp.Diff([]string{"1 missed"}, r.missed); diff != "" {
		t.Error(diff)
	}
	r.Flush()
	simulate([]string{"-trials", "3", "-weeks", "0", "-hours", "1", "-uploads", "3"}, &out, &errs)
	for _, want := range []string{"far blackhole", "50 % loss", "1 % in bursts of 200 ms", "2 % each way", "interval 250 ms", "UDP all at once, 5 s", "longest down"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line about %s in\n%s", want, &out)
		}
	}
}

// A week of each pair of lines and each demand: new flows do not flap, those that follow latency save some, and overflow delivers more.
func TestBalancingDoesNotFlapInAWeek(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out)
	r.balance(2)
	r.Flush()
	t.Logf("\n%s", &out)
	for _, m := range r.missed {
		t.Error(m)
	}
}
