package uplink

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestADeadLineIsHelpedWithPausesThatDouble(t *testing.T) {
	policy := RecoveryPolicy{After: 5 * time.Minute, MaxPerDay: 4}
	var r Recovery
	var runs []time.Duration
	for at := time.Duration(0); at < 49*time.Hour; at += 5 * time.Second {
		if run, hold, next := r.Decide(policy, RecoveryInput{Since: noon}, noon.Add(at)); run {
			r.Started(noon.Add(at))
			runs = append(runs, at)
		} else if hold != HoldPause && hold != HoldBound || !next.After(noon.Add(at)) {
			t.Fatalf("after %v: %q until %v", at, hold, next)
		}
		if len(r.Runs) > policy.MaxPerDay {
			t.Fatalf("%d runs in a day", len(r.Runs))
		}
	}
	want := []time.Duration{5 * time.Minute, 15 * time.Minute, 35 * time.Minute, 75 * time.Minute}
	for i := range want {
		if runs[i] != want[i] {
			t.Errorf("run %d after %v, want %v", i, runs[i], want[i])
		}
	}
	if len(runs) < 5 || runs[4] < 24*time.Hour+5*time.Minute || runs[4] > 25*time.Hour+20*time.Minute {
		t.Errorf("runs after %v", runs)
	}
}

func TestWhatKeepsALineFromBeingHelped(t *testing.T) {
	policy := RecoveryPolicy{After: 5 * time.Minute, MaxPerDay: 2}
	later := noon.Add(6 * time.Minute)
	for name, c := range map[string]struct {
		r    Recovery
		in   RecoveryInput
		run  bool
		hold RecoveryHold
	}{
		"it works":                 {Recovery{}, RecoveryInput{}, false, HoldNothing},
		"dead":                     {Recovery{}, RecoveryInput{Since: noon}, true, HoldNothing},
		"dead for a moment":        {Recovery{}, RecoveryInput{Since: later.Add(-time.Minute)}, false, HoldPause},
		"everything is dead":       {Recovery{}, RecoveryInput{Since: noon, Common: true}, false, HoldCommon},
		"the other family is all":  {Recovery{}, RecoveryInput{Since: noon, CutsRest: true}, false, HoldCutsRest},
		"somebody works on it":     {Recovery{}, RecoveryInput{Since: noon, Operator: true}, false, HoldOperator},
		"helped a moment ago":      {Recovery{Runs: []time.Time{later.Add(-9 * time.Minute)}, Streak: 1}, RecoveryInput{Since: noon.Add(-time.Hour)}, false, HoldPause},
		"helped long enough ago":   {Recovery{Runs: []time.Time{later.Add(-10 * time.Minute)}, Streak: 1}, RecoveryInput{Since: noon.Add(-time.Hour)}, true, HoldNothing},
		"helped twice today":       {Recovery{Runs: []time.Time{noon.Add(-20 * time.Hour), noon.Add(-10 * time.Hour)}}, RecoveryInput{Since: noon}, false, HoldBound},
		"helped twice, and it was": {Recovery{Runs: []time.Time{noon.Add(-25 * time.Hour), noon.Add(-24 * time.Hour)}}, RecoveryInput{Since: noon}, true, HoldNothing},
		"a clock that was wrong":   {Recovery{Runs: []time.Time{noon.AddDate(9, 0, 0), noon.AddDate(9, 0, 0)}, Streak: -3}, RecoveryInput{Since: noon}, true, HoldNothing},
	} {
		t.Run(name, func(t *testing.T) {
			if run, hold, _ := c.r.Decide(policy, c.in, later); run != c.run || hold != c.hold {
				t.Errorf("%v, %q, want %v, %q", run, hold, c.run, c.hold)
			}
		})
	}
}

func TestAnotherOutageAfterAnHourBeginsAnew(t *testing.T) {
	policy := RecoveryPolicy{After: time.Minute, MaxPerDay: 100}
	r := Recovery{Streak: 5, Runs: []time.Time{noon}}
	for at := time.Duration(0); at <= time.Hour; at += time.Minute {
		r.Decide(policy, RecoveryInput{}, noon.Add(at))
	}
	if r.Streak != 0 {
		t.Errorf("a streak of %d", r.Streak)
	}
	r.Streak = 5
	r.Decide(policy, RecoveryInput{Since: noon}, noon.Add(61*time.Minute))
	r.Decide(policy, RecoveryInput{}, noon.Add(62*time.Minute))
	r.Decide(policy, RecoveryInput{}, noon.Add(63*time.Minute))
	if r.Streak != 5 {
		t.Error("a minute of rest is taken for an hour")
	}
}

// Whatever happens, and over restarts: never more runs in a day than allowed, none where it is held.
func TestRunsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := RecoveryPolicy{After: time.Duration(rapid.IntRange(30, 3600).Draw(t, "after")) * time.Second, MaxPerDay: rapid.IntRange(1, 10).Draw(t, "bound")}
		var r Recovery
		now := noon
		var runs []time.Time
		var in RecoveryInput
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(t, "seconds")) * time.Second)
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				in = RecoveryInput{}
			case 1, 2:
				in = RecoveryInput{Since: now, Common: rapid.Bool().Draw(t, "common"), CutsRest: rapid.Bool().Draw(t, "cuts")}
			case 3:
				text, err := json.Marshal(r)
				r = Recovery{}
				if err != nil || json.Unmarshal(text, &r) != nil {
					t.Fatal(err)
				}
			}
			run, hold, _ := r.Decide(policy, in, now)
			if !run {
				continue
			}
			r.Started(now)
			if hold != HoldNothing || in.Since.IsZero() || in.Common || in.CutsRest || now.Sub(in.Since) < policy.After {
				t.Fatalf("helped with %+v", in)
			}
			if n := len(runs); n >= policy.MaxPerDay && now.Sub(runs[n-policy.MaxPerDay]) < 24*time.Hour {
				t.Fatalf("more than %d runs in a day", policy.MaxPerDay)
			}
			if n := len(runs); n > 0 && now.Sub(runs[n-1]) < policy.After {
				t.Fatalf("a pause of %v", now.Sub(runs[n-1]))
			}
			runs = append(runs, now)
		}
	})
}
