package dhcp6

import (
	"encoding/json"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// stored is a lease of an earlier run, through JSON as the caller would keep it.
func stored(t *testing.T, l *Lease) *Lease {
	t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	out := new(Lease)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// earlier is a lease of 2001:db8:a::/56 that was heard some time ago, with these spans from then.
func earlier(ago, t1, t2, preferred, valid time.Duration) *Lease {
	heard := time.Now().Add(-ago)
	return &Lease{Server: alpha, Heard: heard, Renew: heard.Add(t1), Rebind: heard.Add(t2),
		Prefixes: []Delegation{{IAID: 1, Prefix: mustPrefix(held), Preferred: heard.Add(preferred), Valid: heard.Add(valid)}}}
}

func restart(t *testing.T, last *Lease, answer script) *bench {
	t.Helper()
	return start(t, answer, func(cfg *Config) { cfg.Last = stored(t, last) })
}

// ipv6.md 1.16.
func TestALeaseSurvivesStorage(t *testing.T) {
	l := &Lease{Server: alpha, Heard: epoch, Renew: epoch.Add(time.Hour), Rebind: Never(),
		Prefixes: []Delegation{
			{IAID: 1, Prefix: mustPrefix(held), Exclude: mustPrefix("2001:db8:a:ff::/64"), Preferred: epoch.Add(time.Hour), Valid: Never()},
			{IAID: 0xffffffff, Prefix: mustPrefix("2001:db8:b::/60"), Preferred: epoch, Valid: epoch.Add(2 * time.Hour)}},
		Addresses: []Address{{IAID: 1, Address: netip.MustParseAddr("2001:db8::5"), Preferred: epoch, Valid: epoch.Add(time.Hour)}},
		DNS:       []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Domains: []string{"lan.example"}}
	if diff := cmp.Diff(l, stored(t, l), comparePrefixes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const want = `{"server":"00:03:00:01:02:00:00:00:00:0a","heard":"2026-01-01T00:00:00Z","renew":"2026-01-01T01:00:00Z",` +
		`"rebind":"9999-12-31T23:59:59Z","prefixes":[{"iaid":1,"prefix":"2001:db8:a::/56","exclude":"2001:db8:a:ff::/64",` +
		`"preferred":"2026-01-01T01:00:00Z","valid":"9999-12-31T23:59:59Z"},{"iaid":4294967295,"prefix":"2001:db8:b::/60",` +
		`"preferred":"2026-01-01T00:00:00Z","valid":"2026-01-01T02:00:00Z"}],"addresses":[{"iaid":1,"address":"2001:db8::5",` +
		`"preferred":"2026-01-01T00:00:00Z","valid":"2026-01-01T01:00:00Z"}],"dns":["2001:db8::53"],"domains":["lan.example"]}`
	if b, err := json.Marshal(l); err != nil || string(b) != want {
		t.Errorf("the stored form has changed (%v):\n%s", err, b)
	}
}

// ipv6.md 1.13, 1.16: a restart.
func TestARestartAsksByRebindAndKeepsThePrefix(t *testing.T) {
	last := func() *Lease {
		return earlier(10*time.Second, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
	}
	t.Run("answered", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := restart(t, last(), generous(200, 300))
			sleep(2 * time.Second)
			b.wantHeard("restored 2001:db8:a::/56 kept", "verified 2001:db8:a::/56 extended")
			msgs := b.messages()
			if m := msgs[0].msg; len(msgs) != 1 || m.MessageType != dhcpv6.MessageTypeRebind || included(m, 1) != held {
				t.Errorf("sent %v", msgs)
			}
		})
	})
	t.Run("silence keeps it, with its old times", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := restart(t, last(), nil)
			if l := b.lease(); cmp.Diff(stored(t, last()), l, comparePrefixes) != "" {
				t.Errorf("%+v", l)
			}
			sleep(89 * time.Second)
			b.wantHeard("restored 2001:db8:a::/56 kept")
			b.wantKinds("REBIND")
			sleep(2 * time.Second)
			b.wantKinds("RENEW") // T1, 100 s after the lease was heard
			sleep(60 * time.Second)
			b.wantKinds("RENEW REBIND")
			sleep(150 * time.Second)
			b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
			b.wantKinds("REBIND SOLICIT")
		})
	})
	t.Run("past T2 it rebinds on", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := restart(t, earlier(170*time.Second, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second), nil)
			sleep(100 * time.Second)
			b.wantKinds("REBIND")
			b.wantHeard("restored 2001:db8:a::/56 kept")
		})
	})
	t.Run("before the link is there the caller knows what to use", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, nil, func(cfg *Config) { cfg.Last = stored(t, last()) })
			b.wantHeard("restored 2001:db8:a::/56 kept")
			b.SetLink(2, false)
			sleep(300 * time.Second)
			b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
		})
	})
	t.Run("what has expired since the start is not asked for by Rebind", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			l := last()
			l.Prefixes = append(l.Prefixes, Delegation{IAID: 1, Prefix: mustPrefix("2001:db8:b::/56"), Preferred: l.Heard, Valid: l.Heard})
			b := start(t, nil, func(cfg *Config) { cfg.Last = stored(t, l) })
			b.wantHeard("restored 2001:db8:a::/56 kept 2001:db8:b::/56 expired")
			b.SetLink(2, false)
			sleep(300 * time.Second)
			b.kinds()
			b.SetLink(2, true)
			sleep(3 * time.Second)
			b.wantKinds("SOLICIT")
		})
	})
	t.Run("without the server's name it rebinds at T1", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			l := last()
			l.Server = nil
			b := restart(t, l, nil)
			sleep(120 * time.Second)
			b.wantKinds("REBIND")
		})
	})
	t.Run("what is not configured any more is left", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			l := last()
			l.Prefixes[0].IAID = 9
			b := restart(t, l, generous(200, 300))
			sleep(3 * time.Second)
			b.wantHeard("restored 2001:db8:a::/56 unwanted (nothing left)", "granted 2001:db8:a::/56 added")
		})
	})
	t.Run("rubbish in the store is no lease", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			l := last()
			l.Prefixes = append(l.Prefixes, Delegation{IAID: 1}, Delegation{IAID: 1, Prefix: mustPrefix("::/0"), Valid: Never()},
				Delegation{IAID: 1, Prefix: mustPrefix("192.0.2.0/24"), Valid: Never()})
			l.Prefixes[0].Preferred = Never() // and valid for less
			l.Prefixes[0].Exclude = mustPrefix("2001:db8:b::/64")
			l.Addresses = []Address{{IAID: 1, Valid: Never()}}
			b := restart(t, l, nil)
			b.wantLease(held)
			b.wantHeard("restored 2001:db8:a::/56 kept")
		})
	})
}

