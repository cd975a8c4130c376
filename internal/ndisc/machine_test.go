package ndisc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
	"pgregory.net/rapid"
)

// noon is when these tests begin.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func middle() float64 { return 0.5 }

func machineAt(last State) *machine {
	m := newMachine("wan1", secret, last, middle)
	m.linkUp(1500, noon)
	return m
}

// deliverTo lets a machine hear an advertisement of which all must be of use.
func deliverTo(t *testing.T, m *machine, s says, from netip.Addr, at time.Time) {
	t.Helper()
	if err := m.receive(s.packet(from), at); err != nil {
		t.Error(err)
	}
}

func order(v View) []netip.Addr {
	var list []netip.Addr
	for _, r := range v.Routers {
		list = append(list, r.Addr)
	}
	return list
}

func TestRoutersAreChosenByReachabilityThenPreferenceThenAge(t *testing.T) {
	m := machineAt(State{})
	third := netip.MustParseAddr("fe80::3")
	want := func(what string, addrs ...netip.Addr) {
		t.Helper()
		if diff := cmp.Diff(addrs, order(m.state.view()), comparable); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	deliverTo(t, m, says{lifetime: time.Hour}, gateway2, noon)
	deliverTo(t, m, says{lifetime: time.Hour}, gateway, noon)
	deliverTo(t, m, says{lifetime: time.Hour, preference: ndp.Low}, third, noon)
	want("of equal preference, the one heard first", gateway2, gateway, third)
	deliverTo(t, m, says{lifetime: time.Hour}, gateway2, noon.Add(time.Minute))
	want("hearing the first again changes nothing", gateway2, gateway, third)
	deliverTo(t, m, says{lifetime: time.Hour, preference: ndp.High}, third, noon)
	want("the preferred one first", third, gateway2, gateway)
	m.setReachable(third, false)
	want("one that does not answer last", gateway2, gateway, third)
	m.setReachable(third, true)
	want("until it does again", third, gateway2, gateway)
	deliverTo(t, m, says{}, third, noon)
	want("lifetime 0 ends one default only", gateway2, gateway)
	m.expire(noon.Add(time.Hour))
	want("an hour later only the one heard since", gateway2)
}

func TestLifetime0TakesTheDefaultOfThatRouterOnly(t *testing.T) {
	m := machineAt(State{})
	full := says{lifetime: time.Hour, options: []ndp.Option{pio("2001:db8:a:1::/64", time.Hour, time.Hour),
		rio("2001:db8:f::/48", ndp.Medium, time.Hour), &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{gateway}}}}
	deliverTo(t, m, full, gateway, noon)
	deliverTo(t, m, full, gateway2, noon)
	before := m.state.view()
	deliverTo(t, m, says{}, gateway, noon.Add(time.Second))
	after := m.state.view()
	if diff := cmp.Diff([]netip.Addr{gateway2}, order(after), comparable); diff != "" {
		t.Error(diff)
	}
	before.Routers, after.Routers, before.State, after.State = nil, nil, State{}, State{}
	if diff := cmp.Diff(before, after, comparable); diff != "" {
		t.Errorf("more than the default went (-before +after):\n%s", diff)
	}
	if len(after.Routes) != 2 {
		t.Errorf("each router's route is its own: %+v", after.Routes)
	}
}

func TestRoutesHaveLifetimesOfTheirOwn(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, says{lifetime: 100 * time.Second, options: []ndp.Option{rio("2001:db8:f::/48", ndp.Low, time.Hour),
		rio("2001:db8:e::/48", ndp.Low, 10*time.Second)}}, gateway, noon)
	deliverTo(t, m, says{lifetime: 100 * time.Second, options: []ndp.Option{rio("2001:db8:f::/48", ndp.High, time.Hour)}}, gateway2, noon)
	m.expire(noon.Add(100 * time.Second))
	v := m.state.view()
	want := []Route{{netip.MustParsePrefix("2001:db8:f::/48"), gateway2, High, noon.Add(time.Hour)},
		{netip.MustParsePrefix("2001:db8:f::/48"), gateway, Low, noon.Add(time.Hour)}}
	if diff := cmp.Diff(want, v.Routes, comparable); diff != "" || len(v.Routers) != 0 {
		t.Errorf("routers %v, routes (-want +got):\n%s", v.Routers, diff)
	}
	m.setReachable(gateway2, false)
	if v := m.state.view(); v.Routes[0].Router != gateway {
		t.Errorf("the route of a router that does not answer comes first: %+v", v.Routes)
	}
	deliverTo(t, m, says{options: []ndp.Option{rio("2001:db8:f::/48", ndp.High, 0)}}, gateway2, noon.Add(100*time.Second))
	if v := m.state.view(); len(v.Routes) != 1 || v.Routes[0].Router != gateway {
		t.Errorf("withdrawn by one: %+v", v.Routes)
	}
}

