package dhcp6

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// moment is an instant of an undisturbed clock.
func moment(mono time.Duration) instant { return instant{mono, epoch.Add(mono)} }

const origin = time.Hour // when the tests' machines begin, so that no zero hides

// drive runs a pure machine through its deadlines, and tells of each message.
func drive(t testing.TB, m *machine, fx effects, from, until time.Duration, each func(at time.Duration, kind dhcpv6.MessageType)) {
	t.Helper()
	now := from
	for range 100_000 {
		if fx.send != nil {
			each(now, dhcpv6.MessageType(fx.send[0]))
		}
		due := m.deadline()
		if due > until {
			return
		}
		now = max(now, due)
		fx = m.tick(moment(now))
	}
	t.Fatalf("the machine does not get on: %v, due at %v, now %v", m.state, m.deadline(), now)
}

// leased is a stored lease of 2001:db8:a::/56, and of an address instead if pd is false.
func leased(t1, t2, valid time.Duration, pd bool) *Lease {
	l := &Lease{Server: alpha, Heard: epoch.Add(origin), Renew: epoch.Add(origin + t1), Rebind: epoch.Add(origin + t2)}
	if pd {
		l.Prefixes = []Delegation{{IAID: 1, Prefix: mustPrefix("2001:db8:a::/56"), Preferred: epoch.Add(origin + t2), Valid: epoch.Add(origin + valid)}}
	} else {
		l.Addresses = []Address{{IAID: 1, Address: mustPrefix("2001:db8::5/128").Addr(), Preferred: epoch.Add(origin + t2), Valid: epoch.Add(origin + valid)}}
	}
	return l
}

// ipv6.md 1.1, 1.2, 1.3, 1.13: the table of RFC 9915 section 7.6 with the randomization of section 15.
func TestRetransmissionKeepsToTheTableForTenThousandSeeds(t *testing.T) {
	rows := []struct {
		name     string
		kind     dhcpv6.MessageType
		delay    time.Duration // of the first message, at most
		irt, mrt time.Duration
		above    bool          // the first RT is above irt
		count    int           // of messages, 0: any
		ends     time.Duration // after the first message: 0 does not end, or not by time
		setup    func(m *machine) (effects, time.Duration)
		last     *Lease
		address  bool
	}{
		{name: "Solicit", kind: dhcpv6.MessageTypeSolicit, delay: time.Second, irt: time.Second, mrt: time.Hour, above: true,
			setup: up},
		{name: "Request", kind: dhcpv6.MessageTypeRequest, irt: time.Second, mrt: 30 * time.Second, count: 10,
			setup: func(m *machine) (effects, time.Duration) {
				m.offers = []offer{{server: alpha, entries: []entry{{ia: iaKey{true, 1}, prefix: mustPrefix("2001:db8:a::/56")}}}}
				m.requestNext(moment(origin))
				return m.flush(), origin
			}},
		{name: "Renew", kind: dhcpv6.MessageTypeRenew, irt: 10 * time.Second, mrt: 600 * time.Second, ends: 3 * time.Hour,
			last: leased(time.Hour, 4*time.Hour, 5*time.Hour, true), setup: resumed(time.Hour)},
		{name: "Rebind", kind: dhcpv6.MessageTypeRebind, irt: 10 * time.Second, mrt: 600 * time.Second, ends: 2 * time.Hour,
			last: leased(0, 0, 2*time.Hour, true), setup: resumed(0)},
		{name: "Rebind after the link came up", kind: dhcpv6.MessageTypeRebind, delay: time.Second, irt: time.Second, mrt: 4 * time.Second,
			ends: 10 * time.Second, last: leased(3*time.Hour, 4*time.Hour, 5*time.Hour, true), setup: up},
		{name: "Confirm", kind: dhcpv6.MessageTypeConfirm, delay: time.Second, irt: time.Second, mrt: 4 * time.Second,
			ends: 10 * time.Second, last: leased(3*time.Hour, 4*time.Hour, 5*time.Hour, false), setup: up, address: true},
		{name: "Release", kind: dhcpv6.MessageTypeRelease, irt: time.Second, count: 4,
			last: leased(time.Hour, 4*time.Hour, 5*time.Hour, true), setup: func(m *machine) (effects, time.Duration) {
				m.state = bound
				return m.release(moment(origin)), origin
			}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(10_000) {
				w := iaConfig{duid: ours, iapd: alwaysPD}
				if row.address {
					w = iaConfig{duid: ours, iana: []uint32{1}}
				}
				m, _ := newMachine(w, row.last, rand.New(rand.NewPCG(seed, 0)).Float64, moment(origin))
				fx, from := row.setup(m)
				var times []time.Duration
				var after time.Duration // when the next kind of message was sent
				drive(t, m, fx, from, from+6*time.Hour, func(at time.Duration, kind dhcpv6.MessageType) {
					switch {
					case kind == row.kind && after == 0:
						times = append(times, at)
					case after == 0:
						after = at
					}
				})
				first := times[0] - from
				if first < 0 || first > row.delay {
					t.Fatalf("seed %d: the first message waits for %v, want at most %v", seed, first, row.delay)
				}
				checkIntervals(t, seed, times, row.irt, row.mrt, row.above)
				if row.count != 0 && len(times) != row.count {
					t.Fatalf("seed %d: %d messages, want %d", seed, len(times), row.count)
				}
				if row.ends != 0 {
					last := times[len(times)-1] - times[0]
					if last >= row.ends {
						t.Fatalf("seed %d: a message %v after the first, want none from %v", seed, last, row.ends)
					}
					rt := times[len(times)-1] - times[max(len(times)-2, 0)]
					if last+max(rt*22/10, row.irt*11/10) < row.ends && last+row.mrt*11/10 < row.ends {
						t.Fatalf("seed %d: no message from %v on, want them until %v", seed, last, row.ends)
					}
				}
			}
		})
	}
}

