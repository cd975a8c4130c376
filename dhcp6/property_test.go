package dhcp6

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"pgregory.net/rapid"
)

// anyOptions draws what a good or a confused server might send.
func anyOptions(t *rapid.T) []byte {
	if rapid.Bool().Draw(t, "good") {
		p := rapid.SampledFrom([]string{"2001:db8:a::/56", "2001:db8:d::/56"}).Draw(t, "prefix")
		return iaPD(1, 0, 0, iaPrefix(p, rapid.SampledFrom([]uint32{0, 30, 1000}).Draw(t, "preferred"), 1000))
	}
	prefixes := []string{"2001:db8:a::/56", "2001:db8:b::/56", "2001:db8:c::/60", "fe80::/64", "::/0"}
	life := rapid.SampledFrom([]uint32{0, 1, 7, 60, 1000, forever})
	code := rapid.SampledFrom([]byte{0, 0, 0, unspecFail, noBinding, noPrefix, notOnLink, 77})
	var out []byte
	for range rapid.IntRange(0, 4).Draw(t, "options") {
		var inner []byte
		for range rapid.IntRange(0, 3).Draw(t, "grants") {
			if p := rapid.SampledFrom(prefixes).Draw(t, "prefix"); rapid.Bool().Draw(t, "plain") {
				inner = append(inner, iaPrefix(p, life.Draw(t, "preferred"), life.Draw(t, "valid"))...)
			} else {
				inner = append(inner, iaPrefix(p, life.Draw(t, "preferred"), life.Draw(t, "valid"), stat(code.Draw(t, "prefix code"), ""))...)
			}
		}
		if rapid.Bool().Draw(t, "status") {
			inner = append(inner, stat(code.Draw(t, "IA code"), "")...)
		}
		switch rapid.IntRange(0, 9).Draw(t, "option") {
		case 0:
			out = append(out, stat(code.Draw(t, "code"), "")...)
		case 1:
			out = append(out, rapidCommit()...)
		case 2:
			out = append(out, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "rubbish")...)
		case 3:
			out = append(out, iaNA(1, life.Draw(t, "T1"), life.Draw(t, "T2"), iaAddr("2001:db8::5", life.Draw(t, "preferred"), life.Draw(t, "valid")))...)
		case 4:
			out = append(out, pref(rapid.Byte().Draw(t, "preference"))...)
		default:
			out = append(out, iaPD(rapid.Uint32Range(1, 3).Draw(t, "IAID"), life.Draw(t, "T1"), life.Draw(t, "T2"), inner)...)
		}
	}
	return out
}

// caller is what a caller keeps of the changes, which must be the lease.
type caller struct {
	have map[netip.Prefix]bool
	last *Lease
}

func (k *caller) take(t *rapid.T, ch Change, now instant) {
	for _, p := range ch.Prefixes {
		if gone := p.Outcome.Gone(); ch.Reason != Restored && !gone && p.Outcome != Added && p.Outcome != Kept && !k.have[p.Prefix] {
			t.Fatalf("%s: %v was %s without having been added", ch.Reason, p.Prefix, p.Outcome)
		} else if gone {
			delete(k.have, p.Prefix)
		} else {
			k.have[p.Prefix] = true
		}
	}
	got := map[netip.Prefix]bool{}
	if ch.Lease != nil {
		for _, d := range ch.Lease.Prefixes {
			if got[d.Prefix] {
				t.Fatalf("%s: %v is held twice", ch.Reason, d.Prefix)
			}
			got[d.Prefix] = true
			if d.Preferred.After(d.Valid) || d.Valid.Before(now.wall.Add(-time.Second)) {
				t.Fatalf("%s: %+v at %v", ch.Reason, d, now.wall)
			}
		}
		for _, a := range ch.Lease.Addresses {
			got[netip.PrefixFrom(a.Address, 128)] = true
		}
		if ch.Lease.Rebind.Before(ch.Lease.Renew) {
			t.Fatalf("%s: T2 %v before T1 %v", ch.Reason, ch.Lease.Rebind, ch.Lease.Renew)
		}
	}
	if diff := cmp.Diff(k.have, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Fatalf("%s: the parts do not add up to the lease (-parts +lease):\n%s", ch.Reason, diff)
	}
	k.last = ch.Lease
}

