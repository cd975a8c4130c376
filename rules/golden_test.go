package rules_test

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// The goldens are what uplinkd prints on a machine that it sees for the first time. The package
// internal/kernel makes each of these machines in a network namespace, feeds the goldens to ip, nft and
// sysctl, and looks whether anything is left to do; what is built here must be what is built there.
func TestGoldenPlans(t *testing.T) {
	for name, build := range map[string]func() *world{
		"dual": dual, "inherited": inherited, "tiers": tiers, "twins": twins, "static": staticAddresses, "ppp": ppp,
		"delegated": delegated, "translated": translated, "underlay": underlay, "sites": siteOf, "vxlan": vxlan, "gretap": gretap, "sit": sit, "6rd": sixRD, "wireguard": wireGuard, "sources": preferredSources, "wide": wide, "policies": chosen, "forwards": forwarding, "clat": clat, "shared": sharedSegment,
	} {
		t.Run(name, func(t *testing.T) {
			w := build()
			want, report := w.plan()
			if slices.ContainsFunc(report.Problems, func(p rules.Problem) bool { return p.Severity != "notice" }) {
				t.Errorf("problems: %v", report.Problems)
			}
			got := commands(netcfg.Diff(rules.Ours(numbers, w.foreseen()), want))
			w.converge(t) // the model takes it
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(string(golden), got); diff != "" {
				t.Errorf("%s (-golden +got), go test ./rules -update writes it anew:\n%s", file, diff)
			}
		})
	}
}

func TestEachKindOfTunnelIsInAGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	var all strings.Builder
	for _, file := range files {
		text, _ := os.ReadFile(file)
		all.Write(text)
	}
	for _, k := range encap.Kinds() {
		for _, word := range []string{cmp.Or(k.Device, k.Name), k.Name6} {
			if word != "" && !strings.Contains(all.String(), " type "+word) {
				t.Errorf("no golden makes a device of kind %s", word)
			}
		}
	}
}

// box is a router with a LAN and two uplinks that are judged good, before either has an address.
func box(link rules.Link, names ...string) *world {
	w := newWorld()
	w.obs.Sysctls["net/ipv4/conf/all/rp_filter"] = "1"
	w.obs.XFRM, w.obs.Egress = true, &rules.Egress{}
	w.plug(rules.Link{Name: "lan0", Up: true, Carrier: true, MTU: 1500})
	w.hold("lan0", "192.168.1.1/24", "2001:db8:1::1/64")
	for i, device := range names {
		link.Name, link.Up, link.Carrier, link.MTU = device, true, true, 1500
		w.plug(link)
		u := rules.Uplink{ID: i + 1, Name: []string{"fiber", "lte", "third", "fourth"}[i], Device: device, Tier: 1, Weight: max(1, 3-2*i),
			IPv4: rules.Addressing{Enabled: true, Masquerade: true}, IPv6: rules.Addressing{Enabled: true}}
		w.cfg.Uplinks = append(w.cfg.Uplinks, u)
		for _, f := range rules.Families {
			w.verdicts[rules.Path{Uplink: u.ID, Family: f}] = rules.Verdict{Health: rules.Good, State: "up"}
		}
	}
	return w
}

func (w *world) hold(device string, addresses ...string) {
	for _, a := range addresses {
		_ = w.addAddr(rules.Addr{Device: device, Prefix: netip.MustParsePrefix(a)})
	}
}

// lead gives a device the defaults of a DHCP client and of router advertisements.
func (w *world) lead(device, gateway string, metric uint32) {
	for f, gw := range map[rules.Family]string{rules.IPv4: gateway, rules.IPv6: "fe80::1"} {
		w.addForeignRoute(netcfg.Route{Family: f, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: f.Default(), Metric: metric, Protocol: protoDHCP,
			Nexthops: []netcfg.Nexthop{{Device: device, Gateway: netip.MustParseAddr(gw), Weight: 1}}})
	}
}

// dual is two providers that share the load 3 to 1.
func dual() *world {
	w := box(rules.Link{}, "wan1", "wan2")
	w.hold("wan1", "198.51.100.2/26", "2001:db8:a::2/64")
	w.hold("wan2", "203.0.113.2/26", "2001:db8:b::2/64")
	w.lead("wan1", "198.51.100.1", 100)
	w.lead("wan2", "203.0.113.1", 200)
	return w
}

