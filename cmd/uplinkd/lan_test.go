package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// lan returns what the status tells of the only LAN.
func (r *router) lan() status.LAN {
	r.Helper()
	s := r.status()
	if len(s.Lans) != 1 {
		r.Fatalf("the status lists %d LANs", len(s.Lans))
	}
	var l status.LAN
	if err := json.Unmarshal(s.Lans[0], &l); err != nil {
		r.Fatal(err)
	}
	return l
}

// hostHasRouter reports whether the LAN host has an IPv6 default route.
func (r *router) hostHasRouter() bool {
	r.Helper()
	return strings.Contains(r.sh("lan", "ip -6 route show default"), "default")
}

func (r *router) awaitHostRouter(want bool) {
	r.Helper()
	r.await(fmt.Sprintf("the host to have a router: %v", want), func() error {
		if r.hostHasRouter() != want {
			return errors.New("not yet")
		}
		return nil
	})
}

// holds lists the addresses of the LAN host in a prefix.
func (r *router) holds(p netip.Prefix) []hostAddress {
	r.Helper()
	return slices.DeleteFunc(r.hostAddresses(), func(a hostAddress) bool { return !p.Contains(a.Local) })
}

// RFC 7084 G-5: when nothing works, hosts are told that there is no way out by IPv6, and keep what works among
// themselves. The sources that they have are not taken away: everything may be back in a minute.
func TestHostsAreToldWhenNothingWorks(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.serve()
	r.listen()
	r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	r.awaitHostRouter(true)
	for _, u := range []string{"fiber", "lte"} {
		if err := r.Break(lab.Carrier, u); err != nil {
			t.Fatal(err)
		}
	}
	r.awaitHostRouter(false)
	ula := netip.MustParsePrefix(r.lan().ULA)
	if list := r.holds(ula); len(list) != 1 || list[0].Deprecated {
		t.Errorf("of %v the host has %+v", ula, list)
	}
	if l := r.lan(); l.Online {
		t.Errorf("the LAN is said to be online: %+v", l)
	}
	if err := r.ask("lan", services[0], ula.Addr().Next(), patience); err != nil { // the router's own
		t.Error(err)
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHostRouter(true)
	r.awaitHost(pools["fiber"])
}

// A provider that gives another prefix (RFC 9096): hosts stop using the old one within seconds, though the kernel of a
// Linux host keeps it for two hours more (RFC 4862 section 5.5.3).
func TestARenumberedPrefixIsLeftAtOnce(t *testing.T) {
	t.Parallel()
	next := netip.MustParsePrefix("2001:db8:f100::/48")
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	server := r.delegateByKea(pools["fiber"], lifetimes{3, 6, 900, 1800})
	r.start()
	r.awaitHost(pools["fiber"])
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	server.stop()
	if err := r.Revoke(context.Background(), "fiber", pools["fiber"]); err != nil {
		t.Fatal(err)
	}
	r.delegateByKea(next, anHour)
	r.await("the new prefix to be delegated", func() error {
		for _, d := range r.status().Uplinks[0].IPv6.Delegated {
			if next.Overlaps(d.Prefix) {
				return nil
			}
		}
		return errors.New("not yet")
	})
	reported := time.Now()
	r.awaitHost(next)
	t.Logf("the host left the old prefix %v after the lease changed", time.Since(reported).Round(time.Millisecond))
	r.await("flows from the new prefix", func() error {
		f, ok := flow.Last(reported)
		if !ok || f.Err != nil || !next.Contains(f.Source.Addr()) {
			return fmt.Errorf("the last one is %+v", f)
		}
		return nil
	})
	if list := r.holds(pools["fiber"]); len(list) != 1 || !list[0].Deprecated {
		t.Errorf("of the old prefix the host has %+v", list)
	}
	// The old prefix is denied across a restart as well.
	r.kill()
	r.start()
	r.sh("lan", "ip -6 address flush dev eth0 scope global; ip link set eth0 down; ip link set eth0 up")
	r.awaitHost(next)
}

// oneDelegation is a house with one provider.
const oneDelegation = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  delegation = true
` + targets + `
[[lan]]
device = "lan0"
subnet_id = 1
`

// A cable that is pulled for a moment, and a device that is made anew, cost no prefix.
func TestADelegationSurvivesItsDevice(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, oneDelegation)
	r.listen()
	server := r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	before := r.status().Uplinks[0].IPv6.Delegated[0].Prefix
	same := func(what string) {
		t.Helper()
		r.awaitHost(pools["fiber"]) // it is trusted again only later, but there is no other
		if d := r.status().Uplinks[0].IPv6.Delegated; len(d) != 1 || d[0].Prefix != before {
			t.Errorf("after %s: %+v, it was %v", what, d, before)
		}
	}
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	same("a link flap")

	u := r.Uplink("fiber")
	r.sh("isp1", "ip link del cust1; sleep 0.2")
	r.awaitState("fiber", uplink.Down)
	r.sh("isp1", fmt.Sprintf(`ip link add cust1 type veth peer name wan1 netns %s
		ip link set dev cust1 addrgenmode none; ip address add fe80::1/64 dev cust1 nodad; ip link set cust1 up
		ip address add %s/26 dev cust1; ip address add 2001:db8:a::1/64 dev cust1 nodad`, r.Host("router").Namespace(), u.Gateway4))
	r.sh("router", fmt.Sprintf(`ip link set wan1 up; ip address add %v dev wan1; ip address add %v dev wan1 nodad
		ip route add default via %v metric %d; ip -6 route add default via fe80::1 dev wan1 metric %[4]d`, u.Address4, u.Address6, u.Gateway4, u.Metric))
	server.stop() // it has lost its socket with the device, and its leases
	r.delegateByKea(pools["fiber"], anHour)
	same("a new device and a server without memory")
}

// Method "ra" does what the kernel does not do on a router, and delegation runs beside it.
func TestRoutersAreDiscoveredAndPrefixesDelegated(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  method = "ra"
  delegation = true
`+targets+`
[[lan]]
device = "lan0"
`)
	r.listen()
	r.sh("router", "ip -6 address flush dev wan1 scope global; ip -6 route flush dev wan1 proto static")
	r.advertise("isp1", "cust1", `AdvDefaultLifetime 30; prefix 2001:db8:a::/64 { AdvValidLifetime 60; AdvPreferredLifetime 40; };`)
	r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitState("fiber", uplink.Up)
	own := r.status().Uplinks[0].IPv6.Addresses
	if len(own) != 1 || !netip.MustParsePrefix("2001:db8:a::/64").Contains(own[0].Addr()) {
		t.Errorf("the uplink has %v", own)
	}
	if v, err := r.Host("router").Sysctl("net/ipv6/conf/wan1/accept_ra"); err != nil || v != "0" {
		t.Errorf("accept_ra is %q, %v: the kernel listens too", v, err)
	}
	r.awaitHost(pools["fiber"])
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	began := time.Now()
	r.kill()
	if !r.hasAddress6("wan1", own[0].Addr()) {
		t.Error("the address went with the daemon")
	}
	r.start()
	if now := r.status().Uplinks[0].IPv6.Addresses; !slices.Equal(now, own) {
		t.Errorf("after a restart the uplink has %v, it had %v", now, own)
	}
	for _, f := range flow.Flows() {
		if f.Start.After(began) && f.Err != nil {
			t.Errorf("a flow failed %v after the crash: %v", f.Start.Sub(began), f.Err)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source", n)
	}
}

