package ndisc

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTheScheduleKeepsItsPromises runs random histories: nobody is forgotten, and nothing makes a flood.
func TestTheScheduleKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSchedule(func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "random") })
		now := noon
		var sent []time.Time
		asked := make(map[netip.Addr]time.Time)
		s.linkUp(now)
		s.begin(now)
		serve := func() { // as Run does
			for {
				to := s.due(now)
				if len(to) == 0 {
					return
				}
				for _, host := range to {
					if host == allNodes {
						sent = append(sent, now)
						s.sent(nameLifetime, now)
						clear(asked)
					}
					delete(asked, host)
				}
			}
		}
		advance := func(until time.Time) {
			for d := s.deadline(); !d.IsZero() && !d.After(until); d = s.deadline() {
				now = d
				serve()
			}
			now = until
		}
		serve()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch event := rapid.IntRange(0, 9).Draw(t, "event"); {
			case event < 4:
				s.changed(urgent, now)
				if s.tokens >= 1 && !s.next.Equal(now) {
					t.Fatalf("a change waits until %v although there is a token for it at %v", s.next, now)
				}
				if s.next.After(now.Add(minDelay)) {
					t.Fatalf("a change waits for %v", s.next.Sub(now))
				}
			case event < 7:
				host := netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(rapid.IntRange(1, 40).Draw(t, "host"))})
				s.solicited(host, now)
				if _, waits := asked[host]; !waits {
					asked[host] = now
				}
			case event < 8:
				s.linkDown()
				if !s.deadline().IsZero() {
					t.Fatal("sends on a link that is down")
				}
				clear(asked)
				now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "down")) * time.Millisecond)
				s.linkUp(now)
			}
			serve()
			advance(now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "milliseconds")) * time.Millisecond))
			for host, since := range asked {
				// Above maxSolicitors the answer goes to all, and may have to wait for the rate.
				if now.Sub(since) > maxAnswerDelay+minDelay {
					t.Fatalf("%v waits since %v", host, since)
				}
			}
			if s.deadline().IsZero() || s.next.Sub(now) > maxInterval {
				t.Fatalf("the next advertisement is due %v, it is %v", s.next, now)
			}
		}
		for i := range sent {
			j := i
			for j < len(sent) && sent[j].Sub(sent[i]) < time.Minute {
				j++
			}
			if n := j - i; n > int(time.Minute/minDelay)+urgentAdvertsInRow {
				t.Fatalf("%d advertisements within a minute of %v", n, sent[i])
			}
		}
	})
}

func TestShortLifetimesAreRepeatedInTime(t *testing.T) {
	s := newSchedule(func() float64 { return 0.999 })
	s.linkUp(noon)
	s.begin(noon)
	for now := noon; now.Before(noon.Add(time.Hour)); now = s.deadline() {
		s.due(now)
		s.sent(shortest, now)
		if gap := s.deadline().Sub(now); gap > shortest/perLifetime {
			t.Errorf("a gap of %v for a lifetime of %v", gap, shortest)
		}
	}
}
