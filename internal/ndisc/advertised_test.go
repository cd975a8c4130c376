package ndisc

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tester is what *testing.T and *rapid.T share.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// advertised is what hosts hear of a content: preferred and valid in seconds.
func advertised(t tester, c Content, now time.Time) map[string][2]uint32 {
	t.Helper()
	if err := c.check(); err != nil {
		t.Fatalf("%v", err)
	}
	messages, err := c.messages(Link{Addr: ourAddr, Hardware: hardware, MTU: 1500}, now)
	if err != nil {
		t.Fatalf("%v", err)
	}
	found := make(map[string][2]uint32)
	for _, m := range messages {
		a, err := parseAdvert(Packet{Data: m, From: ourAddr, HopLimit: 255})
		if err != nil || len(a.ignored) > 0 {
			t.Fatalf("%v %q", err, a.ignored)
		}
		for _, p := range a.prefixes {
			if !p.onLink || !p.autonomous {
				t.Errorf("%v lacks a flag", p.prefix)
			}
			found[p.prefix.String()] = [2]uint32{uint32(p.preferred / time.Second), uint32(p.valid / time.Second)}
		}
		found["default"] = [2]uint32{uint32(a.lifetime / time.Second), 0}
	}
	return found
}

func wantAdvertised(t *testing.T, c Content, now time.Time, want map[string][2]uint32) {
	t.Helper()
	if diff := cmp.Diff(want, advertised(t, c, now)); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

var (
	fresh   = [2]uint32{2700, 5400}
	router  = [2]uint32{2700, 0}
	denied  = [2]uint32{0, 0}
	leaving = [2]uint32{0, 5400}
)

// The rows of the table of LAN advertisements.

func TestUplinkDownWhileAnotherIsUp(t *testing.T) {
	var l Advertised
	wantAdvertised(t, l.Update(both(true, true), noon), noon, map[string][2]uint32{
		"default": router, fiber.String(): fresh, lte.String(): fresh, ula.String(): fresh})
	wantAdvertised(t, l.Update(both(false, true), noon), noon, map[string][2]uint32{
		"default": router, fiber.String(): leaving, lte.String(): fresh, ula.String(): fresh})

	short := both(false, true)
	short.Prefixes[0].Valid = noon.Add(1000*time.Second + 999*time.Millisecond)
	wantAdvertised(t, l.Update(short, noon), noon, map[string][2]uint32{
		"default": router, fiber.String(): {0, 1000}, lte.String(): fresh, ula.String(): fresh})
}

func TestUplinkBack(t *testing.T) {
	var l Advertised
	l.Update(both(false, true), noon)
	wantAdvertised(t, l.Update(both(true, true), noon), noon, map[string][2]uint32{
		"default": router, fiber.String(): fresh, lte.String(): fresh, ula.String(): fresh})
}

func TestPrefixChangedExpiredOrRevoked(t *testing.T) {
	changed := both(true, true)
	changed.Prefixes[0].Prefix = netip.MustParsePrefix("2001:db8:a:f1::/64")
	revoked := both(true, true)
	revoked.Prefixes = revoked.Prefixes[1:]
	for name, in := range map[string]Input{"changed": changed, "revoked": revoked} {
		t.Run(name, func(t *testing.T) {
			var l Advertised
			l.Update(both(true, true), noon)
			gone := noon.Add(time.Hour)
			for _, at := range []time.Duration{0, time.Second, 5399 * time.Second} {
				if got, present := advertised(t, l.Update(in, gone.Add(at)), gone.Add(at))[fiber.String()]; !present || got != denied {
					t.Errorf("%v after: %v, %v", at, got, present)
				}
			}
			if got, present := advertised(t, l.Update(in, gone.Add(maxValid)), gone.Add(maxValid))[fiber.String()]; present {
				t.Errorf("for ever: %v", got)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		in := both(true, true)
		in.Prefixes[0].Preferred, in.Prefixes[0].Valid = noon.Add(1000*time.Second), noon.Add(2000*time.Second)
		var l Advertised
		c := l.Update(in, noon)
		for _, s := range []struct {
			after time.Duration
			want  [2]uint32
		}{{0, [2]uint32{1000, 2000}}, {820 * time.Second, [2]uint32{180, 1180}}, {821 * time.Second, [2]uint32{0, 1179}},
			{1820 * time.Second, [2]uint32{0, 180}}, {1821 * time.Second, denied}, {3 * time.Hour, denied}} {
			if got := advertised(t, c, noon.Add(s.after))[fiber.String()]; got != s.want {
				t.Errorf("after %v, nothing renewed: %v, want %v", s.after, got, s.want)
			}
		}
		end := noon.Add(2000 * time.Second)
		c = l.Update(revoked, end)
		if got, present := advertised(t, c, end.Add(minWithdrawal-time.Second))[fiber.String()]; !present || got != denied {
			t.Errorf("after its end: %v, %v", got, present)
		}
		if _, present := advertised(t, c, end.Add(minWithdrawal))[fiber.String()]; present {
			t.Error("denied for ever")
		}
	})
}

func TestAllUplinksDown(t *testing.T) {
	var l Advertised
	l.Update(both(true, true), noon)
	wantAdvertised(t, l.Update(both(false, false), noon), noon, map[string][2]uint32{
		"default": denied, fiber.String(): fresh, lte.String(): fresh, ula.String(): fresh})

	l = Advertised{}
	l.Update(both(false, true), noon)
	wantAdvertised(t, l.Update(both(false, false), noon), noon, map[string][2]uint32{
		"default": denied, fiber.String(): leaving, lte.String(): fresh, ula.String(): fresh})
	wantAdvertised(t, l.Update(both(true, false), noon), noon, map[string][2]uint32{
		"default": router, fiber.String(): fresh, lte.String(): leaving, ula.String(): fresh})
}

func TestAPrefixThatComesBackIsLiveAgain(t *testing.T) {
	var l Advertised
	l.Update(both(true, true), noon)
	revoked := both(true, true)
	revoked.Prefixes = revoked.Prefixes[1:]
	for range 50 { // odhcpd 387: a list that feeds itself
		l.Update(revoked, noon.Add(time.Minute))
		l.Update(both(true, true), noon.Add(2*time.Minute))
	}
	wantAdvertised(t, l.Content(), noon.Add(2*time.Minute), map[string][2]uint32{
		"default": router, fiber.String(): fresh, lte.String(): fresh, ula.String(): fresh})
	if len(l.Entries) != 3 {
		t.Errorf("%+v", l.Entries)
	}
}

func TestADelegationThatWasCutShortIsDeniedForAsLongAsHostsWereAdvertised(t *testing.T) {
	var l Advertised
	l.Update(both(true, true), noon)
	short := both(true, true)
	short.Prefixes[0].Valid = noon.Add(200 * time.Second)
	l.Update(short, noon)
	revoked := both(true, true)
	revoked.Prefixes = revoked.Prefixes[1:]
	at := noon.Add(200 * time.Second)
	c := l.Update(revoked, at)
	if got, present := advertised(t, c, noon.Add(5399*time.Second))[fiber.String()]; !present || got != denied {
		t.Errorf("hosts believe an advertisement below two hours only as far as they must: %v, %v", got, present)
	}
}

func TestWhatWasAdvertisedOutlastsARestart(t *testing.T) {
	var l Advertised
	in := both(true, true)
	in.DNS, in.Search = []netip.Addr{netip.MustParseAddr("fd00:db8:1:1::1")}, []string{"lan"}
	l.Update(in, noon)
	l.Update(both(true, true), noon.Add(time.Second))
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var again Advertised
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	if b2, _ := json.Marshal(again); string(b2) != string(b) {
		t.Errorf("the JSON is not stable:\n%s\n%s", b, b2)
	}
	again.Update(both(true, true), noon.Add(time.Minute))
	if b2, _ := json.Marshal(again); string(b2) != string(b) {
		t.Errorf("the same input changes what is kept:\n%s\n%s", b, b2)
	}
	renumbered := both(true, true) // while we were off
	renumbered.Prefixes[1].Prefix = netip.MustParsePrefix("2001:db8:b:f1::/64")
	later := noon.Add(time.Hour)
	wantAdvertised(t, again.Update(renumbered, later), later, map[string][2]uint32{"default": router, fiber.String(): fresh,
		lte.String(): denied, "2001:db8:b:f1::/64": fresh, ula.String(): fresh})
}

func TestNamesThatAreNoLongerServedAreDenied(t *testing.T) {
	var l Advertised
	in := both(true, true)
	old, current := netip.MustParseAddr("fd00:db8:1:1::1"), netip.MustParseAddr("fd00:db8:1:1::2")
	in.DNS, in.Search = []netip.Addr{old}, []string{"old", "lan"}
	l.Update(in, noon)
	in.DNS, in.Search = []netip.Addr{current}, []string{"lan"}
	for _, at := range []time.Time{noon.Add(time.Minute), noon.Add(2 * time.Minute)} {
		c := l.Update(in, at)
		if !slices.Equal(c.DNS, []netip.Addr{current}) || !slices.Equal(c.NoDNS, []netip.Addr{old}) ||
			!slices.Equal(c.Search, []string{"lan"}) || !slices.Equal(c.NoSearch, []string{"old"}) {
			t.Errorf("%+v", c)
		}
	}
	if c := l.Update(in, noon.Add(time.Minute+nameLifetime)); len(c.NoDNS)+len(c.NoSearch) > 0 {
		t.Errorf("for ever: %+v", c)
	}
}

func TestRoutesToTheDelegationsAreAdvertised(t *testing.T) {
	var l Advertised
	in := both(false, true)
	in.Prefixes[0].Valid = noon.Add(1000 * time.Second)
	lifetimes := func(c Content, at time.Time) map[string]time.Duration {
		found := make(map[string]time.Duration)
		for _, r := range c.Routes {
			found[r.Prefix.String()] = r.lifetime(at)
		}
		return found
	}
	want := map[string]time.Duration{"2001:db8:a::/56": 1000 * time.Second, "2001:db8:b::/56": routeLifetime, "fd00:db8:1::/48": routeLifetime}
	if diff := cmp.Diff(want, lifetimes(l.Update(in, noon), noon)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	in.Prefixes = in.Prefixes[1:]
	want["2001:db8:a::/56"] = 0
	if diff := cmp.Diff(want, lifetimes(l.Update(in, noon), noon)); diff != "" {
		t.Errorf("after it was taken away (-want +got):\n%s", diff)
	}
	renumbered := both(true, true) // another /64 of the same delegation
	renumbered.Prefixes[0].Prefix = netip.MustParsePrefix("2001:db8:a:2::/64")
	want["2001:db8:a::/56"] = routeLifetime
	if diff := cmp.Diff(want, lifetimes(l.Update(renumbered, noon), noon)); diff != "" {
		t.Errorf("the delegation is live by another prefix (-want +got):\n%s", diff)
	}
}

func TestAProviderThatRenumbersAllDayHasBounds(t *testing.T) {
	var l Advertised
	for i := range 500 {
		in := both(true, true)
		in.Prefixes[0].Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: byte(i / 256), 7: byte(i)}), 64)
		l.Update(in, noon.Add(time.Duration(i)*time.Second))
	}
	if n := len(l.Entries); n != maxStale+3 {
		t.Errorf("%d entries", n)
	}
	last := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: 1, 7: 0xf2}), 64) // the one before the present
	if got, present := advertised(t, l.Content(), noon.Add(500*time.Second))[last.String()]; !present || got != denied {
		t.Errorf("the latest must be denied rather than the oldest: %v, %v", got, present)
	}
}

