package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// sharing is a line with a delegation, and a point-to-point one of which the LAN gets the only /64 that there is.
const sharing = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  delegation = true
` + targets + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
  [uplink.ipv6]
  method = "ra"
  share = true
` + targets + `
[[lan]]
device = "lan0"
`

// mobile makes lte a mobile line: point-to-point, with a /64 that is announced as not on the link and that the provider has no address in.
func (r *router) mobile(prefix string) (stop func()) {
	r.Helper()
	r.dialedUp("lte")
	r.sh("router", "ip -6 address flush dev wan2 scope global; ip -6 route flush dev wan2 proto static")
	r.sh("isp2", "ip -6 address flush dev cust2 scope global; ip -6 route replace "+prefix+" dev cust2")
	return r.advertise("isp2", "cust2", "AdvDefaultLifetime 30; prefix "+prefix+" { AdvOnLink off; AdvValidLifetime infinity; AdvPreferredLifetime infinity; };")
}

func TestALANHasTheNetworkOfAPointToPointLine(t *testing.T) {
	t.Parallel()
	line := netip.MustParsePrefix("2001:db8:b::/64")
	r := newRouter(t, lab.Options{}, sharing)
	r.serve()
	r.listen()
	stop := r.mobile(line.String())
	r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitHost(pools["fiber"])
	r.await("the host to have an address of the line", func() error {
		if len(r.holds(line)) != 1 {
			return fmt.Errorf("it has %+v", r.hostAddresses())
		}
		return nil
	})
	u, err := r.uplinkStatus("lte")
	if err != nil || len(u.IPv6.Addresses) != 1 || !u.IPv6.Addresses[0].IsSingleIP() || !line.Contains(u.IPv6.Addresses[0].Addr()) {
		t.Errorf("the line has %v, %v", u.IPv6.Addresses, err)
	}
	if len(u.IPv6.Delegated) != 1 || u.IPv6.Delegated[0].Prefix != line {
		t.Errorf("the status says that it gives %+v", u.IPv6.Delegated)
	}
	own := u.IPv6.Addresses[0].Addr()
	host := r.holds(line)[0].Local
	reached := func() {
		t.Helper()
		for _, s := range services[:2] {
			if err := r.ask("inet", s, own, unhurried); err != nil {
				t.Error(err)
			}
			if err := r.ask("lan", s, own, unhurried); err != nil {
				t.Error(err)
			}
		}
		for _, s := range services[2:] {
			if err := r.ask("inet", s, host, unhurried); err != nil {
				t.Error(err)
			}
		}
	}
	reached()
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(line)
	r.awaitFlow(flow, "lte")
	reached()
	r.kill()
	reached()
	r.start()
	r.awaitHost(line)
	reached()

	// Dialed again, the line has another network; nobody takes the former one back, which was announced for ever.
	next := netip.MustParsePrefix("2001:db8:b:7::/64")
	stop()
	r.sh("isp2", "ip link set cust2 down")
	r.awaitState("lte", uplink.Down)
	r.sh("isp2", "ip link set cust2 up; ip -6 address replace fe80::1/64 dev cust2 nodad; ip -6 route del "+line.String()+" dev cust2 || true")
	r.delegate("lte", next) // which the provider lets pass from now on
	r.mobile(next.String())
	r.awaitHost(next)
	r.await("flows from the new network", func() error {
		if f, ok := flow.Last(time.Now().Add(-time.Second)); !ok || f.Err != nil || !next.Contains(f.Source.Addr()) {
			return fmt.Errorf("the last one is %+v", f)
		}
		return nil
	})
	r.await("the line to have its new address alone", func() error {
		u, err := r.uplinkStatus("lte")
		if err != nil || len(u.IPv6.Addresses) != 1 || !next.Contains(u.IPv6.Addresses[0].Addr()) {
			return fmt.Errorf("it has %v, %w", u.IPv6.Addresses, err)
		}
		own = u.IPv6.Addresses[0].Addr()
		return nil
	})
	host = r.holds(next)[0].Local
	reached()
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["fiber"])
	r.awaitFlow(flow, "fiber")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source: %s", n, r.foreignSources())
	}
	if problems := r.status().Problems; slices.ContainsFunc(problems, func(p rules.Problem) bool { return strings.HasPrefix(p.Code, "s") }) {
		t.Errorf("problems: %+v", problems)
	}
}
