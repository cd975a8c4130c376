package rules_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// daemonDefault is a box whose default in main, of the given protocol, leads by the second-best uplink; the best is static.
func daemonDefault(family rules.Family, protocol uint8) *world {
	w := dual()
	w.dropRoutes(func(r netcfg.Route) bool {
		return r.Family == family && r.IsDefault() && r.Nexthops[0].Device == "wan1"
	})
	address, gateway, a := "198.51.100.2/26", "198.51.100.1", &w.cfg.Uplinks[0].IPv4
	if family == rules.IPv6 {
		address, gateway, a = "2001:db8:a::2/64", "2001:db8:a::1", &w.cfg.Uplinks[0].IPv6
	}
	a.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway)}
	w.cfg.Uplinks[1].Tier = 2
	for i := range w.obs.Routes {
		if r := &w.obs.Routes[i]; r.Family == family && r.IsDefault() {
			r.Protocol = protocol
		}
	}
	return w
}

func oursInMain(w *world, family rules.Family) bool {
	return slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool {
		return r.Family == family && r.Table == netcfg.TableMain && r.IsDefault() && r.Protocol == numbers.Protocol
	})
}

func TestMainIsLeftToARoutingDaemonThatHasADefaultThere(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol uint8
		setting  rules.MainDefault
		ours     bool
		problems []string
	}{
		{"BGP by FRR", 186, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"a static route of FRR", 196, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"BIRD", 12, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"zebra", 11, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"OSPF by FRR", 188, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"babeld", 42, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"a DHCP client", 16, rules.MainDefaultAuto, true, nil},
		{"keepalived", 18, rules.MainDefaultAuto, true, nil},
		{"router advertisements", 9, rules.MainDefaultAuto, true, nil},
		{"by hand, as a static route", 4, rules.MainDefaultAuto, true, nil},
		{"by hand", 3, rules.MainDefaultAuto, true, nil},
		{"BGP, and ours is wanted", 186, rules.MainDefaultAlways, true, nil},
		{"ours is not wanted", 16, rules.MainDefaultNever, false, nil},
	} {
		for _, family := range rules.Families {
			t.Run(c.name+" in "+family.String(), func(t *testing.T) {
				w := daemonDefault(family, c.protocol)
				w.cfg.MainDefault = c.setting
				w.obs.Recorded.RecordMainOwners(numbers, &w.obs)
				_, report := w.converge(t)
				if got := oursInMain(w, family); got != c.ours {
					t.Errorf("ours in main: %v", got)
				}
				if got := codes(report); !slices.Equal(got, c.problems) {
					t.Errorf("problems: %q, want %q", got, c.problems)
				}
			})
		}
	}
}

// A routing daemon that has learned no default yet is given way beforehand: FRR compares the highest byte of the metric with the
// administrative distance of what it learns, which is at most 200 for what a router tells it.
func TestOursInMainGivesWayToADefaultThatIsYetToBeLearned(t *testing.T) {
	for _, c := range []struct {
		setting rules.MainDefault
		yields  bool
	}{{rules.MainDefaultAuto, true}, {rules.MainDefaultAlways, false}} {
		for _, family := range rules.Families {
			w := daemonDefault(family, 186)
			w.cfg.MainDefault = c.setting
			w.dropRoutes(func(r netcfg.Route) bool { return r.Protocol == 186 })
			w.converge(t)
			at := slices.IndexFunc(w.obs.Routes, func(r netcfg.Route) bool {
				return r.Family == family && r.Table == netcfg.TableMain && r.IsDefault() && r.Protocol == numbers.Protocol
			})
			if at < 0 {
				t.Errorf("%v: ours is not there", family)
			} else if distance := w.obs.Routes[at].Metric >> 24; distance > 200 != c.yields || distance == 255 {
				t.Errorf("%v: distance %d", family, distance)
			}
		}
	}
}

// A daemon that restarts has no route for a while, and would install none if ours had taken its place.
func TestMainStaysLeftToADaemonThatRestarts(t *testing.T) {
	for _, family := range rules.Families {
		w := daemonDefault(family, 186)
		if !w.obs.Recorded.RecordMainOwners(numbers, &w.obs) || w.obs.Recorded.RecordMainOwners(numbers, &w.obs) {
			t.Errorf("%v: not noted, or noted twice", family)
		}
		w.dropRoutes(func(r netcfg.Route) bool { return r.Protocol == 186 })
		w.converge(t)
		if oursInMain(w, family) {
			t.Errorf("%v: ours stands in main", family)
		}
	}
}

// The better uplink follows a default that its program withdraws when ours stands before it in main: without that
// default it carries nothing, ours goes, theirs comes back.
func TestADefaultThatAnotherProgramWithdrawsBeforeOursIsNotFoughtFor(t *testing.T) {
	for i, family := range rules.Families {
		w := dual()
		w.cfg.Uplinks[0].Tier = 2
		leads := func(r netcfg.Route) bool {
			return r.Family == family && r.IsDefault() && r.Nexthops[0].Device == "wan2"
		}
		theirs := w.obs.Routes[slices.IndexFunc(w.obs.Routes, leads)]
		w.dropRoutes(leads)
		var contest rules.MainContest
		now := time.Unix(1e9, 0)
		look := func() {
			now = now.Add(200 * time.Millisecond)
			w.obs.MainContested = contest.Observe(numbers, &w.obs, now)
		}
		changes := 0
		for range 20 {
			if !oursInMain(w, family) {
				w.addForeignRoute(theirs)
			}
			look()
			before := oursInMain(w, family)
			w.converge(t)
			if before != oursInMain(w, family) {
				changes++
			}
			if oursInMain(w, family) {
				w.dropRoutes(theirs.Equal)
				look()
				w.converge(t)
				changes++
			}
		}
		if changes > 5 {
			t.Errorf("%v: main changed %d times", family, changes)
		}
		if !w.obs.MainContested[i] || w.obs.MainContested[1-i] {
			t.Errorf("%v: contested: %v", family, w.obs.MainContested)
		}
		if contest.Observe(numbers, &w.obs, now.Add(11*time.Minute))[i] {
			t.Errorf("%v: it is not tried again", family)
		}
	}
}

// A flapping cable takes its default along, and a line that is dialed anew loses it with its address: that is no contest.
func TestADefaultThatGoesForAnotherReasonIsNoContest(t *testing.T) {
	for name, c := range map[string]struct {
		lose    func(*world)
		contest bool
	}{
		"with its cable": {lose: func(w *world) { _ = w.changeLink("wan2", func(l *rules.Link) { l.Carrier = false }) }},
		"with its address": {lose: func(w *world) {
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == "wan2" })
		}},
		"alone": {lose: func(*world) {}, contest: true},
	} {
		for i, family := range rules.Families {
			w := daemonDefault(family, 3)
			w.converge(t)
			var contest rules.MainContest
			now := time.Unix(1e9, 0)
			contested := false
			links, routes, addrs := slices.Clone(w.obs.Links), slices.Clone(w.obs.Routes), slices.Clone(w.obs.Addrs)
			for n := range 10 {
				w.obs.Links, w.obs.Routes, w.obs.Addrs = slices.Clone(links), slices.Clone(routes), slices.Clone(addrs)
				if n%2 == 1 {
					c.lose(w)
					w.dropRoutes(func(r netcfg.Route) bool { return r.IsDefault() && r.Protocol == 3 })
				}
				contested = contested || contest.Observe(numbers, &w.obs, now.Add(time.Duration(n)*time.Second))[i]
			}
			if contested != c.contest {
				t.Errorf("%s in %v: contested %v", name, family, contested)
			}
		}
	}
}
