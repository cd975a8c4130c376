package planinput

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
)

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("x.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	leasedLine = "[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n  [uplink.ipv4]\n  method = \"dhcp\"\n"
	over6RD    = "[[uplink]]\nname = \"six\"\nkind = \"6rd\"\ndevice = \"6rd1\"\nover = \"fiber\"\n"
	says6RD    = "  [uplink.6rd]\n  prefix = \"2001:db8::/32\"\n  ipv4_mask_length = 8\n  border_relay = \"192.0.2.1\"\n"
)

// The prefix is made of the carrier's address, whoever says it, and of what the provider says, in whichever way; without one of them there is
// neither device nor prefix.
func TestA6RDUplinkFollowsItsCarrier(t *testing.T) {
	lease := func(address string) Learned {
		return Learned{"fiber": {IPv4: &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}}}}
	}
	offered := lease("10.100.100.1/24")
	offered["fiber"].Offers6RD = &config.SixRD{Prefix: netip.MustParsePrefix("2001:db8::/32"), MaskLength: 8, Relay: netip.MustParseAddr("192.0.2.1")}
	lapsed := Learned{"fiber": {Offers6RD: offered["fiber"].Offers6RD}}
	for _, c := range []struct {
		name, text string
		learned    Learned
		want       string // "": nothing
		local      string
	}{
		{"a lease", leasedLine + over6RD + says6RD, lease("10.100.100.1/24"), "2001:db8:6464:100::/56", "10.100.100.1"},
		{"another address", leasedLine + over6RD + says6RD, lease("10.100.101.9/24"), "2001:db8:6465:900::/56", "10.100.101.9"},
		{"no lease", leasedLine + over6RD + says6RD, nil, "", ""},
		{"what the server says", leasedLine + over6RD, offered, "2001:db8:6464:100::/56", "10.100.100.1"},
		{"the configuration precedes the server", leasedLine + over6RD + "  [uplink.6rd]\n  prefix = \"2001:db8:8000::/36\"\n  ipv4_mask_length = 16\n  border_relay = \"192.0.2.2\"\n", offered, "2001:db8:8640:1000::/52", "10.100.100.1"},
		{"a server that says nothing", leasedLine + over6RD, lease("10.100.100.1/24"), "", ""},
		{"a lease that has ended", leasedLine + over6RD, lapsed, "", ""},
		{"a fixed address", "[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n  [uplink.ipv4]\n  method = \"static\"\n  address = \"10.1.2.3/24\"\n" + over6RD + says6RD, nil, "2001:db8:102:300::/56", "10.1.2.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := parse(t, c.text)
			got := Build(cfg, each("fiber", "six"), c.learned, netip.Prefix{})
			u := got.Uplinks[1]
			if !u.IPv6.Managed || u.IPv4.Enabled {
				t.Errorf("%+v", u)
			}
			if c.want == "" {
				if u.IPv6.Assign != nil || len(u.Delegations) > 0 || len(got.Tunnels) > 0 {
					t.Errorf("it has %+v, %v, %+v", u.IPv6.Assign, u.Delegations, got.Tunnels)
				}
				return
			}
			if len(u.Delegations) != 1 || u.Delegations[0].Prefix.String() != c.want || u.Delegations[0].Configured != (cfg.Uplinks[1].IPv6.SixRD.Prefix.IsValid()) {
				t.Errorf("delegations: %+v, want %s", u.Delegations, c.want)
			}
			if len(got.Tunnels) != 1 || got.Tunnels[0].Kind != encap.SixRD || got.Tunnels[0].Local.String() != c.local || !got.Tunnels[0].Prefix4.Contains(got.Tunnels[0].Local) {
				t.Fatalf("%+v", got.Tunnels)
			}
			a := u.IPv6.Assign
			if a == nil || len(a.Addresses) > 0 || len(a.Routes) != 1 || a.Routes[0].Dst != got.Tunnels[0].Prefix6 || a.Routes[0].Gateway.IsValid() {
				t.Errorf("%+v", a)
			}
		})
	}
	relay := Build(parse(t, leasedLine+over6RD), each("fiber", "six"), offered, netip.Prefix{}).Uplinks[1].IPv6.Assign.Gateway
	if diff := cmp.Diff("::c000:201", relay.String()); diff != "" { // ::192.0.2.1
		t.Error(diff)
	}
}