// TestEveryPrefixIsLiveOrDenied runs random histories and checks what hosts hear after each step.
func TestEveryPrefixIsLiveOrDenied(t *testing.T) {
	pool := make([]netip.Prefix, 6)
	for i := range pool {
		pool[i] = netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d:1::/64", i+1))
	}
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		var l Advertised
		held := make(map[string]time.Time) // until when a host may believe in a prefix, by what it was told
		var in Input
		content := l.Update(in, now)
		listen := func() { // to one advertisement
			live := make(map[string]LivePrefix)
			for _, p := range in.Prefixes {
				live[p.Prefix.String()] = p
			}
			heard := advertised(t, content, now)
			for prefix, until := range held {
				if _, isLive := live[prefix]; isLive || !now.Before(until) {
					continue
				}
				if got, present := heard[prefix]; !present || got != denied {
					t.Fatalf("%v is gone, hosts hold it until %v, it is %v, and they hear %v, %v", prefix, until, now, got, present)
				}
			}
			delete(heard, "default")
			for prefix, got := range heard {
				for _, s := range got {
					if s > 0 && s < 180 {
						t.Fatalf("%v: Android ignores %d s", prefix, s)
					}
				}
				if p := live[prefix]; !p.Valid.IsZero() && got[1] > 0 && now.Add(time.Duration(got[1])*time.Second).After(p.Valid) {
					t.Fatalf("%v: valid for %d s, beyond the delegation's %v", prefix, got[1], p.Valid.Sub(now))
				}
				if got[0] > 2700 || got[1] > 5400 || got[0] > got[1] {
					t.Fatalf("%v: %v", prefix, got)
				}
				if end := now.Add(time.Duration(got[1]) * time.Second); got[1] > 0 && end.After(held[prefix]) {
					held[prefix] = end
				}
			}
		}
		listen()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "seconds")) * time.Second)
			listen()
			if rapid.Bool().Draw(t, "restart") {
				b, err := json.Marshal(l)
				if err != nil {
					t.Fatal(err)
				}
				l = Advertised{}
				if err := json.Unmarshal(b, &l); err != nil {
					t.Fatal(err)
				}
			}
			in = drawInput(t, pool, now)
			content = l.Update(in, now)
			listen()
			if again := l.Update(in, now); !cmp.Equal(content, again, comparable) {
				t.Fatalf("the same again: %s", cmp.Diff(content, again, comparable))
			}
		}
	})
}

