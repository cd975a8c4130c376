package addressing

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/uplink"
)

// inForce says that a client has not been replaced.
func inForce() bool { return true }

// A crash right after a router was heard must find it on the disk, for a restart removes what it does not know. What
// only moves ends, or comes faster than a disk likes, waits for the next tick.
func TestARouterIsOnTheDiskBeforeItIsInTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		r := newRouters(slog.New(slog.DiscardHandler), func(document string, read func() any) {
			got = append(got, "saved")
			if kept := read().(map[string]ndisc.State); len(kept["fiber"].Routers) != 1 {
				t.Errorf("saved: %+v", kept)
			}
		}, func(string, ndisc.View, ndisc.View) { got = append(got, "told") })
		heard := func(router string) {
			list := []ndisc.Router{{Addr: netip.MustParseAddr(router), Default: true, Expires: time.Now().Add(time.Minute)}}
			r.update("fiber", ndisc.View{Routers: list, State: ndisc.State{Routers: list}}, inForce)
		}
		heard("fe80::1")
		time.Sleep(2 * minSaveInterval)
		heard("fe80::1") // a later end
		heard("fe80::2")
		heard("fe80::3") // at the same moment
		time.Sleep(minSaveInterval)
		for range 2 {
			r.flush(time.Now())
		}
		if want := []string{"saved", "told", "told", "saved", "told", "told", "saved"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// A server may answer by way of the router in use, or of another one on the link. What was delegated stays that of the
// former as long as nothing speaks against it.
func TestADelegationBelongsToTheRouterThatItCameBy(t *testing.T) {
	first, second := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
	ours, others := netip.MustParsePrefix("2001:db8:a::/64"), netip.MustParsePrefix("2001:db8:b::/64")
	for name, c := range map[string]struct {
		chosen, given   netip.Addr
		prefixOfSecond  netip.Prefix
		firstIsSilent   bool
		carries, adopts bool
	}{
		"not known by which":              {chosen: second, prefixOfSecond: others, carries: true, adopts: true},
		"the one in use":                  {chosen: first, given: first, prefixOfSecond: others, carries: true, adopts: true},
		"another provider's is in use":    {chosen: second, given: first, prefixOfSecond: others},
		"the same provider's second one":  {chosen: second, given: first, prefixOfSecond: ours, carries: true, adopts: true},
		"one that announces nothing":      {chosen: second, given: first, carries: true, adopts: true},
		"a successor with another prefix": {chosen: second, given: first, prefixOfSecond: others, firstIsSilent: true, adopts: true},
		"none is in use":                  {given: first, prefixOfSecond: others, carries: true, adopts: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouters(slog.New(slog.DiscardHandler), func(string, func() any) {}, func(string, ndisc.View, ndisc.View) {})
			state := ndisc.State{Chosen: c.chosen, Routers: []ndisc.Router{{Addr: first, Default: true, Unreachable: c.firstIsSilent}, {Addr: second, Default: true}},
				Prefixes: []ndisc.Prefix{{Prefix: ours, Routers: []netip.Addr{first}}}}
			switch c.prefixOfSecond {
			case ours:
				state.Prefixes[0].Routers = append(state.Prefixes[0].Routers, second)
			case others:
				state.Prefixes = append(state.Prefixes, ndisc.Prefix{Prefix: others, Routers: []netip.Addr{second}})
			}
			r.views["fiber"] = ndisc.View{Routers: state.Routers, State: state}
			if got := r.carries("fiber", c.given); got != c.carries {
				t.Errorf("carries: %v", got)
			}
			if got := r.mayHaveDelegated("fiber", c.given); got != c.adopts {
				t.Errorf("an answer is taken for one by way of it: %v", got)
			}
		})
	}
}

// Routers are left when probes say so. Where nobody is probed, neighbour solicitations alone decide.
func TestVerdictsTellDiscoveryWhetherTheUplinkWorks(t *testing.T) {
	probed := []uplink.TargetStatus{{Target: "2001:db8:ffff::1"}}
	for name, c := range map[string]struct {
		verdict uplink.Verdict
		whole   bool
		want    ndisc.Path
	}{
		"up":                   {uplink.Verdict{State: uplink.Up, Targets: probed}, true, ndisc.PathWorking},
		"degraded":             {uplink.Verdict{State: uplink.Degraded, Targets: probed}, true, ndisc.PathWorking},
		"up without targets":   {uplink.Verdict{State: uplink.Up}, true, ndisc.PathUnknown},
		"suspect":              {uplink.Verdict{State: uplink.Suspect, Targets: probed}, true, ndisc.PathSuspected},
		"down":                 {uplink.Verdict{State: uplink.Down, Targets: probed}, true, ndisc.PathSilent},
		"down without carrier": {uplink.Verdict{State: uplink.Down, Targets: probed}, false, ndisc.PathUnknown},
		"recovering":           {uplink.Verdict{State: uplink.Recovering, Targets: probed}, true, ndisc.PathUnknown},
		"init":                 {uplink.Verdict{State: uplink.Init, Targets: probed}, true, ndisc.PathUnknown},
	} {
		if got := pathOf(c.verdict, c.whole); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
