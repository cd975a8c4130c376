package pair

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func pairConfig(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Parse("x.toml", []byte(`
[pair]
virtual = "192.168.7.1"
device = "br-lan"
peer = "192.168.7.3:9276"
key_file = "/etc/uplinkd/pair.key"
[[uplink]]
name = "fiber"
id = 1
device = "eth1"
shared = true
[[uplink]]
name = "cable"
id = 2
device = "eth2"
primary_only = true
[[uplink]]
name = "own"
id = 3
device = "eth3"
[[lan]]
device = "br-lan"
[[policy]]
name = "mail"
protocol = "tcp"
dport = 25
uplinks = ["fiber", "cable"]
`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheBackupIsPreparedForLinesWhoseAddressMoves(t *testing.T) {
	c := pairConfig(t).Prepared()
	var names []string
	for _, u := range c.Uplinks {
		names = append(names, u.Name)
	}
	if diff := cmp.Diff([]string{"fiber", "own"}, names); diff != "" || !c.Backup || len(c.LANs) != 1 || len(c.Waiting) != 1 || len(c.Policies[0].Uplinks) != 1 {
		t.Errorf("%s %+v %+v", diff, c.LANs, c.Policies)
	}
	prefix := netip.MustParsePrefix
	a, err := newAwaited(pairConfig(t), map[string]int{"fiber": 1, "own": 3}, []Line{
		{Uplink: "fiber", Addresses: []netip.Prefix{prefix("198.51.100.2/26"), prefix("198.51.100.3/32")}, Gateway: netip.MustParseAddr("198.51.100.1")},
		{Uplink: "fiber", Addresses: []netip.Prefix{prefix("2001:db8:a::2/64")}, Gateway: netip.MustParseAddr("fe80::1")},
		{Uplink: "cable", Addresses: []netip.Prefix{prefix("203.0.113.2/26")}}, // no address of it moves
		{Uplink: "own", Addresses: []netip.Prefix{prefix("203.0.113.66/26")}},
		{Uplink: "of somebody else", Addresses: []netip.Prefix{prefix("203.0.113.130/26")}},
		{Uplink: "fiber"},
	}, comes)
	if err != nil {
		t.Fatal(err)
	}
	obs := &rules.Observed{Addrs: []rules.Addr{{Device: "eth1", Prefix: prefix("198.51.100.2/26"), Protocol: 18}}}
	if a.show(obs) {
		t.Error("all is here")
	}
	var addresses, routes []string
	for _, o := range obs.Addrs {
		addresses = append(addresses, o.Prefix.String()+" dev "+o.Device)
	}
	for _, r := range obs.Routes {
		routes = append(routes, netcfg.PutRoute{Route: r}.Command())
	}
	if diff := cmp.Diff([]string{"198.51.100.2/26 dev eth1", "198.51.100.3/32 dev eth1", "2001:db8:a::2/64 dev eth1"}, addresses); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"ip -4 route replace 198.51.100.0/26 dev eth1 table 254 proto 18 scope 253",
		"ip -4 route replace default via 198.51.100.1 dev eth1 table 254 proto 18 metric 1",
		"ip -6 route replace 2001:db8:a::/64 dev eth1 table 254 proto 18 metric 256",
		"ip -6 route replace default via fe80::1 dev eth1 table 254 proto 18 metric 1",
	}, routes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[rules.Path]bool{{Uplink: 1, Family: rules.IPv4}: true, {Uplink: 1, Family: rules.IPv6}: true}, a.paths); diff != "" {
		t.Error(diff)
	}
	if !a.show(obs) {
		t.Error("what is here is awaited")
	}
}

func TestWhatIsAwaitedIsShownOnceWhateverHasCome(t *testing.T) {
	c := pairConfig(t)
	rapid.Check(t, func(t *rapid.T) {
		var line Line
		line.Uplink = "fiber"
		for _, n := range rapid.SliceOfNDistinct(rapid.Byte(), 1, 4, rapid.ID).Draw(t, "addresses") {
			line.Addresses = append(line.Addresses, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, n}), rapid.IntRange(24, 32).Draw(t, "bits")))
		}
		line.Gateway = netip.MustParseAddr("198.51.100.1")
		a, err := newAwaited(c, map[string]int{"fiber": 1}, []Line{line}, comes)
		if err != nil {
			t.Fatal(err)
		}
		all := &rules.Observed{}
		a.show(all)
		some := &rules.Observed{}
		for _, o := range all.Addrs {
			if rapid.Bool().Draw(t, "has come") {
				some.Addrs = append(some.Addrs, o)
			}
		}
		for _, r := range all.Routes {
			if rapid.Bool().Draw(t, "has come") {
				r.Protocol, r.Metric = 2, 100 // the kernel's own, keepalived's metric
				some.Routes = append(some.Routes, r)
			}
		}
		came := len(some.Addrs) + len(some.Routes)
		if whole := a.show(some); whole != (came == len(all.Addrs)+len(all.Routes)) {
			t.Fatalf("%d of %d have come: %t", came, len(all.Addrs)+len(all.Routes), whole)
		}
		sorted := cmpopts.SortSlices(func(x, y rules.Addr) bool { return x.Prefix.String() < y.Prefix.String() })
		if diff := cmp.Diff(all.Addrs, some.Addrs, sorted, cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); diff != "" || len(some.Routes) != len(all.Routes) || !a.show(some) {
			t.Fatalf("%s\n%+v", diff, some.Routes)
		}
	})
}

