package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
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
		"Ethernet":       {mobile(false), []string{"wan2 2001:db8:b::9/64"}, []string{"share-ethernet"}},
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
