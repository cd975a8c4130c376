package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

func TestForwardsThatAFirewallDropsAreFound(t *testing.T) {
	o := healthy()
	for i := range o.Config.Uplinks {
		o.Config.Uplinks[i].IPv4.Enabled, o.Config.Uplinks[i].IPv6.Enabled = true, true
	}
	o.Report.Paths = map[rules.Path]rules.PathInfo{{Uplink: 1, Family: rules.IPv4}: {Up: true}, {Uplink: 2, Family: rules.IPv4}: {Up: true}, {Uplink: 1, Family: rules.IPv6}: {Up: true}}
	o.Report.Forwards = []rules.ForwardReport{
		{Forward: &rules.Forward{Name: "web", Device: "lan0"}, To: map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("192.168.7.10"), rules.IPv6: netip.MustParseAddr("fd00::10")}},
		{Forward: &rules.Forward{Name: "game", Device: "lan0", Uplinks: []int{2}}, To: map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("192.168.7.20")}},
	}
	var asked []string
	for _, c := range o.Calls() {
		asked = append(asked, c.Forward+" "+c.Uplink+" "+c.Family.String())
		c.By = "inet fw, chain forward"
		o.RefusedForwards = append(o.RefusedForwards, c)
	}
	if got, want := strings.Join(asked, ", "), "web fiber ipv4, web fiber ipv6, web lte ipv4, game lte ipv4"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	n := 0
	for _, f := range Examine(o) {
		if f.Check == "forward-refused" && f.Severity == Warning && strings.Contains(f.Fix, "nft insert rule inet fw forward iifname") {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d findings", n)
	}
}