// inherited is dual at a router that may stand in for another one.
func inherited() *world {
	w := dual()
	w.cfg.Uplinks[0].Inherits, w.cfg.Uplinks[1].Shared = true, true
	w.cfg.Uplinks[1].Expects = true
	return w
}

// tiers is a dead fiber before a living mobile network.
func tiers() *world {
	w := dual()
	w.cfg.Uplinks[1].Tier = 2
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: 1, Family: f}] = rules.Verdict{Health: rules.Dead, State: "down"}
	}
	return w
}

// twins is two modems that give the same address by the same gateway.
func twins() *world {
	w := box(rules.Link{}, "wan1", "wan2")
	for i, device := range []string{"wan1", "wan2"} {
		w.hold(device, "198.51.100.2/26", "2001:db8:a::2/64")
		w.lead(device, "198.51.100.1", uint32(100*(i+1)))
	}
	return w
}

// staticAddresses is two devices whose addresses are ours to give.
func staticAddresses() *world {
	w := box(rules.Link{}, "wan1", "wan2")
	assign := func(n int, address, gateway string) *rules.Assignment {
		return &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway), MTU: 1500 - 8*n}
	}
	w.cfg.Uplinks[0].IPv4.Assign = assign(0, "198.51.100.2/26", "198.51.100.1")
	w.cfg.Uplinks[0].IPv6.Assign = assign(0, "2001:db8:a::2/64", "2001:db8:a::1")
	w.cfg.Uplinks[1].IPv4.Assign = assign(1, "203.0.113.2/32", "203.0.113.1") // the gateway is behind no connected route
	w.cfg.Uplinks[1].IPv6.Assign = assign(1, "2001:db8:b::2/64", "fe80::1")
	return w
}

// preferredSources is a line whose addresses are routed to us over a transfer network, and one of whose addresses the second is
// ours to use; both share the load.
func preferredSources() *world {
	w := box(rules.Link{}, "wan1", "wan2")
	w.hold("lo", "198.51.100.65/32")
	w.hold("wan1", "10.99.0.2/30")
	w.hold("wan2", "203.0.113.2/26", "203.0.113.5/26")
	w.leadFrom("wan1", "10.99.0.1", "198.51.100.65", 100)
	w.leadFrom("wan2", "203.0.113.1", "203.0.113.5", 200)
	return w
}

// wide is a provider with a mask and an advertised prefix that cover what others carry, beside the page of a modem, and a second
// one with such a mask whose address is ours to give.
func wide() *world {
	w := box(rules.Link{}, "wan1", "wan2")
	w.hold("wan1", "198.51.100.2/8", "192.168.100.2/24", "2001:db8:a::2/64")
	_ = w.addAddr(rules.Addr{Device: "wan1", Prefix: netip.MustParsePrefix("2001:db8:ffff::2/64"), Dynamic: true})
	w.lead("wan1", "198.51.100.1", 100)
	w.cfg.Uplinks[1].IPv4.Managed = true
	w.cfg.Uplinks[1].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("203.0.113.2/2")}}, Gateway: netip.MustParseAddr("203.0.113.1")}
	return w
}

// leadFrom gives a device an IPv4 default with a preferred source.
func (w *world) leadFrom(device, gateway, source string, metric uint32) {
	r := static("0.0.0.0/0", device, netip.MustParseAddr(gateway), metric)
	r.Protocol, r.Src = protoDHCP, netip.MustParseAddr(source)
	w.addForeignRoute(r)
}

// delegated is two providers that delegate prefixes, of which the first is down.
func delegated() *world {
	w := tiers()
	_ = w.delAddr("wan2", netip.MustParsePrefix("2001:db8:b::2/64"))
	w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56"), Exclude: netip.MustParsePrefix("2001:db8:a00::/64")}}
	w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/64")}}
	w.cfg.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1, 2}, ULA: netip.MustParsePrefix("fd00:77:0:1::/64"), Downstream: []rules.Downstream{
		{Prefix: netip.MustParsePrefix("2001:db8:a00:fc::/62"), Router: netip.MustParseAddr("fe80::9")},
		{Prefix: netip.MustParsePrefix("2001:db8:c00:fc::/62"), Router: netip.MustParseAddr("fe80::9")}}}} // of a delegation that is gone
	return w
}

