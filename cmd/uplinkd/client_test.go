package main

import (
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestEventsAreShownInTheOrderInWhichTheyHappened(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var past []status.Event
	for _, ms := range []time.Duration{0, 90, 50, 3_600_000, 200, 210, 205} { // the clock was set back at 200
		e := status.Event{Time: status.At(at.Add(ms * time.Millisecond))}
		past = slices.Insert(past, insertionIndex(past, e), e)
	}
	got := make([]time.Duration, len(past))
	for i, e := range past {
		got[i] = e.Time.Sub(at) / time.Millisecond
	}
	if want := []time.Duration{0, 50, 90, 3_600_000, 200, 205, 210}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