func (b *bench) wantLease(prefix string) {
	b.t.Helper()
	if l := b.lease(); l == nil || len(l.Prefixes) != 1 || l.Prefixes[0].Preferred.After(l.Prefixes[0].Valid) || l.Prefixes[0].Prefix != mustPrefix(prefix) || l.Prefixes[0].Exclude.IsValid() || len(l.Addresses) != 0 {
		b.t.Errorf("lease %+v, want just %s", l, prefix)
	}
}

// What the wall clock says to be over may be ours still: it is not used, but asked for first.
func TestALeaseThatSeemsExpiredIsAskedForBeforeItIsGivenUp(t *testing.T) {
	last := func() *Lease {
		return earlier(time.Hour, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
	}
	for _, c := range []struct {
		name   string
		answer script
		kinds  string
		then   string
	}{
		{"and is back", byKind{"REBIND": generous(200, 300)}.answer, "REBIND", "verified 2001:db8:a::/56 added"},
		{"and is not there", byKind{"REBIND": gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), "REQUEST": gives(alpha, iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 200, 300)))}.answer,
			"REBIND REQUEST", "granted 2001:db8:c::/56 added"},
		{"and nobody answers", byKind{"SOLICIT": generous(200, 300), "REQUEST": generous(200, 300)}.answer, "REBIND SOLICIT REQUEST", "granted 2001:db8:a::/56 added"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := restart(t, last(), c.answer)
				sleep(15 * time.Second)
				for _, s := range b.wire.sent {
					if included(s.msg, 1) != held {
						t.Errorf("%v does not mention the prefix", s.msg.MessageType)
					}
				}
				b.wantKinds(c.kinds)
				b.wantHeard("restored 2001:db8:a::/56 expired (nothing left)", c.then)
			})
		})
	}
}