// forwarding is the same with ports that lead to hosts of the LAN.
func forwarding() *world {
	w := delegated()
	w.cfg.Forwards = []rules.Forward{
		{Name: "web", Protocols: []uint8{6}, Ports: netcfg.Ports{First: 443, Last: 443}, ToPort: 8443, Device: "lan0", To4: netip.MustParseAddr("192.168.1.10"), ID6: 0x10},
		{Name: "game", Protocols: []uint8{17, 6}, Ports: netcfg.Ports{First: 27000, Last: 27010}, Device: "lan0", To4: netip.MustParseAddr("192.168.1.11")},
		{Name: "mail", Protocols: []uint8{6}, Ports: netcfg.Ports{First: 25, Last: 25}, Device: "lan0", To4: netip.MustParseAddr("192.168.1.12"), ID6: 0x12, Uplinks: []int{1}},
	}
	return w
}

// sharedSegment is an Ethernet line whose /64 a LAN has too, with a host on either link.
func sharedSegment() *world {
	w := mobile(false)
	for name, value := range map[string]string{"net/ipv6/conf/%s/proxy_ndp": "0", "net/ipv6/neigh/%s/proxy_delay": "80"} {
		for _, device := range []string{"wan2", "lan0"} {
			w.obs.Sysctls[fmt.Sprintf(name, device)] = value
		}
	}
	w.cfg.Uplinks[1].Proxied = rules.ProxiedHosts{LAN: []netip.Addr{netip.MustParseAddr("2001:db8:b::7")}, Line: []netip.Addr{netip.MustParseAddr("2001:db8:b::1")}}
	return w
}

// clat is a line without IPv4 whose provider has a NAT64, before one with both families.
func clat() *world {
	w := dual()
	_ = w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26"))
	w.plug(rules.Link{Name: "clat-fiber", Up: true, Carrier: true, MTU: 1500, PointToPoint: true, NoNeighbours: true})
	line, tun := w.cfg.Uplinks[0].Translate(rules.CLAT{Device: "clat-fiber", Addr4: netip.MustParseAddr("192.0.0.1"), Addr6: netip.MustParseAddr("fd75:706c:696e:6b::1"), NAT64: netip.MustParsePrefix("64:ff9b::/96")})
	w.cfg.Uplinks[0], w.cfg.Uplinks[1].Tier = line, 2
	w.cfg.Uplinks = append(w.cfg.Uplinks, tun)
	return w
}

// translated is the same for hosts that cannot be told to change their addresses.
func translated() *world {
	w := delegated()
	w.cfg.Uplinks[1].IPv6.PrefixNAT = true
	return w
}

// underlay is a tunnel that fiber carries, with a site of other hosts behind it.
func underlay() *world {
	w := dual()
	for i := range w.obs.Links {
		if w.obs.Links[i].Name == "wan2" {
			w.obs.Links[i].MTU = 1420
		}
	}
	tunnel := &w.cfg.Uplinks[1]
	tunnel.Tier, tunnel.IPv4.Masquerade = 2, false
	tunnel.IPv4.MasqueradeFrom = []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}
	w.cfg.Underlays = []rules.Underlay{{ID: 9, Uplink: 2, Carriers: []int{1}}}
	return w
}

