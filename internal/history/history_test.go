package history

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func rtt(ms float32) map[string]Sample {
	s := NoSample()
	s.Values[RTT], s.State = ms, 1
	return map[string]Sample{"fiber": s}
}

func TestEachStepIsAMean(t *testing.T) {
	h := New()
	for i := range 20 {
		h.Add(noon.Add(time.Duration(i)*time.Second), rtt(float32(i)))
	}
	now := noon.Add(20 * time.Second)
	seconds, tens := Ranges()[0], Ranges()[1]
	first, got := h.Since("fiber", seconds, now.Add(-3*time.Second), now)
	if len(got) != 2 || got[0].Values[RTT] != 18 || got[1].Values[RTT] != 19 || !first.Equal(noon.Add(18*time.Second)) {
		t.Errorf("seconds: %v from %v", got, first)
	}
	_, got = h.Since("fiber", tens, noon.Add(-time.Second), now)
	if len(got) != 2 || got[0].Values[RTT] != 4.5 || got[1].Values[RTT] != 14.5 || got[1].State != 1 {
		t.Errorf("tens of seconds: %v", got)
	}
	if !math.IsNaN(float64(got[0].Values[Loss])) {
		t.Errorf("a value that nobody saw is %v", got[0].Values[Loss])
	}
}

func TestGapsAndStrangersAreWithoutValues(t *testing.T) {
	h := New()
	h.Add(noon, rtt(1))
	h.Add(noon.Add(5*time.Second), rtt(2))
	_, got := h.Since("fiber", Ranges()[0], noon.Add(-time.Second), noon.Add(6*time.Second))
	if len(got) != 6 || got[0].Values[RTT] != 1 || !math.IsNaN(float64(got[3].Values[RTT])) || got[3].State != 0 || got[5].Values[RTT] != 2 {
		t.Errorf("%v", got)
	}
	if _, got := h.Since("lte", Ranges()[0], time.Time{}, noon); len(got) != Ranges()[0].Size || got[0].State != 0 {
		t.Errorf("an unknown series has %d samples, %v", len(got), got[0])
	}
	h.Keep(func(name string) bool { return name != "fiber" })
	if _, got := h.Since("fiber", Ranges()[0], noon.Add(-time.Second), noon.Add(6*time.Second)); got[0].State != 0 {
		t.Error("a series that was forgotten is still there")
	}
}

func TestAClockThatIsSetRightBeginsAnew(t *testing.T) {
	h := New()
	h.Add(noon.AddDate(20, 0, 0), rtt(1))
	h.Add(noon, rtt(2))
	_, got := h.Since("fiber", Ranges()[0], noon.Add(-time.Second), noon.Add(time.Second))
	if len(got) != 1 || got[0].Values[RTT] != 2 {
		t.Errorf("%v", got)
	}
}

// TestHistoryNeverShowsTheWrongTime adds at random times, also with a clock that jumps, and finds every sample
// where a plain list of them says.
func TestHistoryNeverShowsTheWrongTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := New()
		now, latest := noon, noon.Add(-time.Hour)
		seen := make(map[int64]float32)
		for range rapid.IntRange(1, 80).Draw(t, "samples") {
			now = now.Add(time.Duration(rapid.Int64Range(-2000, 90_000).Draw(t, "ms")) * time.Millisecond)
			if now.After(latest) {
				latest = now
			}
			v := float32(rapid.IntRange(1, 1000).Draw(t, "value"))
			h.Add(now, rtt(v))
			seen[latest.Unix()] = v
		}
		end := latest.Add(time.Second)
		first, got := h.Since("fiber", Ranges()[0], time.Time{}, end)
		if len(got) != Ranges()[0].Size {
			t.Fatalf("%d samples", len(got))
		}
		for i, s := range got {
			at := first.Unix() + int64(i)
			if has := !math.IsNaN(float64(s.Values[RTT])); has != (seen[at] != 0) {
				t.Errorf("%v: there is a sample: %v", time.Unix(at, 0).UTC(), has)
			}
		}
	})
}