func up(m *machine) (effects, time.Duration) { return m.linkUp(moment(origin)), origin }

// resumed lets the machine go on with its lease at a time after origin.
func resumed(d time.Duration) func(*machine) (effects, time.Duration) {
	return func(m *machine) (effects, time.Duration) {
		m.resume(moment(origin + d))
		return m.flush(), origin + d
	}
}

// checkIntervals wants each RT inside of what section 15 allows after the one before.
func checkIntervals(t *testing.T, seed uint64, times []time.Duration, irt, mrt time.Duration, above bool) {
	t.Helper()
	const slack = time.Nanosecond * 10 // of floating point
	prev := time.Duration(0)
	for i := 1; i < len(times); i++ {
		rt := times[i] - times[i-1]
		lo, hi := irt*9/10, irt*11/10
		if prev == 0 && above {
			lo = irt + 1
		}
		if prev != 0 {
			lo, hi = prev*19/10, prev*21/10
			if mrt != 0 && hi > mrt {
				hi = max(mrt*11/10, min(hi, mrt))
				lo = min(lo, mrt*9/10)
			}
		}
		if rt < lo-slack || rt > hi+slack || prev == 0 && above && rt <= irt {
			t.Fatalf("seed %d: RT %d is %v after %v, want %v to %v", seed, i, rt, prev, lo, hi)
		}
		prev = rt
	}
}

// The formula itself, drawn at random.
func TestAnRTStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := schedule{irt: time.Duration(rapid.Int64Range(1, 20).Draw(t, "irt")) * time.Second,
			mrt: time.Duration(rapid.Int64Range(0, 4000).Draw(t, "mrt")) * time.Second, above: rapid.Bool().Draw(t, "above")}
		uniform := func() float64 { return rapid.Float64Range(0, 0.9999999).Draw(t, "uniform") }
		first := s.next(0, uniform())
		if s.above && first <= s.irt || first < s.irt*9/10 || first > s.irt*11/10 {
			t.Fatalf("first RT %v for IRT %v", first, s.irt)
		}
		prev := time.Duration(rapid.Int64Range(1, 5000).Draw(t, "prev")) * time.Second
		next := s.next(prev, uniform())
		if s.mrt != 0 && next > s.mrt*11/10 {
			t.Fatalf("RT %v above MRT %v", next, s.mrt)
		}
		if s.mrt == 0 && (next < prev*19/10 || next > prev*21/10) {
			t.Fatalf("RT %v after %v", next, prev)
		}
	})
}

// ipv6.md 1.5: whatever happens, no more than 20 messages leave in any 20 s.
func TestTheRateLimitHoldsAcrossLinkFlaps(t *testing.T) {
	m, fx := newMachine(iaConfig{duid: ours, iapd: alwaysPD}, nil, rand.New(rand.NewPCG(1, 2)).Float64, moment(origin))
	var times []time.Duration
	for i := range 600 {
		now := origin + time.Duration(i)*100*time.Millisecond
		if i%3 == 0 {
			m.linkDown(moment(now))
			fx = m.linkUp(moment(now))
			// Without the initial delay a flapping link would have the machine send each time.
			m.ex.at = now
		}
		drive(t, m, fx, now, now+99*time.Millisecond, func(at time.Duration, _ dhcpv6.MessageType) { times = append(times, at) })
		fx = effects{}
	}
	if len(times) < 50 {
		t.Errorf("only %d messages in a minute: the limit is no ban", len(times))
	}
	for i := range times {
		if i >= limitCount && times[i]-times[i-limitCount] < limitSpan {
			t.Errorf("messages %d to %d within %v", i-limitCount, i, times[i]-times[i-limitCount])
		}
	}
}