// chosen is two providers, and policies that look at everything that policies can look at.
func chosen() *world {
	w := dual()
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}, {ID: 4, Tiers: [][]int{{1}}, KillSwitch: true, Except: prefixes("192.0.2.7/32", "2001:db8:77::/48")},
		{ID: 5, LeftTo: rules.LeftToMain}, {ID: 6, LeftTo: rules.LeftToDefault}}
	w.cfg.Policies = []rules.Policy{
		{Name: "hosts", Group: 3, Select: rules.Selector{rules.SelectAddresses{Prefixes: prefixes("192.168.1.7/32", "192.168.1.8/32", "2001:db8:1::7/128")}}},
		{Name: "mail", Group: 3, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 25, Last: 25}}}}},
		{Name: "guests", Group: 4, Select: rules.Selector{rules.SelectDevices{"lan*"}, rules.SelectAddresses{Prefixes: prefixes("192.168.1.128/25")}, rules.SelectAddresses{Dest: true, Prefixes: prefixes("192.0.2.0/24")}, rules.SelectProtocols{6, 17}}},
		{Name: "user", Group: 4, Select: rules.Selector{rules.SelectUIDs{{Set: true, First: 1000, Last: 1999}}}},
		{Name: "marked", Group: 3, Select: rules.Selector{rules.SelectMark{Value: 0x1, Mask: 0xff}}},
		{Name: "filled", Group: 4, Select: rules.Selector{rules.SelectAddresses{Dest: true, Sets: []string{"streaming"}}, rules.SelectProtocols{17}, rules.SelectPorts{List: []netcfg.Ports{{First: 1024, Last: 65535}}}}},
		{Name: "voice", Group: 3, Select: rules.Selector{rules.SelectDSCP{46, 34}}},
		{Name: "camera", Group: 4, Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}},
		{Name: "alone", Group: 5, Select: rules.Selector{to("192.0.2.128/25")}},
		{Name: "usual", Group: 6, Select: rules.Selector{to("192.0.2.64/26"), rules.SelectProtocols{6}}},
		{Name: "country", Group: 4, Select: rules.Selector{rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "country", Set: inet.NewSet([]inet.Range{
			inet.RangeOf(netip.MustParsePrefix("192.0.2.0/27")), {First: netip.MustParseAddr("192.0.2.40"), Last: netip.MustParseAddr("192.0.2.50")}, inet.RangeOf(netip.MustParsePrefix("2001:db8:99::/48"))})}}}}},
	}
	return w
}

// tap is a provider, and an Ethernet tunnel over it whose addresses are ours to give.
func tap(params encap.Params) *world {
	w := box(rules.Link{}, "wan1")
	for _, key := range sysctlKeys {
		w.obs.Sysctls["net/ipv4/conf/default/"+key] = "0"
	}
	w.hold("wan1", "198.51.100.2/26", "2001:db8:a::2/64")
	w.lead("wan1", "198.51.100.1", 100)
	w.cfg.Tunnels = []rules.Tunnel{{Device: "tap0", For: "campus", Params: params}}
	assign := func(address, gateway string) *rules.Assignment {
		return &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway)}
	}
	w.cfg.Uplinks = append(w.cfg.Uplinks, rules.Uplink{ID: 2, Name: "campus", Device: "tap0", Tier: 2, Weight: 1,
		IPv4: rules.Addressing{Enabled: true, Managed: true, Masquerade: true, Assign: assign("10.99.0.2/24", "10.99.0.1")},
		IPv6: rules.Addressing{Enabled: true, Managed: true, Assign: assign("2001:db8:99::2/64", "2001:db8:99::1")}})
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: 2, Family: f}] = rules.Verdict{Health: rules.Good, State: "up"}
	}
	return w
}

func vxlan() *world {
	return tap(encap.Params{Kind: encap.VXLAN, Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64, ID: 42, Port: 4789})
}

// gretap carries another end's bridge besides.
func gretap() *world {
	w := tap(encap.Params{Kind: encap.GRETAP, Local: netip.MustParseAddr("2001:db8:a::2"), Remote: netip.MustParseAddr("2001:db8:9::9"), TTL: 64, Key: 7, HasKey: true})
	w.plug(rules.Link{Name: "br0", Up: true, Carrier: true, MTU: 1500})
	w.cfg.Tunnels = append(w.cfg.Tunnels, rules.Tunnel{Device: "far0", For: "tunnel far0", Bridge: "br0", Params: encap.Params{Kind: encap.GRETAP,
		Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64, Fragment: true}})
	return w
}

// sit carries IPv6 alone.
func sit() *world {
	w := tap(encap.Params{Kind: encap.SIT, Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64})
	w.cfg.Uplinks[1].IPv4 = rules.Addressing{}
	return w
}