func TestARouteToEverythingOverridesTheHeader(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, says{lifetime: time.Minute, preference: ndp.High, options: []ndp.Option{rio("::/0", ndp.Low, time.Hour)}}, gateway, noon)
	v := m.state.view()
	if len(v.Routers) != 1 || v.Routers[0].Preference != Low || !v.Routers[0].Expires.Equal(noon.Add(time.Hour)) || len(v.Routes) != 0 {
		t.Errorf("%+v", v)
	}
	deliverTo(t, m, says{lifetime: time.Minute, options: []ndp.Option{rio("::/0", ndp.Low, 0)}}, gateway, noon)
	if v := m.state.view(); len(v.Routers) != 0 {
		t.Errorf("%+v", v.Routers)
	}
}

func TestValidLifetimesOfAddressesFollowTheTwoHourRule(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		name              string
		first, then, want time.Duration // of validity; the second comes an hour later
	}{
		{"longer than what remains", 4 * h, 5 * h, 5 * h},
		{"shorter, but above two hours", 9 * h, 3 * h, 3 * h},
		{"below two hours and longer than what remains", 2 * h, h + h/2, h + h/2},
		{"below two hours, shorter than the less than two hours that remain", 2 * h, h / 2, h},
		{"0 while less than two hours remain", 2 * h, 0, h},
		{"below two hours while more remains", 9 * h, h, 2 * h},
		{"0 while more than two hours remain", 9 * h, 0, 2 * h},
		{"0 while it never ends", forever, 0, 2 * h},
		{"never ending", h + h/2, forever, forever},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machineAt(State{})
			deliverTo(t, m, says{lifetime: h, options: []ndp.Option{pio("2001:db8:a:1::/64", min(c.first, h), c.first)}}, gateway, noon)
			later := noon.Add(h)
			deliverTo(t, m, says{lifetime: h, options: []ndp.Option{pio("2001:db8:a:1::/64", 0, c.then)}}, gateway, later)
			v := m.state.view()
			if len(v.Addresses) != 1 {
				t.Fatalf("%+v", v.Addresses)
			}
			if got := remaining(v.Addresses[0].Valid, later); got != c.want {
				t.Errorf("valid for %v, want %v", got, c.want)
			}
			if !over(v.Addresses[0].Preferred, later) {
				t.Error("preferred 0 counts at once")
			}
			if off := len(v.Prefixes) == 0; off != (c.then == 0) {
				t.Errorf("a prefix with lifetime 0 is off the link at once: %+v", v.Prefixes)
			}
		})
	}
}

func TestAddressesAreFormedOnlyWhereTheyMayBe(t *testing.T) {
	quiet := pio("2001:db8:a:2::/64", time.Hour, time.Hour)
	quiet.AutonomousAddressConfiguration = false
	m := machineAt(State{})
	deliverTo(t, m, says{lifetime: time.Hour, options: []ndp.Option{quiet, pio("2001:db8:a:300::/56", time.Hour, time.Hour),
		pio("2001:db8:a:4::/64", 0, 0), pio("2001:db8:a:5::/64", 0, time.Hour)}}, gateway, noon)
	v := m.state.view()
	if len(v.Addresses) != 1 || v.Addresses[0].Address.Masked() != netip.MustParsePrefix("2001:db8:a:5::/64") {
		t.Errorf("%+v", v.Addresses)
	}
	if len(v.Prefixes) != 3 {
		t.Errorf("prefixes of other lengths are on the link all the same: %+v", v.Prefixes)
	}
}

