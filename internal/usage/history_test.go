package usage

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func withRTT(ms float32) map[string]sample {
	s := noSample()
	s.values[rtt], s.state = ms, 1
	return map[string]sample{"fiber": s}
}

func TestEachStepIsAMean(t *testing.T) {
	h := make(history)
	for i := range 20 {
		h.add(noon.Add(time.Duration(i)*time.Second), withRTT(float32(i)))
	}
	now := noon.Add(20 * time.Second)
	seconds, tens := spans[0], spans[1]
	first, got := h.since("fiber", seconds, now.Add(-3*time.Second), now)
	if len(got) != 2 || got[0].values[rtt] != 18 || got[1].values[rtt] != 19 || !first.Equal(noon.Add(18*time.Second)) {
		t.Errorf("seconds: %v from %v", got, first)
	}
	_, got = h.since("fiber", tens, noon.Add(-time.Second), now)
	if len(got) != 2 || got[0].values[rtt] != 4.5 || got[1].values[rtt] != 14.5 || got[1].state != 1 {
		t.Errorf("tens of seconds: %v", got)
	}
	if !math.IsNaN(float64(got[0].values[loss])) {
		t.Errorf("a value that nobody saw is %v", got[0].values[loss])
	}
}

func TestGapsAndStrangersAreWithoutValues(t *testing.T) {
	h := make(history)
	h.add(noon, withRTT(1))
	h.add(noon.Add(5*time.Second), withRTT(2))
	_, got := h.since("fiber", spans[0], noon.Add(-time.Second), noon.Add(6*time.Second))
	if len(got) != 6 || got[0].values[rtt] != 1 || !math.IsNaN(float64(got[3].values[rtt])) || got[3].state != 0 || got[5].values[rtt] != 2 {
		t.Errorf("%v", got)
	}
	if _, got := h.since("lte", spans[0], time.Time{}, noon); len(got) != spans[0].size || got[0].state != 0 {
		t.Errorf("an unknown series has %d samples, %v", len(got), got[0])
	}
	h.retain(func(name string) bool { return name != "fiber" })
	if _, got := h.since("fiber", spans[0], noon.Add(-time.Second), noon.Add(6*time.Second)); got[0].state != 0 {
		t.Error("a series that was forgotten is still there")
	}
}

func TestAClockThatIsSetRightBeginsAnew(t *testing.T) {
	h := make(history)
	h.add(noon.AddDate(20, 0, 0), withRTT(1))
	h.add(noon, withRTT(2))
	_, got := h.since("fiber", spans[0], noon.Add(-time.Second), noon.Add(time.Second))
	if len(got) != 1 || got[0].values[rtt] != 2 {
		t.Errorf("%v", got)
	}
}

func TestAClockThatIsSetBackIsFollowed(t *testing.T) {
	for _, by := range []time.Duration{3 * time.Hour, 10 * time.Minute, 2 * time.Minute} {
		h := make(history)
		for i := range 600 {
			h.add(noon.Add(time.Duration(i)*time.Second), withRTT(1))
		}
		set := noon.Add(10*time.Minute - by)
		for i := range 900 {
			h.add(set.Add(time.Duration(i)*time.Second), withRTT(2))
		}
		now := set.Add(900 * time.Second)
		for _, s := range spans {
			_, got := h.since("fiber", s, now.Add(-10*time.Minute), now)
			for i, one := range got {
				if one.values[rtt] != 2 {
					t.Fatalf("by %v, %s: sample %d of %d is %v", by, s.name, i, len(got), one.values[rtt])
				}
			}
			if _, got = h.since("fiber", s, set, now.Add(time.Hour)); got[len(got)-1].state != 0 {
				t.Errorf("by %v, %s: there is a sample of the future", by, s.name)
			}
		}
	}
}

// TestHistoryNeverShowsTheWrongTime adds at random times, also with a clock that jumps, and finds every sample
// where a plain list of them says.
func TestHistoryNeverShowsTheWrongTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := make(history)
		now, latest := noon, noon.Add(-time.Hour)
		seen := make(map[int64]float32)
		for range rapid.IntRange(1, 80).Draw(t, "samples") {
			now = now.Add(time.Duration(rapid.Int64Range(-2000, 90_000).Draw(t, "ms")) * time.Millisecond)
			if now.After(latest) {
				latest = now
			}
			v := float32(rapid.IntRange(1, 1000).Draw(t, "value"))
			h.add(now, withRTT(v))
			seen[latest.Unix()] = v
		}
		end := latest.Add(time.Second)
		first, got := h.since("fiber", spans[0], time.Time{}, end)
		if len(got) != spans[0].size {
			t.Fatalf("%d samples", len(got))
		}
		for i, s := range got {
			at := first.Unix() + int64(i)
			if has := !math.IsNaN(float64(s.values[rtt])); has != (seen[at] != 0) {
				t.Errorf("%v: there is a sample: %v", time.Unix(at, 0).UTC(), has)
			}
		}
	})
}