// ipv6.md 1.13: Confirm is for addresses alone; here a prefix is at stake, which it could not revive.
func TestAnAddressBesideAnExpiredPrefixIsRebound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		last := earlier(time.Hour, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
		last.Addresses = []Address{{IAID: 1, Address: netip.MustParseAddr("2001:db8::5"), Preferred: Never(), Valid: Never()}}
		b := start(t, nil, func(cfg *Config) { cfg.Last, cfg.IANA = stored(t, last), []uint32{1} })
		sleep(2 * time.Second)
		b.wantHeard("restored 2001:db8::5/128 kept 2001:db8:a::/56 expired")
		b.wantKinds("REBIND")
	})
}

// ipv6.md 1.9: a configured length that has changed is what is wished for, not the prefix of before.
func TestAConfiguredLengthOverrulesWhatWasHeld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		last := earlier(time.Hour, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
		b := start(t, nil, func(cfg *Config) { cfg.Last, cfg.IAPD = stored(t, last), []IAPD{{ID: 1, Hint: mustPrefix("::/60")}} })
		sleep(30 * time.Second)
		want := map[dhcpv6.MessageType]string{dhcpv6.MessageTypeRebind: held, dhcpv6.MessageTypeSolicit: "::/60"}
		for _, s := range b.messages() {
			if got := included(s.msg, 1); got != want[s.msg.MessageType] {
				t.Errorf("%v mentions %q", s.msg.MessageType, got)
			}
		}
	})
}

// A machine without a clock of its own starts in the past: the stored lease is from the future.
func TestALeaseFromTheFutureCountsFromNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		last := earlier(-365*24*time.Hour, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
		b := restart(t, last, nil)
		d := b.lease().Prefixes[0]
		if p, v := seconds(t, d.Preferred), seconds(t, d.Valid); p != 200 || v != 300 {
			t.Errorf("preferred %d, valid %d, want 200 and 300", p, v)
		}
		sleep(299 * time.Second)
		b.wantHeard("restored 2001:db8:a::/56 kept")
		sleep(2 * time.Second)
		b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
	})
}

// Within a run nothing depends on the wall clock; what is stored follows it.
func TestAStepOfTheClockLosesNothing(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward, from 1970": 50 * 365 * 24 * time.Hour, "back": -365 * 24 * time.Hour, "by a minute": time.Minute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, gives(alpha, iaPD(1, 500, 800, iaPrefix(held, 1000, 2000))), nil)
				sleep(3 * time.Second)
				b.wantHeard("granted 2001:db8:a::/56 added")
				b.kinds()
				sleep(100 * time.Second)
				b.stepClock(step)
				sleep(maxSleep)
				left := b.lease().Prefixes[0].Valid.Sub(time.Now().Add(step))
				if left < 1830*time.Second || left > 1840*time.Second {
					t.Errorf("by the new clock it is valid for %v more, want 1840 s less some", left)
				}
				after := stored(t, b.lease())
				b.wantHeard("reset")
				b.wantKinds("")
				sleep(345 * time.Second)
				b.wantKinds("RENEW") // at T1, by the monotonic clock
				b.wantHeard("renewed 2001:db8:a::/56 extended")

				// The next run starts after the step, from what was stored then.
				b.stop()
				synctest.Wait()
				next := start(t, nil, func(cfg *Config) {
					cfg.Last = after
					cfg.Clock = func() (time.Duration, time.Time) { return time.Since(b.began), time.Now().Add(step) }
				})
				next.wantHeard("restored 2001:db8:a::/56 kept")
			})
		})
	}
	t.Run("slewing is no step", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, gives(alpha, iaPD(1, forever, forever, iaPrefix(held, forever, forever))), nil)
			sleep(3 * time.Second)
			b.clear()
			b.stepClock(4 * time.Second)
			sleep(time.Hour)
			b.wantHeard()
		})
	})
}

