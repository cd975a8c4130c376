package uplink

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/probe"
)

func TestDampingSuppressesAfterThreeDownsInAFewMinutes(t *testing.T) {
	var d Damping
	d.Down(begin)
	d.Down(begin.Add(time.Minute))
	if _, suppressed := d.Suppressed(begin.Add(time.Minute)); suppressed {
		t.Error("suppressed after two downs")
	}
	third := begin.Add(2 * time.Minute)
	d.Down(third)
	until, suppressed := d.Suppressed(third)
	// 1000 + 871 + 758 points are 750 after 9 minutes.
	if took := until.Sub(third).Round(time.Second); !suppressed || took != 543*time.Second {
		t.Errorf("suppressed %v for %v", suppressed, took)
	}
	if got := math.Round(d.Penalty(third)); got != 2628 || d.s.Downs != 3 {
		t.Errorf("%v points after %d downs", got, d.s.Downs)
	}
	if _, suppressed := d.Suppressed(until); suppressed {
		t.Error("still suppressed at its end")
	}
	if got := d.Penalty(until); got < 749 || got > 751 {
		t.Errorf("%.0f points at the end", got)
	}
}

func TestDampingHoldDownDoublesAndIsForgotten(t *testing.T) {
	var d Damping
	now := begin
	for i, want := range []time.Duration{
		0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute,
	} {
		d.Down(now)
		if got := d.HoldDown(); got != want {
			t.Errorf("down %d: held for %v, want %v", i+1, got, want)
		}
		now = now.Add(20 * time.Minute)
		d.Up(now)
		now = now.Add(30 * time.Minute)
	}
	d.Up(now)
	d.Down(now.Add(time.Hour + time.Second))
	if got := d.HoldDown(); got != 0 {
		t.Errorf("held for %v after a quiet hour", got)
	}
}

func TestDampingSuppressionEndsWithinHalfAnHour(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d Damping
		now, since := begin, time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "downs") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(8*time.Minute)).Draw(t, "dt")))
			if _, still := d.Suppressed(now); !still {
				since = time.Time{}
			}
			d.Down(now)
			until, suppressed := d.Suppressed(now)
			if !suppressed {
				continue
			}
			if since.IsZero() {
				since = now
			}
			if until.Sub(since) > maxSuppression {
				t.Fatalf("suppressed for %v", until.Sub(since))
			}
			if d.Penalty(until) < reuseBelow-1 {
				t.Fatalf("suppressed with %.0f points", d.Penalty(until))
			}
		}
	})
}

func TestALineThatIsGivenAnotherAddressHasNotFailed(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lose := map[string]Link{
		"carrier": {HasAddress: true, HasGateway: true},
		"address": {Carrier: true, HasGateway: true},
		"gateway": {Carrier: true, HasAddress: true},
	}
	for what, lost := range lose {
		m := NewFSM(FSMConfig{}, now)
		m.SetLink(Link{Carrier: true, HasAddress: true, HasGateway: true}, now)
		m.Observe(ProbeEvent{Signal: probe.Alive}, now)
		if _, changed := m.SetLink(lost, now); !changed || m.State() != Down {
			t.Fatalf("without %s it is %v", what, m.State())
		}
		if failed := m.damping.Penalty(now) > 0; failed != (what == "carrier") {
			t.Errorf("losing the %s counts as a failure: %v", what, failed)
		}
		if _, changed := m.SetLink(Link{Carrier: true, HasAddress: true, HasGateway: true}, now); changed || m.Reason().Code != CodeComplete || !strings.Contains(m.Reason().Text, "since the "+what+" came back at ") {
			t.Errorf("with the %s there again it says %q", what, m.Reason())
		}
	}
}

// A restart forgets no flapping, and a wrong clock invents none.
func TestDampingOutlastsARestart(t *testing.T) {
	var before Damping
	now := begin
	for range 3 {
		before.Down(now)
		now = now.Add(time.Minute)
	}
	until, suppressed := before.Suppressed(now)
	if !suppressed {
		t.Fatal("three downs in three minutes suppress nothing")
	}
	var after Damping
	after.Restore(before.State(), now)
	if u, s := after.Suppressed(now); !s || !u.Equal(until) || after.HoldDown() != before.HoldDown() || after.Penalty(now) != before.Penalty(now) {
		t.Errorf("%+v became %+v", before, after)
	}
	var early Damping
	early.Restore(before.State(), begin.Add(-time.Hour))
	if _, s := early.Suppressed(begin); s || early.HoldDown() != 0 {
		t.Errorf("what is in the future counts: %+v", early)
	}
}

// A penalty that an earlier run has saved has the time of day, which may be set.
func TestDampingIsNotMovedByAClockThatIsSet(t *testing.T) {
	saved := DampingState{Penalty: 1800, At: time.Now().Round(0), Touched: time.Now().Round(0), Downs: 3}
	now := time.Now()
	var d Damping
	d.Restore(saved, now)
	if got := d.State(); !strings.Contains(got.At.String(), "m=") || !got.At.Equal(saved.At) {
		t.Errorf("it goes by the time of day: %v", got.At)
	}
	// Without a monotonic clock, as in a file of other times, it neither grows nor is infinite.
	for _, step := range []time.Duration{-time.Hour, -24 * time.Hour, -50 * 365 * 24 * time.Hour, 50 * 365 * 24 * time.Hour} {
		d := Damping{s: saved}
		if got := d.Penalty(now.Add(step)); !(got >= 0 && got <= 1800) {
			t.Errorf("a step of %v makes it %v", step, got)
		}
		d.Down(now.Add(step))
		if got := d.State().Penalty; !(got >= 1000 && got <= 2800) {
			t.Errorf("a step of %v makes it %v", step, got)
		}
		if until, suppressed := d.Suppressed(now.Add(step)); suppressed && until.Sub(now.Add(step)) > maxSuppression {
			t.Errorf("a step of %v suppresses for %v", step, until.Sub(now.Add(step)))
		}
	}
	for _, s := range []DampingState{{Penalty: 1e308}, {Penalty: -1}, {Downs: math.MaxInt}, {Downs: -1}, {At: now.Add(time.Hour)}, {Until: now.Add(24 * time.Hour)}} {
		var d Damping
		d.Restore(s, now)
		if d.State() != (DampingState{}) {
			t.Errorf("it believes %+v", s)
		}
	}
}