func TestATakenAddressIsReplacedThreeTimes(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, plain(time.Hour), gateway, noon)
	seen := map[netip.Addr]bool{}
	for range maxConflicts + 1 {
		v := m.state.view()
		if len(v.Addresses) != 1 || seen[v.Addresses[0].Address.Addr()] {
			t.Fatalf("after %d conflicts: %+v", len(seen), v.Addresses)
		}
		seen[v.Addresses[0].Address.Addr()] = true
		m.addressFailed(v.Addresses[0].Address.Addr())
		m.addressFailed(netip.MustParseAddr("2001:db8:a:1::dead")) // not ours
	}
	if v := m.state.view(); len(v.Addresses) != 0 {
		t.Errorf("no address is left to try: %+v", v.Addresses)
	}
	deliverTo(t, m, plain(time.Hour), gateway, noon.Add(time.Minute))
	if v := m.state.view(); len(v.Addresses) != 0 {
		t.Errorf("the next advertisement makes no difference: %+v", v.Addresses)
	}
}

func TestStableAddressesDependOnEachOfTheirParts(t *testing.T) {
	p := netip.MustParsePrefix("2001:db8:a:1::/64")
	base := stableAddress(p, "wan1", 0, secret)
	if again := stableAddress(p, "wan1", 0, secret); again != base || !p.Contains(base) {
		t.Errorf("%v, then %v", base, again)
	}
	for what, other := range map[string]netip.Addr{
		"prefix":  stableAddress(netip.MustParsePrefix("2001:db8:a:2::/64"), "wan1", 0, secret),
		"device":  stableAddress(p, "wan2", 0, secret),
		"counter": stableAddress(p, "wan1", 1, secret),
		"secret":  stableAddress(p, "wan1", 0, []byte("another")),
	} {
		if other.As16()[15] == base.As16()[15] && other.As16()[14] == base.As16()[14] && other.As16()[8] == base.As16()[8] {
			t.Errorf("another %s gives the identifier of %v: %v", what, base, other)
		}
	}
	for id, want := range map[uint64]bool{0: true, 1: false, 0x02005efffe005213: true, 0x02005effff000000: false,
		0xfdffffffffffff7f: false, 0xfdffffffffffff80: true, 0xfdffffffffffffff: true, 0xfe00000000000000: false} {
		if reserved(id) != want {
			t.Errorf("%x: reserved is %v", id, !want)
		}
	}
}

func TestNamesAreForgottenWhenTheirRouterSaysSo(t *testing.T) {
	m := machineAt(State{})
	names := func(lifetime time.Duration) says {
		return says{lifetime: time.Hour, options: []ndp.Option{
			&ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: []netip.Addr{gateway}},
			&ndp.DNSSearchList{Lifetime: lifetime, DomainNames: []string{"lan"}}}}
	}
	deliverTo(t, m, names(time.Minute), gateway, noon)
	want := View{DNS: []Server{{gateway, noon.Add(time.Minute)}}, Search: []Domain{{"lan", noon.Add(time.Minute)}}}
	if v := m.state.view(); !cmp.Equal(want.DNS, v.DNS, comparable) || !cmp.Equal(want.Search, v.Search, comparable) {
		t.Errorf("%+v", v)
	}
	deliverTo(t, m, names(0), gateway, noon)
	if v := m.state.view(); len(v.DNS)+len(v.Search) != 0 {
		t.Errorf("%+v", v)
	}
}

// A NAT64 is the provider's: that of another router on the link is of no use by the one in use.
func TestTheNAT64OfTheRouterInUseHolds(t *testing.T) {
	m := machineAt(State{})
	one, other := netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/96")
	names := func(prefix netip.Prefix, lifetime time.Duration) says {
		return says{lifetime: time.Hour, options: []ndp.Option{&ndp.PREF64{Lifetime: lifetime, Prefix: prefix}}}
	}
	holds := func(now time.Time, want ...Translator) {
		t.Helper()
		m.expire(now)
		if v := m.view(); !slices.EqualFunc(v.NAT64, want, func(a, b Translator) bool {
			return a.Prefix == b.Prefix && a.Router == b.Router && a.Expires.Equal(b.Expires)
		}) {
			t.Errorf("%+v, want %+v", v.NAT64, want)
		}
	}
	deliverTo(t, m, names(one, 8*time.Minute), gateway, noon)
	deliverTo(t, m, names(other, 8*time.Minute), gateway2, noon)
	first := Translator{one, gateway, noon.Add(8 * time.Minute)}
	holds(noon, first)
	m = machineAt(m.state) // a restart
	holds(noon, first)
	deliverTo(t, m, names(other, 0), gateway, noon)
	holds(noon, first)
	deliverTo(t, m, names(one, 0), gateway, noon)
	holds(noon)
	deliverTo(t, m, names(one, 64*time.Second), gateway, noon)
	holds(noon.Add(63*time.Second), Translator{one, gateway, noon.Add(64 * time.Second)})
	holds(noon.Add(64 * time.Second))
}