// Between a step and the next look at the clocks, time.Until of what was told must be right.
func TestToldTimesHaveAMonotonicReading(t *testing.T) {
	mono, wall := systemClock()
	reported := instant{mono, wall}.at(mono + time.Hour)
	if !strings.Contains(reported.String(), " m=") || reported.Nanosecond() != 0 {
		t.Errorf("told %v", reported)
	}
	if left := time.Until(reported); left < time.Hour-2*time.Second || left > time.Hour {
		t.Errorf("an hour from now is %v from now", left)
	}
	if again, _ := systemClock(); again < mono {
		t.Errorf("the clock since boot ran from %v to %v", mono, again)
	}
}

// The machine sleeps: Go's timers stand still, the server's lifetimes do not.
func TestTimeAsleepCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var asleep atomic.Int64 // a time.Duration
		b := start(t, generous(1000, 2000), func(cfg *Config) {
			clock := cfg.Clock
			cfg.Clock = func() (time.Duration, time.Time) {
				mono, wall := clock()
				return mono + time.Duration(asleep.Load()), wall.Add(time.Duration(asleep.Load()))
			}
		})
		sleep(3 * time.Second)
		b.clear()
		b.script(nil)
		asleep.Store(int64(time.Hour))
		sleep(maxSleep)
		b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
	})
}

// ipv6.md 1.16: the DUID is opaque and outlives everything.
func TestADUIDIsMadeOnceAndIsOpaque(t *testing.T) {
	a, b := NewDUID(), NewDUID()
	if a.String() == b.String() {
		t.Error("two DUIDs are equal")
	}
	parsed, err := dhcpv6.DUIDFromBytes(a)
	if u, ok := parsed.(*dhcpv6.DUIDUUID); err != nil || !ok || u.UUID[6]>>4 != 4 || u.UUID[8]>>6 != 2 {
		t.Errorf("%v is no DUID-UUID of version 4: %v, %v", a, parsed, err)
	}
	var back DUID
	if text, err := json.Marshal(a); err != nil || json.Unmarshal(text, &back) != nil || back.String() != a.String() {
		t.Errorf("%v came back as %v", a, back)
	}
	if err := back.UnmarshalText([]byte("00030001020000000001")); err != nil || back.String() != "00:03:00:01:02:00:00:00:00:01" {
		t.Errorf("%v, %v", back, err)
	}
	if err := back.UnmarshalText(nil); err != nil || back != nil {
		t.Errorf("the empty text is %v, %v", back, err)
	}
	for _, text := range []string{"00:03", "zz:zz:zz", "00:0", strings.Repeat("00", 131)} {
		if err := back.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// ipv6.md 1.18: RFC 6603.
func TestAnExcludedPrefixIsTold(t *testing.T) {
	for _, c := range []struct {
		name, prefix string
		option       []byte
		want         string // "" for none
	}{
		{"the example of the RFC", "2001:db8:dead:bee0::/59", []byte{64, 0x78}, "2001:db8:dead:beef::/64"},
		{"eight bits", held, []byte{64, 0xff}, "2001:db8:a:ff::/64"},
		{"sixteen bits", held, []byte{72, 0x00, 0xff}, "2001:db8:a:0:ff00::/72"},
		{"one bit", held, []byte{57, 0x80}, "2001:db8:a:80::/57"},
		{"up to 128", held, append([]byte{128}, 1, 2, 3, 4, 5, 6, 7, 8, 9), "2001:db8:a:1:203:405:607:809/128"},
		{"not the whole", held, []byte{56, 0}, ""},
		{"not more than the whole", held, []byte{48, 0}, ""},
		{"not above 128", held, append([]byte{129}, make([]byte, 10)...), ""},
		{"too short", held, []byte{72, 0xff}, ""},
		{"too long", held, []byte{64, 0xff, 0}, ""},
		{"empty", held, nil, ""},
		{"without bits", held, []byte{56}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, gives(alpha, iaPD(1, 0, 0, iaPrefix(c.prefix, 1000, 2000, opt(67, c.option)))), nil)
				sleep(3 * time.Second)
				got := ""
				if e := b.lease().Prefixes[0].Exclude; e.IsValid() {
					got = e.String()
				}
				if got != c.want {
					t.Errorf("excluded %q, want %q", got, c.want)
				}
			})
		})
	}
}
