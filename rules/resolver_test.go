package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// drawResolvers gives uplinks DNS servers of few addresses, so that several have the same: in a provider's network, anywhere, in that of
// another uplink, and on the link.
func (w *world) drawResolvers(t *rapid.T) {
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		u.Resolvers = rapid.SliceOfNDistinct(rapid.SampledFrom(addrs("10.53.0.1", "10.53.0.2", "203.0.112.53", "198.51.100.60", "198.51.100.124",
			"2001:db8:5300::1", "fd00:53::1", "fe80::53")), 0, 3, rapid.ID).Draw(t, "resolvers")
	}
}

// A DNS server is asked by an uplink that has it, from the router and from the LAN, and by no other: while that is dead, what is the
// provider's own is refused or lost, and what may be anybody's follows the default.
func TestADNSServerIsReachedByItsOwnUplinkAlone(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		if len(w.cfg.Policies) > 0 {
			return // which go before
		}
		seen := make(map[netip.Addr]bool)
		for _, r := range report.Resolvers {
			f := r.Family()
			if r.Addr.IsLinkLocalUnicast() || seen[r.Addr] || r.Dead() {
				continue
			}
			seen[r.Addr] = true
			w.eachLANHost(f, func(lan string, host netip.Addr) {
				if got := devices(w.lookup(query{src: host, dst: r.Addr, iif: lan})); got != r.Device && !staticallyRouted(w, r.Addr) {
					t.Errorf("%v from %v: %q, want %q", r.Addr, lan, got, r.Device)
				}
			})
			if got := devices(w.lookup(query{dst: r.Addr, iif: "lo"})); got != r.Device && !staticallyRouted(w, r.Addr) {
				t.Errorf("%v from the router: %q, want %q", r.Addr, got, r.Device)
			}
		}
	})
}

// staticallyRouted reports whether somebody else's route leads to an address: that is its owner's will. The network of an uplink is none.
func staticallyRouted(w *world, a netip.Addr) bool {
	return slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool {
		return r.Table == netcfg.TableMain && r.Protocol != protoKernel && r.Protocol != numbers.Protocol && r.Dst.Bits() > 3 && r.Dst.Contains(a)
	})
}

