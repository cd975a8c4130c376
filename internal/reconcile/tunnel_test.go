package reconcile_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// tunnelled is the usual configuration with an Ethernet tunnel over wan1, which has addresses of ours.
func tunnelled() rules.Config {
	cfg := config()
	cfg.Tunnels = []rules.Tunnel{{Device: "vx0", For: "campus", MTU: 1400, Params: encap.Params{Kind: encap.VXLAN,
		Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), ID: 42, Port: 4789, TTL: 64}}}
	cfg.Uplinks = append(cfg.Uplinks, rules.Uplink{ID: 3, Name: "campus", Device: "vx0", Tier: 3, Weight: 1, IPv4: rules.Addressing{Enabled: true, Managed: true,
		Assign: &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("10.99.0.2/24")}}, Gateway: netip.MustParseAddr("10.99.0.1")}}})
	return cfg
}

// newTunnelBench is a bench whose wan1 has an MTU.
func newTunnelBench() *bench {
	b := newBench(tunnelled())
	b.kernel.Change(func(o *rules.Observed) { o.Links[1].MTU = 1500 })
	return b
}

func TestATunnelIsMadeWithAllThatItCarriesAndRemovedLast(t *testing.T) {
	b := newTunnelBench()
	made := commands(b.pass(t).Changes)
	at := func(prefix string) int {
		return slices.IndexFunc(made, func(c string) bool { return strings.HasPrefix(c, prefix) })
	}
	order := []int{at("ip link add name vx0"), at("ip link set dev vx0 up"), at("ip -4 address add 10.99.0.2/24 dev vx0"), at("ip -4 route replace default via 10.99.0.1 dev vx0")}
	if order[0] != 0 || !slices.IsSorted(order) {
		t.Errorf("at %v of %q", order, made)
	}
	if r := b.pass(t); len(r.Changes) > 0 {
		t.Errorf("a second pass changes %q", commands(r.Changes))
	}
	b.SetConfig(config())
	about := slices.DeleteFunc(commands(b.pass(t).Changes), func(c string) bool { return !strings.Contains(c, "vx0") })
	if about[len(about)-1] != "ip link delete dev vx0" {
		t.Errorf("removed by %q", about)
	}
}

// Whatever of a tunnel the kernel refuses is named, keeps the daemon from being healthy, and keeps nothing else waiting.
func TestATunnelThatCannotBeMadeHoldsNothingUp(t *testing.T) {
	for name, refuse := range map[string]func(netcfg.Op) bool{
		"the device": func(op netcfg.Op) bool { _, is := op.(netcfg.AddTunnel); return is },
		"its being up": func(op netcfg.Op) bool {
			_, is := op.(netcfg.SetUp)
			return is
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTunnelBench()
			b.kernel.Refuse(func(op netcfg.Op) error {
				if refuse(op) {
					return unix.EOPNOTSUPP
				}
				return nil
			})
			failed := func(r reconcile.Result) {
				t.Helper()
				named := slices.ContainsFunc(r.Report.Problems, func(p rules.Problem) bool { return p.Code == "tunnel" && p.Severity == "error" })
				if r.Converged || !r.Settled || !errors.Is(r.Err, unix.EOPNOTSUPP) || !named {
					t.Errorf("converged %v, settled %v, %v, problems %+v", r.Converged, r.Settled, r.Err, r.Report.Problems)
				}
			}
			failed(b.Pass())
			b.verdicts.set(fiber4, rules.Dead)
			failed(b.Pass())
			if !slices.Contains(b.kernel.Log(), "flush 0x1000000/0x3f000000 ipv4") {
				t.Errorf("the flows of a dead path stay: %q", b.kernel.Log())
			}
			b.kernel.Refuse(nil)
			b.pass(t)
			obs, _ := b.kernel.Snapshot(rules.Query{})
			if link, _ := obs.Link("vx0"); !link.Up {
				t.Error("it is down in the end")
			}
		})
	}
}