func TestALineThatTheOtherRouterHasJudgedIsTrusted(t *testing.T) {
	s := NewSuccessor(SuccessorOptions{})
	fiber, own := rules.Path{Uplink: 1, Family: rules.IPv4}, rules.Path{Uplink: 3}
	verdicts := map[rules.Path]rules.Verdict{own: {Health: rules.Dead}}
	if s.Trust(verdicts); len(verdicts) != 1 {
		t.Errorf("nothing is awaited, and %+v is trusted", verdicts)
	}
	s.awaited = &Awaited{paths: map[rules.Path]bool{fiber: true, own: true}}
	if s.Trust(verdicts); verdicts[fiber].Health != rules.Good || verdicts[own].Health != rules.Dead {
		t.Errorf("%+v", verdicts)
	}
}

// What is awaited follows the role, and ends by itself.
func TestWhatIsAwaitedTurnsWithTheRole(t *testing.T) {
	lines := []Line{{Uplink: "fiber", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/26")}, Gateway: netip.MustParseAddr("198.51.100.1")}}
	synctest.Test(t, func(t *testing.T) {
		c := pairConfig(t)
		var primary atomic.Bool
		var replans atomic.Int32
		var planned atomic.Bool
		s := NewSuccessor(SuccessorOptions{Log: slog.New(slog.DiscardHandler), Primary: primary.Load, Planned: planned.Load, Replan: func() { replans.Add(1) },
			Config: func() (*config.Config, map[string]int) { return c, map[string]int{"fiber": 1, "cable": 2, "own": 3} }})
		want := func(when string, phase phase, replanned int32) {
			t.Helper()
			if a := s.Awaits(); a == nil || a.phase != phase || replans.Load() != replanned {
				t.Fatalf("%s: awaits %+v, planned anew %d times", when, a, replans.Load())
			}
		}
		ends := func(when string, after time.Duration, replanned int32) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if a := s.Awaits(); a != nil || replans.Load() != replanned {
				t.Fatalf("%s: awaits %+v, planned anew %d times", when, a, replans.Load())
			}
		}
		if err := s.Prepare(t.Context(), lines); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the kernel has nothing of it: %v", err)
		}
		want("prepared", comes, 1)
		if err := s.Prepare(t.Context(), lines); err != nil {
			t.Fatal(err)
		}
		want("prepared again", comes, 1)
		if err := s.Prepare(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		ends("abandoned", 0, 2)
		planned.Store(true)
		if err := s.Prepare(t.Context(), lines); err != nil {
			t.Fatal(err)
		}
		primary.Store(true)
		s.Turned(nil)
		want("it has become primary", arrives, 3)
		if err := s.Prepare(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		want("a primary prepares for nothing", arrives, 3)
		ends("not all has come", arriveTimeout, 4)
		done, err := s.Yielding(lines)
		if err != nil {
			t.Fatal(err)
		}
		want("it yields", yields, 4)
		primary.Store(false)
		s.Turned(nil)
		done()
		want("it has yielded", lingered, 4)
		ends("all has gone", lingerTime, 5)
		primary.Store(true)
		if done, err = s.Yielding(lines); err != nil {
			t.Fatal(err)
		}
		done()
		ends("it did not yield", 0, 5)

		// The other router died without a word.
		primary.Store(false)
		s.Turned(recordsOf(t, lines))
		ends("a backup has the records too", 0, 5)
		primary.Store(true)
		s.Turned(recordsOf(t, lines))
		want("it has become primary at once", arrives, 5)
		if a := s.Awaits(); len(a.addrs) != 1 || a.addrs[0] != (rules.Addr{Device: "eth1", Prefix: lines[0].Addresses[0]}) {
			t.Errorf("it awaits %+v", a.addrs)
		}
		ends("the address did not come", arriveTimeout, 6)
		for name, records := range map[string]map[string]map[string]json.RawMessage{
			"nobody said anything": nil,
			"nothing is left":      {docLines: {"fiber/ipv4": nil}},
			"no line of the pair":  recordsOf(t, []Line{{Uplink: "own", Addresses: lines[0].Addresses}}),
			"of two families":      recordsOf(t, []Line{{Uplink: "fiber", Addresses: lines[0].Addresses, Gateway: netip.MustParseAddr("fe80::1")}}),
			"no addresses":         {docLines: {"fiber/ipv4": json.RawMessage(`{"uplink":"fiber","addresses":["",""]}`)}},
			"no record":            {docLines: {"fiber/ipv4": json.RawMessage(`[]`)}},
		} {
			s.Turned(records)
			ends(name, 0, 6)
		}
	})
}

// recordsOf are the records of a primary that has lines.
func recordsOf(t *testing.T, lines []Line) map[string]map[string]json.RawMessage {
	t.Helper()
	document, held := NewSuccessor(primaryOptions(t, func() {})).Held(lines, time.Now())
	text, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	records := make(map[string]json.RawMessage)
	if err := json.Unmarshal(text, &records); err != nil {
		t.Fatal(err)
	}
	return map[string]map[string]json.RawMessage{document: records}
}

func TestALineIsHeldForAMomentAfterItsAddressHasGone(t *testing.T) {
	fiber := Line{Uplink: "fiber", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/26"), netip.MustParsePrefix("198.51.100.4/32")}}
	turned := Line{Uplink: "fiber", Addresses: []netip.Prefix{fiber.Addresses[1], fiber.Addresses[0]}}
	moved := Line{Uplink: "fiber", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.3/26")}}
	six := Line{Uplink: "fiber", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::2/64")}}
	s, began := NewSuccessor(primaryOptions(t, func() {})), time.Now()
	for _, step := range []struct {
		after time.Duration
		seen  []Line
		want  map[string]Line
	}{
		{0, nil, map[string]Line{}},
		{0, []Line{fiber, six}, map[string]Line{"fiber/ipv4": fiber, "fiber/ipv6": six}},
		{1, []Line{turned}, map[string]Line{"fiber/ipv4": fiber, "fiber/ipv6": six}},
		{heldFor, []Line{moved}, map[string]Line{"fiber/ipv4": moved, "fiber/ipv6": six}},
		{heldFor + 1, []Line{{Uplink: "cable", Addresses: fiber.Addresses}, {Uplink: "fiber"}}, map[string]Line{"fiber/ipv4": moved}}, // not the pair's
		{2*heldFor + 1, nil, map[string]Line{}},
	} {
		if _, held := s.Held(step.seen, began.Add(step.after)); !cmp.Equal(step.want, held, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})) {
			t.Errorf("after %v it has %+v", step.after, held)
		}
	}
}

// primaryOptions are those of a primary that has the configuration of pairConfig.
func primaryOptions(t *testing.T, replan func()) SuccessorOptions {
	c := pairConfig(t)
	return SuccessorOptions{Primary: func() bool { return true }, Replan: replan,
		Config: func() (*config.Config, map[string]int) { return c, map[string]int{"fiber": 1, "cable": 2, "own": 3} }}
}

// keepalived takes the routes, then the addresses, and the virtual one of them is not the first.
func TestALineThatIsTakenAwayInPartIsShownWholeForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replans atomic.Int32
		s := NewSuccessor(primaryOptions(t, func() { replans.Add(1) }))
		address := netip.MustParsePrefix("198.51.100.2/26")
		line := Line{Uplink: "fiber", Addresses: []netip.Prefix{address}, Gateway: netip.MustParseAddr("198.51.100.1")}
		s.Held([]Line{line}, time.Now())
		connected := netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Dst: address.Masked(), Nexthops: []netcfg.Nexthop{{Device: "eth1"}}}
		byDefault := connected
		byDefault.Dst, byDefault.Nexthops = netip.MustParsePrefix("0.0.0.0/0"), []netcfg.Nexthop{{Device: "eth1", Gateway: line.Gateway}}
		there := []rules.Addr{{Device: "eth1", Prefix: address}}
		for i, step := range []struct {
			after  time.Duration
			addrs  []rules.Addr
			routes []netcfg.Route
			shown  int // addresses and routes
			replan int32
			down   bool
		}{
			{0, there, nil, 1, 0, false}, // it was never seen whole
			{0, there, []netcfg.Route{connected, byDefault}, 3, 0, false},
			{time.Minute, there, []netcfg.Route{connected}, 3, 0, false},
			{leaveTimeout / 2, nil, nil, 3, 0, false},
			{leaveTimeout, nil, nil, 0, 1, false},
			{time.Minute, nil, nil, 0, 1, false},
			{0, there, []netcfg.Route{connected, byDefault}, 3, 1, false},
			{time.Minute, there, []netcfg.Route{connected}, 3, 1, false},
			{0, there, []netcfg.Route{connected, byDefault}, 3, 1, false},
			{0, there, nil, 1, 1, true}, // the kernel has taken them
			{0, there, []netcfg.Route{connected, byDefault}, 3, 1, false},
			{0, nil, []netcfg.Route{connected, byDefault}, 3, 1, false}, // the address is the first to go
		} {
			time.Sleep(step.after)
			synctest.Wait()
			obs := &rules.Observed{Links: []rules.Link{{Name: "eth1", Up: !step.down}}, Addrs: slices.Clone(step.addrs), Routes: slices.Clone(step.routes)}
			if s.Show(obs); len(obs.Addrs)+len(obs.Routes) != step.shown || replans.Load() != step.replan {
				t.Errorf("step %d: %+v %+v, planned anew %d times", i, obs.Addrs, obs.Routes, replans.Load())
			}
		}
		s.Turned(nil) // whatever the role is now
		obs := new(rules.Observed)
		if s.Show(obs); len(obs.Addrs)+len(obs.Routes) != 0 {
			t.Errorf("after the role has turned it shows %+v %+v", obs.Addrs, obs.Routes)
		}
		time.Sleep(2 * leaveTimeout)
	})
}
