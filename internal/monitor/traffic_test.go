package monitor

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestOnlyMoreThanOurProbesCountsAsUse(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var u useMeter
	sent := uint64(1e6) // long before we came
	sample := func(packets uint64) bool {
		now = now.Add(idleInterval)
		sent += packets
		return u.observe(now, sent)
	}
	for range 3600 {
		// An HTTP probe of both families in one look, and then nothing for a second.
		if sample(10) || sample(0) {
			t.Fatal("our probes count as use")
		}
	}
	if !sample(200) {
		t.Error("a download is overlooked")
	}
	if sample(8) {
		t.Error("what follows a download counts like it")
	}
	if first, second := sample(16), sample(16); !first && !second {
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

func TestTrafficThatGetsNoAnswerHasItsPathsProbedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		var sent, received uint64
		var dead atomic.Bool
		c.line.counts(func(out map[int]counters.Device, _ time.Time) {
			if sent += 10; !dead.Load() {
				received += 10
			}
			out[2] = counters.Device{Sent: sent, Received: received} // fiber's
		})
		c.pass()
		c.SetActive(map[rules.Family]rules.Choice{rules.IPv4: {Members: []rules.Member{{Uplink: 1, Share: 1}}}})
		after(time.Minute + 100*time.Millisecond) // the next probe is due in 900 ms
		c.set("fiber", false)
		dead.Store(true)
		after(900 * time.Millisecond)
		c.wants(fiber4, uplink.Suspect)
	})
}