func TestDNSServersAreOrderedByHowWellTheirUplinksWork(t *testing.T) {
	type want struct {
		uplink int
		addr   string
		code   rules.ChoiceCode
	}
	for name, c := range map[string]struct {
		change func(w *world)
		want   []want
	}{
		"both well, by tier": {func(w *world) { w.cfg.Uplinks[0].Tier = 2 },
			[]want{{2, "10.0.2.1", rules.ChoiceGood}, {1, "10.0.1.1", rules.ChoiceGood}, {1, "2001:db8:53::1", rules.ChoiceGood}}},
		"one tier, by weight": {func(*world) {},
			[]want{{1, "10.0.1.1", rules.ChoiceGood}, {1, "2001:db8:53::1", rules.ChoiceGood}, {2, "10.0.2.1", rules.ChoiceGood}}},
		"dead in one family": {func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv4}] = rules.Verdict{Health: rules.Dead}
		},
			[]want{{1, "2001:db8:53::1", rules.ChoiceGood}, {2, "10.0.2.1", rules.ChoiceGood}, {1, "10.0.1.1", rules.ChoiceDead}}},
		"suspect": {func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Doubtful}
		},
			[]want{{1, "10.0.1.1", rules.ChoiceGood}, {2, "10.0.2.1", rules.ChoiceGood}, {1, "2001:db8:53::1", rules.ChoiceDoubtful}}},
		"without a way out": {func(w *world) {
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r netcfg.Route) bool {
				return r.IsDefault() && r.Nexthops[0].Device == "wan1" && r.Family == rules.IPv6
			})
		}, []want{{1, "10.0.1.1", rules.ChoiceGood}, {2, "10.0.2.1", rules.ChoiceGood}, {1, "2001:db8:53::1", rules.ChoiceNone}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			w.cfg.Uplinks[0].Resolvers, w.cfg.Uplinks[1].Resolvers = addrs("10.0.1.1", "2001:db8:53::1"), addrs("10.0.2.1")
			c.change(w)
			_, report := w.plan()
			var got []want
			for _, r := range report.Resolvers {
				got = append(got, want{r.Uplink, r.Addr.String(), r.Code})
			}
			if diff := gocmp.Diff(c.want, got, gocmp.AllowUnexported(want{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestADNSServerThatNobodyCanAskIsNamedAndCostsNothingElse(t *testing.T) {
	for server, why := range map[string]string{
		"127.0.0.53":        "a loopback address",
		"::1":               "a loopback address",
		"0.0.0.0":           "the unspecified address",
		"224.0.0.251":       "a multicast address",
		"ff02::fb":          "a multicast address",
		"255.255.255.255":   "the broadcast address",
		"::ffff:192.0.2.53": "an IPv4 address in IPv6 form",
		"169.254.1.1":       "a link-local address",
		"fe80::1%wan2":      "on another link",
		"198.51.100.2":      "this machine's own",
		"203.0.113.2":       "this machine's own",
		"192.168.1.1":       "this machine's own",
		"192.168.1.53":      "in the network 192.168.1.0/24 behind lan0",
		"2001:db8:1::53":    "in the network 2001:db8:1::/64 behind lan0",
		"198.51.100.1":      "", // the gateway
		"10.0.1.1":          "",
		"fe80::1":           "",
	} {
		w := dual()
		w.cfg.Uplinks[0].Resolvers = addrs(server, "10.0.9.9")
		_, report := w.plan()
		named := slices.ContainsFunc(report.Problems, func(p rules.Problem) bool {
			return p.Code == "unusable-resolver" && strings.Contains(p.Message, server) && strings.Contains(p.Message, why)
		})
		if named != (why != "") || len(report.Resolvers) != map[bool]int{true: 1, false: 2}[named] {
			t.Errorf("%s: %v, %+v", server, report.Problems, report.Resolvers)
		}
	}
}

func TestOnlySoManyDNSServersOfAnUplinkAreUsed(t *testing.T) {
	w := dual()
	for i := range rules.MaxResolvers + 2 {
		a := netip.AddrFrom4([4]byte{10, 53, 0, byte(i + 1)})
		w.cfg.Uplinks[0].Resolvers = append(w.cfg.Uplinks[0].Resolvers, a, a)
	}
	_, report := w.plan()
	if len(report.Resolvers) != rules.MaxResolvers || len(report.Problems) != 2 || !strings.Contains(report.Problems[0].Message, "one more than the 8") {
		t.Errorf("%d, %v", len(report.Resolvers), report.Problems)
	}
}

// Of the DNS servers of a dead uplink, those that may be public ones are left to the default: hosts may be configured with them.
func TestWhatLeadsToTheDNSServersOfADeadUplink(t *testing.T) {
	w := dual()
	w.cfg.Uplinks[0].Resolvers = addrs("10.0.1.1", "100.64.0.1", "192.0.2.53", "fd00:53::1", "2001:db8:53::1")
	w.cfg.Uplinks[1].Resolvers = addrs("192.0.2.54")
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: 1, Family: f}] = rules.Verdict{Health: rules.Dead, State: "down"}
	}
	want, _ := w.plan()
	var got []string
	for _, r := range want.Rules {
		if r.To.IsValid() {
			got = append(got, r.String())
		}
	}
	if diff := gocmp.Diff([]string{
		"pref 10899 from all to 10.0.1.1/32 lookup 11701 protocol 117", "pref 10899 from all to 100.64.0.1/32 lookup 11701 protocol 117",
		"pref 10899 from all to 192.0.2.54/32 lookup 11702 protocol 117", "pref 10899 from all to fd00:53::1/128 lookup 11701 protocol 117",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Two sticks of a kind have one address for their DNS server: the one that works is asked. Where main would lead to the first of both,
// the rule stands before main's.
func TestADNSServerThatTwoUplinksHaveIsAskedByTheOneThatWorks(t *testing.T) {
	for _, dead := range []int{1, 2} {
		w := twins()
		for i := range w.cfg.Uplinks {
			w.cfg.Uplinks[i].Resolvers = addrs("198.51.100.1")
		}
		w.verdicts[rules.Path{Uplink: dead, Family: rules.IPv4}] = rules.Verdict{Health: rules.Dead, State: "down"}
		w.converge(t)
		want := map[int]string{1: "wan2", 2: "wan1"}[dead]
		for _, q := range []query{{dst: addrs("198.51.100.1")[0], iif: "lo"}, {src: addrs("198.51.100.2")[0], dst: addrs("198.51.100.1")[0], iif: "lo"}, {src: addrs("192.168.1.9")[0], dst: addrs("198.51.100.1")[0], iif: "lan0"}} {
			if got := devices(w.lookup(q)); got != want {
				t.Errorf("with %d dead, from %s: %q, want %q", dead, q.iif, got, want)
			}
		}
		// Whoever is bound to a device asks by that.
		for i, device := range []string{"wan1", "wan2"} {
			if got := devices(w.lookup(query{dst: addrs("198.51.100.1")[0], iif: "lo", oif: device})); got != device {
				t.Errorf("bound to uplink %d: %q", i+1, got)
			}
		}
	}
}