// Whatever servers, links and clocks do: the machine gets on, keeps the rate limit, repeats with the same
// transaction id, and tells of every coming and going.
func TestAnyHistoryIsToldExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := iaConfig{duid: ours, iapd: []IAPD{{ID: 1}, {ID: 2, Hint: mustPrefix("::/56")}}, iana: []uint32{1}, rapid: rapid.Bool().Draw(t, "rapid")}
		seed := rapid.Uint64().Draw(t, "seed")
		now, offset := origin, time.Duration(0)
		at := func() instant { return instant{now, epoch.Add(now + offset)} }
		k := &caller{have: map[netip.Prefix]bool{}}
		var times []time.Duration
		var last *dhcpv6.Message
		var stored *Lease
		if rapid.Bool().Draw(t, "restart") {
			stored = leased(0, time.Minute, time.Duration(rapid.Int64Range(-1, 5).Draw(t, "left"))*time.Minute, rapid.Bool().Draw(t, "pd"))
		}
		if rapid.Bool().Draw(t, "address alone") {
			w.iapd = nil
		}
		m, fx := newMachine(w, stored, rand.New(rand.NewPCG(seed, 1)).Float64, at())
		take := func(fx effects) {
			for _, ch := range fx.changes {
				k.take(t, ch, at())
			}
			if fx.send == nil {
				return
			}
			msg, err := dhcpv6.MessageFromBytes(fx.send)
			if err != nil {
				t.Fatal(err)
			}
			if m.ex.sent > 1 && (msg.TransactionID != last.TransactionID || msg.MessageType != last.MessageType) {
				t.Fatalf("message %d of a transaction is %v after %v", m.ex.sent, msg, last)
			}
			times, last = append(times, now), msg
			if n := len(times); n > limitCount && now-times[n-1-limitCount] < limitSpan {
				t.Fatalf("%d messages within %v", limitCount+1, now-times[n-1-limitCount])
			}
		}
		take(fx)
		take(m.linkUp(at()))
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			switch event := rapid.IntRange(0, 30).Draw(t, "event"); {
			case event == 0:
				take(m.linkUp(at()))
			case event == 1:
				take(m.linkDown(at()))
			case event == 2:
				offset += time.Duration(rapid.Int64Range(-1e6, 1e6).Draw(t, "step")) * time.Second
			case event == 3 && rapid.IntRange(0, 9).Draw(t, "really") == 0:
				take(m.release(at()))
			case event <= 12:
				if last == nil {
					continue
				}
				server := rapid.SampledFrom([]DUID{alpha, beta}).Draw(t, "server")
				kind := rapid.SampledFrom([]byte{kindFor(last), kindFor(last), advertise, replies}).Draw(t, "kind")
				take(m.receive(reply(kind, last, server, anyOptions(t)), at()))
			default:
				due := m.deadline()
				if due < now {
					// A clock that stood still has the machine look once; it must not stay due.
					take(m.tick(at()))
					if m.deadline() <= due {
						t.Fatalf("due at %v, for ever", due)
					}
					continue
				}
				now = max(now, min(due, now+24*time.Hour))
				take(m.tick(at()))
				if after := m.deadline(); after <= now && after == due {
					t.Fatalf("state %s: still due at %v after tick at %v", m.state, after, now)
				}
			}
			if len(m.held.entries) > maxEntries {
				t.Fatalf("%d entries", len(m.held.entries))
			}
			if (m.held.lease(at()) == nil) != (k.last == nil) {
				t.Fatalf("held %v, told %v", m.held.entries, k.last)
			}
			if m.state == bound && len(m.held.entries) == 0 {
				t.Fatal("bound to nothing")
			}
		}
	})
}

