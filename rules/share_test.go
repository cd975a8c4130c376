package rules_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// mobile is two providers of which the second has a /64 for its line alone.
func mobile(noNeighbours bool) *world {
	w := dual()
	_ = w.delAddr("wan2", netip.MustParsePrefix("2001:db8:b::2/64"))
	_ = w.changeLink("wan2", func(l *rules.Link) { l.NoNeighbours = noNeighbours })
	u := &w.cfg.Uplinks[1]
	u.IPv6.Managed, u.IPv6.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:b::9/64")}}, Gateway: netip.MustParseAddr("fe80::1")}
	u.Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b::/64"), Shared: true}}
	w.cfg.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1, 2}}}
	return w
}

func TestALineWithoutNeighboursGivesItsNetworkToALAN(t *testing.T) {
	for name, c := range map[string]struct {
		world *world
		want  []string // addresses that are given
		codes []string // of problems
	}{
		"point-to-point": {mobile(true), []string{"lan0 2001:db8:b::1/64", "lan0 2001:db8:b::9/128", "wan2 2001:db8:b::9/128"}, nil},
		"Ethernet":       {mobile(false), []string{"lan0 2001:db8:b::9/128", "wan2 2001:db8:b::9/128"}, nil}, // the first one is the provider's
		"without a LAN": {func() *world {
			w := mobile(false)
			w.cfg.LANs[0].From = []int{1}
			return w
		}(), []string{"wan2 2001:db8:b::9/64"}, nil},
		"of two LANs the first": {func() *world {
			w := mobile(true)
			w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true})
			w.cfg.LANs = append(w.cfg.LANs, rules.LAN{Device: "lan1", SubnetID: 2, From: []int{2}})
			return w
		}(), []string{"lan0 2001:db8:b::1/64", "lan0 2001:db8:b::9/128", "wan2 2001:db8:b::9/128"}, []string{"subnet-unavailable"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.world.obs.Sysctls["net/ipv6/conf/all/forwarding"] = "1"
			want, report := c.world.plan()
			var got, codes []string
			for _, a := range want.Addrs {
				got = append(got, a.Device+" "+a.Prefix.String())
			}
			for _, p := range report.Problems {
				if p.Severity != "notice" {
					codes = append(codes, p.Code)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !slices.Equal(codes, c.codes) {
				t.Errorf("problems: %v", report.Problems)
			}
			c.world.converge(t)
		})
	}
}

// TestANetworkIsOnTwoLinks has hosts of one network on the line and on the LAN: both are reached, each side is answered for those on the
// other, and what somebody else answers for is left to them.
func TestANetworkIsOnTwoLinks(t *testing.T) {
	addresses := func(ids ...string) (list []netip.Addr) {
		for _, id := range ids {
			list = append(list, netip.MustParseAddr("2001:db8:b::"+id))
		}
		return list
	}
	w := mobile(false)
	proxy := map[string]string{"net/ipv6/conf/wan2/proxy_ndp": "0", "net/ipv6/neigh/wan2/proxy_delay": "80", "net/ipv6/conf/lan0/proxy_ndp": "0", "net/ipv6/neigh/lan0/proxy_delay": "80"}
	maps.Copy(w.obs.Sysctls, proxy)
	for _, device := range []string{"wan1", "wan2", "lan0"} {
		w.obs.Sysctls["net/ipv6/conf/"+device+"/forwarding"] = "1"
	}
	w.obs.Sysctls["net/ipv6/conf/all/forwarding"] = "1"
	w.obs.Proxied = []netcfg.ProxyNeighbour{{Device: "wan2", Addr: addresses("77")[0]}, {Device: "lan0", Addr: addresses("4")[0], Protocol: numbers.Protocol}}
	w.cfg.Uplinks[1].Proxied = rules.ProxiedHosts{LAN: append(addresses("7:1", "77", "9"), netip.MustParseAddr("2001:db8:c::1")), Line: addresses("1", "5")}
	if q := rules.QueryOf(w.cfg, w.obs.Recorded); !q.Proxied || !slices.Contains(q.Sysctls, "net/ipv6/neigh/lan0/proxy_delay") {
		t.Errorf("a snapshot does not ask for what is proxied: %+v", q)
	}
	w.converge(t)
	proxied := func() (list []string) {
		for _, n := range w.obs.Proxied {
			list = append(list, fmt.Sprintf("%s %v %d", n.Device, n.Addr, n.Protocol))
		}
		slices.Sort(list)
		return list
	}
	if diff := cmp.Diff([]string{"lan0 2001:db8:b::1 117", "lan0 2001:db8:b::5 117", "wan2 2001:db8:b::77 0", "wan2 2001:db8:b::7:1 117"}, proxied()); diff != "" {
		t.Errorf("answered for (-want +got):\n%s", diff)
	}
	for name := range proxy {
		if want := map[bool]string{true: "1", false: "0"}[strings.HasSuffix(name, "proxy_ndp")]; w.obs.Sysctls[name] != want {
			t.Errorf("%s is %s", name, w.obs.Sysctls[name])
		}
	}
	for _, c := range []struct {
		packet explain.Packet
		device string
	}{
		{explain.Packet{In: "lan0", From: addresses("7:1")[0], To: addresses("5")[0]}, "wan2"},
		{explain.Packet{In: "lan0", From: addresses("7:1")[0], To: netip.MustParseAddr("2001:db8:ffff::1")}, "wan2"},
		{explain.Packet{In: "wan2", From: addresses("5")[0], To: addresses("7:1")[0]}, "lan0"},
		{explain.Packet{From: addresses("9")[0], To: addresses("1")[0]}, "wan2"},
		{explain.Packet{To: addresses("1")[0]}, "wan2"},
		{explain.Packet{To: addresses("7:1")[0]}, "lan0"},
	} {
		e := w.explained(t, c.packet)
		if len(e.Egresses) != 1 || e.Egresses[0].Device != c.device || c.packet.To == addresses("5")[0] && e.Egresses[0].Gateway.IsValid() {
			t.Errorf("%+v leaves by %+v, want %q: %v", c.packet, e.Egresses, c.device, e.Steps)
		}
	}

	// Without the line's network all of it goes, and what was in force before is back.
	w.cfg.Uplinks[1].Delegations = nil
	if q := rules.QueryOf(w.cfg, w.obs.Recorded); !q.Proxied {
		t.Error("what is proxied is forgotten")
	}
	w.converge(t)
	if diff := cmp.Diff([]string{"wan2 2001:db8:b::77 0"}, proxied()); diff != "" || w.obs.Recorded.Proxied {
		t.Errorf("after it (-want +got):\n%s\n%+v", diff, w.obs.Recorded)
	}
	for name, former := range proxy {
		if w.obs.Sysctls[name] != former {
			t.Errorf("%s is %s after it", name, w.obs.Sysctls[name])
		}
	}
}