func drawInput(t *rapid.T, pool []netip.Prefix, now time.Time) Input {
	var in Input
	for _, p := range pool {
		if !rapid.Bool().Draw(t, "live") {
			continue
		}
		live := LivePrefix{Prefix: p, Uplink: "fiber", Usable: rapid.Bool().Draw(t, "usable")}
		if rapid.Bool().Draw(t, "ends") {
			live.Valid = now.Add(time.Duration(rapid.IntRange(0, 10000).Draw(t, "valid")) * time.Second)
			if rapid.Bool().Draw(t, "preference ends") { // else longer than valid: a server's mistake
				live.Preferred = live.Valid.Add(-time.Duration(rapid.IntRange(0, 3000).Draw(t, "before")) * time.Second)
			}
		}
		in.AnyUsable = in.AnyUsable || live.Usable
		in.Prefixes = append(in.Prefixes, live)
	}
	return in
}

func TestAnAdvertisementThatIsTooLargeIsSplit(t *testing.T) {
	var l Advertised
	in := both(true, true)
	for i := range 60 {
		in.Prefixes = append(in.Prefixes, LivePrefix{Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i + 1)}), 64), Usable: true})
		in.Search = append(in.Search, fmt.Sprintf("d%d.a-rather-long-domain.example.net", i))
		in.DNS = append(in.DNS, netip.AddrFrom16([16]byte{0xfd, 15: byte(i + 1)}))
	}
	c := l.Update(in, noon)
	messages, err := c.messages(Link{Hardware: hardware}, noon)
	if err != nil {
		t.Fatal(err)
	}
	servers, domains := map[netip.Addr]bool{}, map[string]bool{}
	for i, m := range messages {
		if len(m) > maxAdvert {
			t.Errorf("message %d has %d bytes", i, len(m))
		}
		a, err := parseAdvert(Packet{Data: m, From: ourAddr, HopLimit: 255})
		if err != nil || len(a.ignored) > 0 || a.lifetime != routerLifetime {
			t.Errorf("message %d: %v %q %v", i, err, a.ignored, a.lifetime)
		}
		for _, s := range a.servers {
			servers[s.server] = true
		}
		for _, d := range a.domains {
			domains[d.domain] = true
		}
	}
	if prefixes := advertised(t, c, noon); len(prefixes) != 64 || len(servers) != 60 || len(domains) != 60 {
		t.Errorf("%d messages have %d prefixes, %d servers, %d domains", len(messages), len(prefixes)-1, len(servers), len(slices.Collect(maps.Keys(domains))))
	}
}