func (r *router) hasAddress6(device string, a netip.Addr) bool {
	r.Helper()
	return strings.Contains(r.sh("router", "ip -6 -o address show dev "+device), " "+a.String()+"/")
}

// Another program advertises on the LAN: it is named. Left the job, it finds the live prefixes in a file.
func TestOtherAdvertisersAreNamedAndMayHaveTheJob(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	r.advertise("lan", "eth0", "AdvDefaultLifetime 30; prefix 2001:db8:bad::/64 { };")
	r.await("the other router to be named", func() error {
		for _, p := range r.status().Problems {
			if p.Code == "other-router" && strings.Contains(p.Message, "lan0") {
				return nil
			}
		}
		return fmt.Errorf("problems: %+v", r.status().Problems)
	})
	if l := r.lan(); len(l.Others) != 1 || l.Others[0].LifetimeS != 30 {
		t.Errorf("%+v", l)
	}
	r.configure(strings.Replace(twoDelegations, "subnet_id = 1", "subnet_id = 1\nadvertise = false", 1))
	r.command("reload", "--socket", r.socket())
	r.await("the host to be told that we are its router no more", func() error {
		routes := r.sh("lan", "ip -6 route show default")
		if own := r.routerLinkLocal(); strings.Contains(routes, own) {
			return errors.New(routes)
		}
		return nil
	})
	var file struct {
		Prefixes []struct{ Prefix, Uplink string }
	}
	r.await("the file with the live prefixes", func() error {
		text, err := os.ReadFile(filepath.Join(r.dir, "state", "prefixes-lan0.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &file)
	})
	if len(file.Prefixes) != 1 || file.Prefixes[0].Uplink != "fiber" || file.Prefixes[0].Prefix != "2001:db8:f000:1::/64" {
		t.Errorf("the file has %+v", file)
	}
}

// routerLinkLocal is the router's link-local address on the LAN.
func (r *router) routerLinkLocal() string {
	r.Helper()
	out := r.sh("router", "ip -6 -o address show dev lan0 scope link")
	return strings.Split(strings.Fields(out)[3], "/")[0]
}

// advertise starts radvd on a device of a host, and returns what stops it.
func (r *router) advertise(host, device, body string) (stop func()) {
	r.Helper()
	dir := r.scratch("radvd-")
	r.write(filepath.Join(dir, "conf"), fmt.Sprintf("interface %s { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; %s };", device, body))
	forwarding := ""
	if host == "lan" { // radvd insists
		forwarding = "sysctl -qw net.ipv6.conf.all.forwarding=1; "
	}
	_, _, stop = r.background(host, "sh", "-c", forwarding+fmt.Sprintf("exec radvd -n -C %s/conf -p %[1]s/pid -m stderr -d 1", dir))
	return stop
}

// Hosts that cannot be told: whoever carries them, they keep their addresses and appear by the delegation.
func TestTranslatedHostsAppearByTheDelegation(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(twoDelegations, "delegation = true\n", "delegation = true\n  translate = true\n", 2))
	r.listen()
	r.delegateByKea(pools["fiber"], anHour)
	r.delegateByISC(pools["lte"], anHour)
	r.start()
	r.await("both delegations", func() error {
		for _, u := range r.status().Uplinks {
			if len(u.IPv6.Delegated) == 0 {
				return fmt.Errorf("%s has none", u.Name)
			}
		}
		return r.converged()
	})
	ula := netip.MustParsePrefix(r.lan().ULA)
	r.await("the host to have an address of its own", func() error {
		if list := r.holds(ula); len(list) != 1 || list[0].Deprecated || len(r.hostAddresses()) != 1 {
			return fmt.Errorf("it has %+v", r.hostAddresses())
		}
		return nil
	})
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	own := r.holds(ula)[0].Local.As16()
	f, _ := flow.Last(time.Now().Add(-time.Minute))
	if seen := f.Source.Addr().As16(); !slices.Equal(own[8:], seen[8:]) {
		t.Errorf("the host %v appears as %v", netip.AddrFrom16(own), f.Source)
	}
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(flow, "lte")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source", n)
	}
	if list := r.holds(ula); len(list) != 1 || list[0].Deprecated {
		t.Errorf("the host has %+v", list)
	}
}

// Cleaning up tells the hosts, and leaves no address of ours on the LAN.
func TestCleaningUpTellsTheHosts(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	r.stop()
	if !r.hostHasRouter() {
		t.Error("stopping the daemon took the hosts' router away")
	}
	r.command("clean", "-c", r.config)
	r.awaitHostRouter(false)
	r.awaitHost()
	if out := r.sh("router", "ip -6 -o address show dev lan0 scope global"); out != "" {
		t.Errorf("lan0 still has\n%s", out)
	}
}