func TestPreferencesAreWords(t *testing.T) {
	for _, p := range []Preference{Low, Medium, High} {
		b, err := json.Marshal(p)
		var again Preference
		if err != nil || json.Unmarshal(b, &again) != nil || again != p {
			t.Errorf("%v: %s, %v, %v", p, b, err, again)
		}
	}
	if p := new(Preference); json.Unmarshal([]byte(`"best"`), p) == nil {
		t.Error("best is no preference")
	}
}

func TestMTUIsTheSmallestThatFitsTheLink(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, says{lifetime: time.Hour, options: []ndp.Option{ndp.NewMTU(1480)}}, gateway, noon)
	deliverTo(t, m, says{lifetime: time.Hour, options: []ndp.Option{ndp.NewMTU(1400)}}, gateway2, noon)
	if v := m.state.view(); v.MTU != 1400 {
		t.Errorf("MTU %d", v.MTU)
	}
	for _, mtu := range []uint32{1279, 1501} {
		if err := m.receive(says{lifetime: time.Hour, options: []ndp.Option{ndp.NewMTU(mtu)}}.packet(gateway2), noon); err == nil || !strings.Contains(err.Error(), "MTU") {
			t.Errorf("MTU %d: %v", mtu, err)
		}
	}
	if v := m.state.view(); v.MTU != 1400 {
		t.Errorf("MTU %d after nonsense", v.MTU)
	}
}

func TestTheStateOutlastsARestart(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, says{lifetime: time.Hour, preference: ndp.High, options: []ndp.Option{pio("2001:db8:a:1::/64", 30*time.Minute, ndp.Infinity),
		rio("2001:db8:f::/48", ndp.Low, time.Hour), ndp.NewMTU(1480),
		&ndp.RecursiveDNSServer{Lifetime: time.Minute, Servers: []netip.Addr{gateway}},
		&ndp.DNSSearchList{Lifetime: time.Minute, DomainNames: []string{"example.net"}}}}, gateway, noon)
	m.addressFailed(m.state.view().Addresses[0].Address.Addr())
	b, err := json.Marshal(m.state.view().State)
	if err != nil {
		t.Fatal(err)
	}
	var last State
	if err := json.Unmarshal(b, &last); err != nil {
		t.Fatal(err)
	}
	again := machineAt(last)
	if diff := cmp.Diff(m.state.view(), again.state.view(), comparable); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if b2, _ := json.Marshal(again.state.view().State); string(b2) != string(b) {
		t.Errorf("the JSON is not stable:\n%s\n%s", b, b2)
	}
	if !again.soliciting() {
		t.Error("a router that is known from before must be asked all the same")
	}
	again.expire(noon.Add(time.Hour))
	if v := again.state.view(); len(v.Routers) != 0 || len(v.Routes) != 0 || len(v.DNS) != 0 || len(v.Addresses) != 1 {
		t.Errorf("an hour later: %+v", v)
	}
}

func TestOnlyAnOfferAfterTheLinkCameUpEndsTheAsking(t *testing.T) {
	m := machineAt(State{Routers: []Router{{Addr: gateway, Default: true, Expires: noon.Add(time.Hour), Heard: noon}}})
	deliverTo(t, m, says{}, gateway2, noon)
	if !m.soliciting() {
		t.Error("a router that offers nothing has answered for one that was known before")
	}
	deliverTo(t, m, says{lifetime: time.Hour}, gateway2, noon)
	if m.soliciting() {
		t.Error("asks on")
	}
}

func TestNonsenseInAStoredStateIsLeftOut(t *testing.T) {
	var last State
	err := json.Unmarshal([]byte(`{"routers":[{"addr":"2001:db8::1","default":true},{"addr":""}],"prefixes":[{"prefix":""}],
		"addresses":[{"address":"2001:db8::1/128"},{"address":""}],"routes":[{"prefix":"","router":"fe80::1"}],
		"dns":[{"addr":"192.0.2.1"}],"search":[{"name":"a b"}]}`), &last)
	if err != nil {
		t.Fatal(err)
	}
	if v := machineAt(last).state.view(); len(v.Routers)+len(v.Prefixes)+len(v.Addresses)+len(v.Routes)+len(v.DNS)+len(v.Search) != 0 {
		t.Errorf("%+v", v)
	}
}