func TestContentThatCannotBeAdvertisedIsRefused(t *testing.T) {
	for name, c := range map[string]Content{
		"an MTU below 1280":          {MTU: 1279},
		"a hop limit of 256":         {HopLimit: 256},
		"a link-local prefix":        {Prefixes: []Announcement{{Prefix: netip.MustParsePrefix("fe80::/64")}}},
		"a prefix with host bits":    {Prefixes: []Announcement{{Prefix: netip.MustParsePrefix("2001:db8::1/64")}}},
		"an IPv4 prefix":             {Prefixes: []Announcement{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}},
		"no prefix":                  {Prefixes: []Announcement{{}}},
		"a route to everything":      {Routes: []AnnouncedRoute{{Prefix: netip.MustParsePrefix("::/0")}}},
		"a DNS server of IPv4":       {DNS: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		"a DNS server with a zone":   {DNS: []netip.Addr{netip.MustParseAddr("fe80::1%lan0")}},
		"a search domain in capital": {Search: []string{"Lan"}},
		"an empty label":             {Search: []string{"a..b"}},
	} {
		if c.check() == nil {
			t.Errorf("%s is accepted", name)
		}
		if NewAdvertiser(AdvertiserConfig{Log: quiet()}).SetContent(c) == nil {
			t.Errorf("%s is set", name)
		}
	}
}
