package monitor

import (
	"testing"
	"time"
)

func TestOnlyMoreThanOurProbesCountsAsUse(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var u useMeter
	sent := uint64(1e6) // long before we came
	look := func(packets uint64) bool {
		now = now.Add(idleInterval)
		sent += packets
		return u.observe(now, sent)
	}
	for range 3600 {
		// An HTTP probe of both families in one look, and then nothing for a second.
		if look(10) || look(0) {
			t.Fatal("our probes count as use")
		}
	}
	if !look(200) {
		t.Error("a download is overlooked")
	}
	if look(8) {
		t.Error("what follows a download counts like it")
	}
	if first, second := look(16), look(16); !first && !second {
		t.Error("a call of 32 packets a second is overlooked")
	}
}

func TestCountersAreLookedAtMoreOftenWhileTheUplinksAreUsed(t *testing.T) {
	for unused, want := range map[time.Duration]time.Duration{0: busyInterval, busySpan - 1: busyInterval, busySpan: idleInterval, time.Hour: idleInterval} {
		if got := readingInterval(unused); got != want {
			t.Errorf("unused for %v: every %v, want %v", unused, got, want)
		}
	}
}