func TestAFloodOfForgedAdvertisementsHasBounds(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, plain(time.Hour), gateway, noon)
	for i := range 600 { // the first half by ever new routers, the second by a few
		from := netip.AddrFrom16([16]byte{0xfe, 0x80, 14: 1, 15: byte(i)})
		if i >= 300 {
			from = netip.AddrFrom16([16]byte{0xfe, 0x80, 14: 1, 15: byte(i % 4)})
		}
		p := pio("2001:db8:a:1::/64", time.Hour, time.Hour)
		p.Prefix = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: byte(i / 256), 7: byte(i)})
		r := rio("2001:db8::/64", ndp.High, time.Hour)
		r.Prefix = p.Prefix
		_ = m.receive(says{lifetime: time.Hour, options: []ndp.Option{p, r,
			&ndp.DNSSearchList{Lifetime: time.Hour, DomainNames: []string{fmt.Sprintf("d%d", i)}},
			&ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: []netip.Addr{p.Prefix.Next()}}}}.packet(from), noon)
	}
	s := m.state
	if len(s.Routers) != maxRouters || len(s.Prefixes) != maxPrefixes || len(s.Addresses) != maxPrefixes || len(s.Routes) != maxRoutes ||
		len(s.DNS) != maxNames || len(s.Search) != maxNames || len(m.refreshes) != maxRouters {
		t.Errorf("%d routers, %d prefixes, %d addresses, %d routes, %d servers, %d domains, %d to ask", len(s.Routers), len(s.Prefixes),
			len(s.Addresses), len(s.Routes), len(s.DNS), len(s.Search), len(m.refreshes))
	}
	deliverTo(t, m, plain(2*time.Hour), gateway, noon)
	if v := m.state.view(); !slices.ContainsFunc(v.Routers, func(r Router) bool { return r.Addr == gateway && r.Expires.Equal(noon.Add(2*time.Hour)) }) {
		t.Error("the router that was there before was not heard any more")
	}
}

// TestTheViewHoldsOnlyWhatLasts checks the machine against random histories.
func TestTheViewHoldsOnlyWhatLasts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine("wan1", secret, State{}, func() float64 { return rapid.Float64Range(0, 0.999).Draw(t, "random") })
		now := noon
		lifetimes := []time.Duration{0, time.Second, time.Minute, time.Hour, 3 * time.Hour, forever}
		lifetime := rapid.SampledFrom(lifetimes)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "seconds")) * time.Second)
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0:
				m.linkUp(1500, now)
			case 1:
				m.linkDown()
			default:
				valid := lifetime.Draw(t, "valid")
				preferred := min(valid, lifetime.Draw(t, "preferred"))
				router := rapid.SampledFrom([]netip.Addr{gateway, gateway2}).Draw(t, "router")
				_ = m.receive(says{lifetime: min(lifetime.Draw(t, "lifetime"), 9000*time.Second), options: []ndp.Option{
					pio(rapid.SampledFrom([]string{"2001:db8:a:1::/64", "2001:db8:a:2::/64"}).Draw(t, "prefix"), preferred, valid),
					rio("2001:db8:f::/48", ndp.Medium, lifetime.Draw(t, "route"))}}.packet(router), now)
			}
			m.setPath(Path(rapid.IntRange(0, 3).Draw(t, "path")), now)
			m.due(now)
			solicit := m.tick(now)
			if solicit && !m.up {
				t.Fatal("solicits on a link that is down")
			}
			if m.up && !m.hasDefault() && m.deadline().IsZero() {
				t.Fatal("without a router, and never asks again")
			}
			if d := m.deadline(); !d.IsZero() && !d.After(now) {
				t.Fatalf("deadline %v is not after %v, although all was done", d, now)
			}
			promises(t, m.state.view(), now)
		}
	})
}

// promises checks what every View promises.
func promises(t *rapid.T, v View, now time.Time) {
	for _, r := range v.Routers {
		if over(r.Expires, now) {
			t.Fatalf("router %+v is over", r)
		}
	}
	for _, a := range v.Addresses {
		if over(a.Valid, now) || remaining(a.Preferred, now) > remaining(a.Valid, now) {
			t.Fatalf("address %+v at %v", a, now)
		}
	}
	for _, p := range v.Prefixes {
		if over(p.Valid, now) {
			t.Fatalf("prefix %+v is over", p)
		}
	}
	for _, r := range v.Routes {
		if over(r.Expires, now) {
			t.Fatalf("route %+v is over", r)
		}
	}
}
