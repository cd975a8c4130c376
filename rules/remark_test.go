package rules_test

import (
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Somebody's packet filter marks a local packet when its source is chosen, and the whole mark of each packet that follows: iptables -t mangle
// -A OUTPUT -j MARK --set-mark.
func TestAMarkThatALocalPacketGetsLateIsFollowed(t *testing.T) {
	for name, translates := range map[string]bool{"by an uplink that translates": true, "by one that does not": false} {
		w := dual()
		w.cfg.Uplinks[1].PoliciesOnly = true
		w.cfg.Uplinks[1].IPv4.Masquerade = translates
		w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}}
		w.cfg.Policies = []rules.Policy{{Name: "marked", Group: 3, Select: rules.Selector{rules.SelectMark{Value: 0xffff, Mask: 0xffff}}}}
		w.converge(t)
		w.obs.Table.Chains = append(w.obs.Table.Chains, nft.Chain{Name: "theirs", Type: "route", Hook: "output", Priority: -150,
			Rules: []nft.Rule{{Exprs: []nft.Expr{nft.Destination{Prefix: netip.MustParsePrefix("192.0.2.1/32")}, nft.SetMark{Mask: 1<<32 - 1, Value: 0xffff}}}}})
		conn := &connection{fresh: true}
		want := departure{device: "wan1", src: netip.MustParseAddr("198.51.100.2")}
		if translates {
			want = departure{device: "wan2", src: netip.MustParseAddr("203.0.113.2")}
		}
		for _, which := range []string{"first", "second"} {
			p := packet{query: query{src: netip.MustParseAddr("198.51.100.2"), dst: netip.MustParseAddr("192.0.2.1")}, conn: conn}
			got := w.send(p)
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s: the %s packet %v, want %v", name, which, got, want)
			}
			conn = &connection{mark: numbers.Mark(map[bool]int{true: 2, false: 1}[translates]), source: want.src}
		}
		other := packet{query: query{src: netip.MustParseAddr("198.51.100.2"), dst: netip.MustParseAddr("192.0.2.2")}, conn: &connection{fresh: true}}
		if got := w.send(other); len(got) != 1 || got[0].device != "wan1" {
			t.Errorf("%s: an unmarked packet %v", name, got)
		}
	}
}