// A Reply with two thousand prefixes must not become two thousand rules.
func TestAFloodOfPrefixesIsBounded(t *testing.T) {
	var inner [][]byte
	for i := range 2000 {
		inner = append(inner, iaPrefix(fmt.Sprintf("2001:db8:%x::/56", i), 100, 200))
	}
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(1, 0, 0, slices.Concat(inner...))), nil)
		sleep(3 * time.Second)
		if l := b.lease(); l == nil || len(l.Prefixes) != maxEntries || strings.Count(b.heard(), "added") != maxEntries {
			t.Fatalf("%+v", l)
		}
	})
}

func seeds(f *testing.F) []byte {
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	all := reply(replies, m, alpha, stat(0, "fine"), pref(3), rapidCommit(), opt(82, u32(60)), opt(23, make([]byte, 16)), opt(24, []byte("\x03lan\x00")),
		iaPD(1, 10, 20, iaPrefix(held, 30, 40, opt(67, []byte{64, 1}), stat(noBinding, "x")), stat(noPrefix, "y")), iaNA(1, 10, 20, iaAddr("2001:db8::5", 30, 40)))
	f.Add(all)
	f.Add(all[:len(all)-7])
	f.Add(reply(advertise, m, beta, iaPD(1, 20, 10, iaPrefix("2001:db8:a::ffff/56", 50, 40))))
	f.Add([]byte{})
	return all
}

// FuzzParse: no datagram makes the parser panic or let through what must not be used.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		for _, d := range m.domains {
			if len(d) > 253 || d == "" {
				t.Errorf("domain %q", d)
			}
		}
		for _, a := range m.ias {
			if a.t1 > a.t2 && a.t2 > 0 {
				t.Errorf("%v: T1 %v, T2 %v", a.iaKey, a.t1, a.t2)
			}
			for _, g := range a.grants {
				if g.preferred > g.valid || g.prefix != g.prefix.Masked() || g.prefix.Bits() < shortestPrefix || !routable(g.prefix.Addr()) || a.pd == false && !g.prefix.IsSingleIP() {
					t.Errorf("%v: %+v", a.iaKey, g)
				}
				if g.exclude.IsValid() && (g.exclude.Bits() <= g.prefix.Bits() || !g.prefix.Contains(g.exclude.Addr()) || g.exclude != g.exclude.Masked()) {
					t.Errorf("%v: %v excludes %v", a.iaKey, g.prefix, g.exclude)
				}
			}
		}
	})
}

// FuzzReceive: no datagram, in any state, makes the machine panic, stop, or forget a lease without a word.
func FuzzReceive(f *testing.F) {
	f.Add(seeds(f)[headerSize:])
	f.Fuzz(func(t *testing.T, options []byte) {
		for _, s := range []state{soliciting, requesting, renewing, rebinding, verifying, releasing} {
			for _, kind := range []byte{advertise, replies} {
				m, _ := newMachine(iaConfig{duid: ours, iapd: alwaysPD, rapid: true}, leased(time.Hour, 2*time.Hour, 3*time.Hour, true), func() float64 { return 0.5 }, moment(origin))
				if s == requesting {
					m.requestHeld(alpha, moment(origin))
				} else {
					m.begin(s, moment(origin))
				}
				m.flush()
				at := max(m.ex.at, origin)
				if m.ex.sent == 0 {
					m.tick(moment(at))
				}
				fx := m.receive(slices.Concat([]byte{kind}, m.ex.xid[:], options), moment(at))
				reported := false
				for _, ch := range fx.changes {
					for _, p := range ch.Prefixes {
						reported = reported || p.Outcome.Gone() && p.Prefix == mustPrefix(held)
					}
				}
				kept := slices.ContainsFunc(m.held.entries, func(e entry) bool { return e.prefix == mustPrefix(held) })
				if kept == reported {
					t.Errorf("%s: kept %v, told %v", s, kept, reported)
				}
				if m.state != released && m.deadline() == never && len(m.held.entries) == 0 {
					t.Errorf("%s: the machine waits for nothing", s)
				}
			}
		}
	})
}