// sixRD is a customer among others of a provider of IPv4, with a LAN.
func sixRD() *world {
	w := tap(encap.Params{Kind: encap.SixRD, Local: netip.MustParseAddr("198.51.100.2"), TTL: 64,
		Prefix6: netip.MustParsePrefix("2001:db8:9000::/36"), Prefix4: netip.MustParsePrefix("198.51.96.0/20")})
	u := &w.cfg.Uplinks[1]
	u.IPv4, u.IPv6.Assign = rules.Addressing{}, &rules.Assignment{Gateway: netip.MustParseAddr("::192.0.2.9"),
		Routes: []rules.AssignedRoute{{Dst: netip.MustParsePrefix("2001:db8:9000::/36")}}}
	u.Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:9402::/48"), Configured: true}}
	w.cfg.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{2}}}
	return w
}

// wireGuard is two providers, and a tunnel that calls one peer over the first of them.
func wireGuard() *world {
	w := dual()
	for _, key := range sysctlKeys {
		w.obs.Sysctls["net/ipv4/conf/default/"+key] = "0"
	}
	w.cfg.Tunnels = []rules.Tunnel{{Device: "wg0", For: "vps", Params: encap.Params{Kind: encap.WireGuard}}}
	w.cfg.WireGuard = []netcfg.WireGuard{{Device: "wg0", PrivateKey: netcfg.Secret{Key: netcfg.Key{0: 8, 31: 64}, File: "/etc/uplinkd/wg.key"}, FwMark: numbers.Mark(9), UnderlayTable: numbers.Table(9),
		Peers: []netcfg.WireGuardPeer{{PublicKey: netcfg.Key{2}, Endpoint: netip.MustParseAddrPort("192.0.2.9:51820"), Called: true, Keepalive: 25 * time.Second,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.9.0.0/24")}}}}}
	w.cfg.Underlays = []rules.Underlay{{ID: 9, Uplink: 3, Carriers: []int{1, 2}}}
	w.cfg.Uplinks = append(w.cfg.Uplinks, rules.Uplink{ID: 3, Name: "vps", Device: "wg0", Tier: 2, Weight: 1,
		IPv4: rules.Addressing{Enabled: true, Managed: true, Masquerade: true, Assign: &rules.Assignment{
			Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("10.0.31.2/24")}}, Peers: []rules.PeerNetwork{{Dst: netip.MustParsePrefix("10.9.0.0/24"), Alive: true}}}}})
	w.verdicts[rules.Path{Uplink: 3, Family: rules.IPv4}] = rules.Verdict{Health: rules.Good, State: "up"}
	return w
}

// siteOf is a provider, and a tunnel to two peers of which one is not there.
func siteOf() *world {
	w := dual()
	tunnel := &w.cfg.Uplinks[1]
	tunnel.Site, tunnel.IPv4.Masquerade = true, false
	for f, networks := range map[rules.Family][2]string{rules.IPv4: {"10.9.0.0/24", "10.9.0.7/32"}, rules.IPv6: {"fd00:9::/64", "fd00:9::7/128"}} {
		a := &rules.Assignment{NoDefault: true}
		for i, n := range networks {
			a.Peers = append(a.Peers, rules.PeerNetwork{Dst: netip.MustParsePrefix(n), Alive: i == 0})
		}
		if f == rules.IPv4 {
			tunnel.IPv4.Assign = a
		} else {
			tunnel.IPv6.Assign = a
		}
	}
	return w
}

// ppp is two point-to-point devices without gateways.
func ppp() *world {
	w := box(rules.Link{PointToPoint: true}, "ppp0", "ppp1")
	w.hold("ppp0", "198.51.100.2/32", "2001:db8:a::2/64")
	w.hold("ppp1", "203.0.113.2/32", "2001:db8:b::2/64")
	for i, device := range []string{"ppp0", "ppp1"} {
		for _, f := range rules.Families {
			r := netcfg.Route{Family: f, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: f.Default(), Metric: uint32(100 * (i + 1)),
				Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}}
			if f == rules.IPv4 {
				r.Scope = netcfg.ScopeLink
			}
			w.addForeignRoute(r)
		}
	}
	return w
}
