package linksession

import (
	"testing"
	"time"
)

func TestABudgetIsSpentAndComesBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := NewBudget(3, time.Second)
	spend := func(after time.Duration, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		if wait := b.Spend(now); wait != want {
			t.Errorf("it waits %v, want %v", wait, want)
		}
	}
	for range 3 {
		spend(0, 0)
	}
	spend(0, time.Second)
	spend(400*time.Millisecond, 600*time.Millisecond)
	spend(600*time.Millisecond, 0)
	spend(500*time.Millisecond, 500*time.Millisecond)
	spend(time.Hour, 0)
	spend(0, 0)
	spend(0, 0)
	spend(0, time.Second)
	spend(-time.Hour, 0) // the clock was set
}
