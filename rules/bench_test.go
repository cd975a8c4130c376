package rules_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// full is a machine with many uplinks, policies, and routes behind its LAN.
func full(uplinks, policies, lanRoutes int) *world {
	w := newWorld()
	w.obs.Sysctls["net/ipv4/conf/all/rp_filter"] = "1"
	w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true, MTU: 1500})
	w.hold("lan1", "192.168.1.1/24", "2001:db8:1::1/64")
	for n := range lanRoutes {
		w.obs.Routes = append(w.obs.Routes, static(netip.PrefixFrom(netip.AddrFrom4([4]byte{10 + byte(n>>16), byte(n >> 8), byte(n)}), 24).String(), "lan1", lanHost(1, rules.IPv4, 2), 0))
	}
	for n := range uplinks {
		device := fmt.Sprintf("wan%d", n+1)
		family := rules.Addressing{Enabled: true, Masquerade: true}
		u := rules.Uplink{ID: n + 1, Name: fmt.Sprintf("up%d", n+1), Device: device, Tier: 1 + n%3, Weight: 1 + n%4, IPv4: family, IPv6: family}
		w.cfg.Uplinks = append(w.cfg.Uplinks, u)
		w.plug(rules.Link{Name: device, Up: true, Carrier: true, MTU: 1500})
		w.hold(device, fmt.Sprintf("172.16.%d.2/24", n), fmt.Sprintf("2001:db8:a%02x::2/64", n))
		w.lead(device, netip.AddrFrom4([4]byte{172, 16, byte(n), 1}).String(), uint32(100+n))
		for _, f := range rules.Families {
			w.verdicts[rules.Path{Uplink: u.ID, Family: f}] = rules.Verdict{Health: rules.Good}
		}
	}
	for n := range rules.MaxUplinks - uplinks {
		w.cfg.Groups = append(w.cfg.Groups, rules.Group{ID: uplinks + 1 + n, Tiers: [][]int{{1 + n}, {2 + n, 3 + n}}, KillSwitch: n%2 == 0 && n > 0})
	}
	for n := range policies {
		p := rules.Policy{Name: fmt.Sprintf("p%d", n), Group: w.cfg.Groups[n*len(w.cfg.Groups)/policies].ID}
		p.Select = rules.Selector{from(fmt.Sprintf("192.168.%d.%d/32", n/250, n%250), fmt.Sprintf("2001:db8:1::%x/128", n))}
		w.cfg.Policies = append(w.cfg.Policies, p)
	}
	return w
}

// The bar is 5 ms for the plan and the difference together.
func BenchmarkPlanAndDiff(b *testing.B) {
	// Uplinks and groups share one space of ids.
	first := full(58, 1000, 1000)
	settled := full(58, 1000, 1000)
	settled.converge(b)
	failing := full(58, 1000, 1000)
	failing.converge(b)
	for _, f := range rules.Families {
		failing.verdicts[rules.Path{Uplink: 1, Family: f}] = rules.Verdict{Health: rules.Dead}
	}
	for _, c := range []struct {
		name string
		*world
	}{{"first", first}, {"settled", settled}, {"failing", failing}} {
		b.Run(c.name, func(b *testing.B) {
			obs := c.snapshot()
			b.ReportAllocs()
			for b.Loop() {
				want, _ := rules.Plan(c.cfg, obs, c.verdicts)
				netcfg.Diff(rules.Ours(numbers, obs), want)
			}
		})
	}
}

// A routing daemon has put 100 000 routes behind the LAN.
func BenchmarkPlanWithManyRoutes(b *testing.B) {
	w := full(4, 0, 100_000)
	w.converge(b)
	listed, collected := w.snapshot(), w.snapshot()
	split(collected, w.cfg)
	for name, obs := range map[string]*rules.Observed{"listed": listed, "collected": collected} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				want, _ := rules.Plan(w.cfg, obs, w.verdicts)
				netcfg.Diff(rules.Ours(numbers, obs), want)
			}
		})
	}
}

// Containers, or a list of addresses on the loopback device, have given the machine 10 000.
func BenchmarkPlanWithManyAddresses(b *testing.B) {
	for _, device := range []string{"lo", "lan1"} {
		b.Run(device, func(b *testing.B) {
			w := full(rules.MaxUplinks, 0, 0)
			for n := range 10_000 {
				w.hold(device, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, byte(n >> 8), byte(n)}), 32).String())
			}
			for i := range w.cfg.Uplinks {
				u := &w.cfg.Uplinks[i]
				address := netip.AddrFrom4([4]byte{172, 16, byte(i), 2})
				u.IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.PrefixFrom(address, 24)}}, Gateway: address.Prev()}
				w.obs.Recorded.Addrs = append(w.obs.Recorded.Addrs, netcfg.AddrAssignment{Device: u.Device, Prefix: netip.PrefixFrom(address, 24)})
			}
			obs := w.snapshot()
			for b.Loop() {
				rules.Plan(w.cfg, obs, w.verdicts)
			}
		})
	}
}
