package rules_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// daemonDefault is a box whose default in main, of the given protocol, leads by the second-best uplink; the best is static.
func daemonDefault(protocol uint8) *world {
	w := dual()
	w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r rules.Route) bool {
		return r.Family == rules.IPv4 && r.IsDefault() && r.Nexthops[0].Device == "wan1"
	})
	w.cfg.Uplinks[0].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.2/26")}}, Gateway: netip.MustParseAddr("198.51.100.1")}
	w.cfg.Uplinks[1].Tier = 2
	for i := range w.obs.Routes {
		if r := &w.obs.Routes[i]; r.Family == rules.IPv4 && r.IsDefault() {
			r.Protocol = protocol
		}
	}
	return w
}

func oursInMain(w *world) bool {
	return slices.ContainsFunc(w.obs.Routes, func(r rules.Route) bool { return r.Family == rules.IPv4 && oursMain(r) })
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
		{"babeld", 42, rules.MainDefaultAuto, false, []string{"main-default-left"}},
		{"a DHCP client", 16, rules.MainDefaultAuto, true, nil},
		{"keepalived", 18, rules.MainDefaultAuto, true, nil},
		{"by hand", 3, rules.MainDefaultAuto, true, nil},
		{"BGP, and ours is wanted", 186, rules.MainDefaultAlways, true, nil},
		{"ours is not wanted", 16, rules.MainDefaultNever, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := daemonDefault(c.protocol)
			w.cfg.MainDefault = c.setting
			w.obs.Recorded.NoteMainOwners(numbers, &w.obs)
			_, report := w.converge(t)
			if got := oursInMain(w); got != c.ours {
				t.Errorf("ours in main: %v", got)
			}
			if got := codes(report); !slices.Equal(got, c.problems) {
				t.Errorf("problems: %q, want %q", got, c.problems)
			}
		})
	}
}

// A daemon that restarts has no route for a while, and would install none if ours had taken its place.
func TestMainStaysLeftToADaemonThatRestarts(t *testing.T) {
	w := daemonDefault(186)
	if !w.obs.Recorded.NoteMainOwners(numbers, &w.obs) || w.obs.Recorded.NoteMainOwners(numbers, &w.obs) {
		t.Error("not noted, or noted twice")
	}
	w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r rules.Route) bool { return r.Protocol == 186 })
	w.converge(t)
	if oursInMain(w) {
		t.Error("ours stands in main")
	}
}

// The better uplink follows a default that its program withdraws when ours stands before it in main: without that
// default it carries nothing, ours goes, theirs comes back.
func TestADefaultThatAnotherProgramWithdrawsBeforeOursIsNotFoughtFor(t *testing.T) {
	w := dual()
	w.cfg.Uplinks[0].Tier = 2
	theirs := static("0.0.0.0/0", "wan2", netip.MustParseAddr("203.0.113.1"), 200)
	w.dropRoutes(func(r rules.Route) bool {
		return r.Family == rules.IPv4 && r.IsDefault() && r.Nexthops[0].Device == "wan2"
	})
	var contest rules.MainContest
	now := time.Unix(1e9, 0)
	look := func() {
		now = now.Add(200 * time.Millisecond)
		w.obs.MainContested = contest.Look(numbers, &w.obs, now)
	}
	changes := 0
	for range 20 {
		if !oursInMain(w) {
			w.addForeignRoute(theirs)
		}
		look()
		before := oursInMain(w)
		w.converge(t)
		if before != oursInMain(w) {
			changes++
		}
		if oursInMain(w) {
			w.dropRoutes(theirs.Equal)
			look()
			w.converge(t)
			changes++
		}
	}
	if changes > 5 {
		t.Errorf("main changed %d times", changes)
	}
	if !w.obs.MainContested[0] || w.obs.MainContested[1] {
		t.Errorf("contested: %v", w.obs.MainContested)
	}
	if contest.Look(numbers, &w.obs, now.Add(11*time.Minute))[0] {
		t.Error("it is not tried again")
	}
}

func oursMain(r rules.Route) bool {
	return r.Table == rules.TableMain && r.IsDefault() && r.Protocol == numbers.Protocol
}

// A flapping cable takes its default along: that is no contest.
func TestDefaultsThatGoWithTheirCableAreNoContest(t *testing.T) {
	w := daemonDefault(3)
	w.converge(t)
	var contest rules.MainContest
	now := time.Unix(1e9, 0)
	full := slices.Clone(w.obs.Routes)
	for n := range 10 {
		down := n%2 == 1
		_ = w.changeLink("wan2", func(l *rules.Link) { l.Carrier = !down })
		w.obs.Routes = slices.Clone(full)
		if down {
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r rules.Route) bool { return r.IsDefault() && r.Protocol == 3 })
		}
		if contest.Look(numbers, &w.obs, now.Add(time.Duration(n)*time.Second))[0] {
			t.Fatalf("contested after %d flaps", n)
		}
	}
}

// A line that is dialed anew loses its default with its address.
func TestDefaultsThatGoWithTheirAddressAreNoContest(t *testing.T) {
	w := daemonDefault(3)
	w.converge(t)
	var contest rules.MainContest
	now := time.Unix(1e9, 0)
	routes, addrs := slices.Clone(w.obs.Routes), slices.Clone(w.obs.Addrs)
	for n := range 10 {
		w.obs.Routes, w.obs.Addrs = slices.Clone(routes), slices.Clone(addrs)
		if n%2 == 1 {
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r rules.Route) bool { return r.IsDefault() && r.Protocol == 3 })
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == "wan2" })
		}
		if contest.Look(numbers, &w.obs, now.Add(time.Duration(n)*time.Second))[0] {
			t.Fatalf("contested after %d changes", n)
		}
	}
}
