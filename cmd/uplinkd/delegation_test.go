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
	"github.com/uplinkd/uplinkd/uplink"
)

// What the providers' servers delegate from.
var pools = map[string]netip.Prefix{
	"fiber": netip.MustParsePrefix("2001:db8:f000::/48"),
	"lte":   netip.MustParsePrefix("2001:db8:e000::/48"),
}

// twoDelegations are two providers with a prefix each, of which the second is for when the first is down.
const twoDelegations = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  delegation = true
  prefix_hint = "::/56"
` + targets + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
  [uplink.ipv6]
  delegation = true
` + targets + `
[[lan]]
device = "lan0"
subnet_id = 1
`

// lifetimes are what a server gives, in seconds.
type lifetimes struct{ renew, rebind, preferred, valid int }

var anHour = lifetimes{600, 1200, 1800, 3600}

// delegationServer is a DHCPv6 server at a provider.
type delegationServer struct {
	pid  int
	log  *safeBuffer
	stop func()
}

// delegateByKea starts kea-dhcp6 at the provider of fiber. A server that is started again has forgotten all leases.
// With an expression of Kea's it serves those alone that meet it.
func (r *router) delegateByKea(pool netip.Prefix, l lifetimes, only ...string) *delegationServer {
	r.Helper()
	server := r.serveKea("cust1", pool, l, only...)
	r.delegate("fiber", pool)
	return server
}

// serveKea is delegateByKea at a device of that provider, which routes nothing.
func (r *router) serveKea(device string, pool netip.Prefix, l lifetimes, only ...string) *delegationServer {
	r.Helper()
	class, member := "", ""
	if len(only) > 0 {
		class, member = fmt.Sprintf(`"client-classes": [{"name": "customer", "test": %q}],`, only[0]), `"client-class": "customer",`
	}
	dir := r.scratch("kea-")
	conf := filepath.Join(dir, "kea.json")
	r.write(conf, fmt.Sprintf(`{"Dhcp6": {
		"interfaces-config": {"interfaces": [%[8]q]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0001", "persist": false},
		"renew-timer": %[1]d, "rebind-timer": %[2]d, "preferred-lifetime": %[3]d, "valid-lifetime": %[4]d,
		"option-data": [{"name": "dns-servers", "data": "2001:db8:ffff::53"}], %[5]s
		"subnet6": [{"subnet": "2001:db8:a::/64", "interface": %[8]q, %[6]s
			"pd-pools": [{"prefix": "%[7]v", "prefix-len": %[9]d, "delegated-len": 56}]}],
		"loggers": [{"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": "stdout"}]}]}}`,
		l.renew, l.rebind, l.preferred, l.valid, class, member, pool.Addr(), device, pool.Bits()))
	cmd, log, stop := r.background("isp1", "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp6", "-c", conf)
	return &delegationServer{cmd.Process.Pid, log, stop}
}

// delegateByISC starts isc-dhcp-server at the provider of lte.
func (r *router) delegateByISC(pool netip.Prefix, l lifetimes) *delegationServer {
	r.Helper()
	dir := r.scratch("dhcpd6-")
	b := pool.Addr().As16()
	b[6] = 0xff
	r.write(filepath.Join(dir, "conf"), fmt.Sprintf(`default-lease-time %d; preferred-lifetime %d;
		option dhcp-renewal-time %d; option dhcp-rebinding-time %d; authoritative;
		subnet6 2001:db8:b::/64 { prefix6 %v %v /56; }`, l.valid, l.preferred, l.renew, l.rebind, pool.Addr(), netip.AddrFrom16(b)))
	r.write(filepath.Join(dir, "leases"), "")
	cmd, log, stop := r.background("isp2", "dhcpd", "-6", "-f", "-d", "-cf", filepath.Join(dir, "conf"), "-lf", filepath.Join(dir, "leases"),
		"-pf", filepath.Join(dir, "pid"), "cust2")
	r.delegate("lte", pool)
	return &delegationServer{cmd.Process.Pid, log, stop}
}

func (r *router) delegate(uplink string, pool netip.Prefix) {
	r.Helper()
	if err := r.Delegate(context.Background(), uplink, pool); err != nil {
		r.Fatal(err)
	}
}

func (r *router) scratch(pattern string) string {
	r.Helper()
	dir, err := os.MkdirTemp(r.dir, pattern)
	if err != nil {
		r.Fatal(err)
	}
	return dir
}

func (r *router) write(file, content string) {
	r.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		r.Fatal(err)
	}
}

// listen makes the LAN host take its IPv6 addresses and router from advertisements alone.
func (r *router) listen() {
	r.Helper()
	r.sh("lan", `ip -6 address flush dev eth0 scope global
		ip -6 route flush dev eth0 proto boot; ip -6 route flush dev eth0 proto static
		sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.addr_gen_mode=0`)
	r.sh("router", "ip -6 address flush dev lan0 scope global")
}

// hostAddress is an address of the LAN host as its kernel has it.
type hostAddress struct {
	Local      netip.Addr
	Deprecated bool
	Preferred  int64 `json:"preferred_life_time"` // seconds
	Valid      int64 `json:"valid_life_time"`
}

// hostAddresses lists the global IPv6 addresses of the LAN host.
func (r *router) hostAddresses() []hostAddress {
	r.Helper()
	var links []struct {
		AddrInfo []hostAddress `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(r.sh("lan", "ip -6 -j address show dev eth0 scope global")), &links); err != nil {
		r.Fatal(err)
	}
	var list []hostAddress
	for _, l := range links {
		list = append(list, l.AddrInfo...)
	}
	return slices.DeleteFunc(list, func(a hostAddress) bool { return !a.Local.IsValid() }) // ip prints {} for what its filter hides
}

// awaitHost waits until the LAN host prefers addresses of these pools and of no other, its unique-local one aside.
func (r *router) awaitHost(preferred ...netip.Prefix) {
	r.Helper()
	r.await(fmt.Sprintf("the host to prefer addresses of %v", preferred), func() error {
		list := r.hostAddresses()
		for _, pool := range preferred {
			if !slices.ContainsFunc(list, func(a hostAddress) bool { return !a.Deprecated && pool.Contains(a.Local) }) {
				return fmt.Errorf("it has %+v", list)
			}
		}
		for _, a := range list {
			if !a.Deprecated && !a.Local.IsPrivate() && !slices.ContainsFunc(preferred, func(p netip.Prefix) bool { return p.Contains(a.Local) }) {
				return fmt.Errorf("it has %+v", list)
			}
		}
		return nil
	})
}

// hostFlow opens new IPv6 flows from the LAN host, from whatever source its kernel chooses.
func (r *router) hostFlow() *lab.FlowProbe {
	f := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("[2001:db8:ffff::1]:7"), Interval: 20 * time.Millisecond, Timeout: unhurried}
	r.probe(f)
	return f
}

// A provider that knows its customers by what their routers say.
func TestAProviderIsToldWhatItExpects(t *testing.T) {
	t.Parallel()
	const identity = `  duid = "00:03:00:01:02:00:00:00:00:01"
  iaid = 7
  vendor_class = "3561:dslforum.org"
  user_class = "home"
`
	with := func(more string) string {
		return strings.Replace(twoDelegations, "  delegation = true\n", "  delegation = true\n"+more, 1)
	}
	r := newRouter(t, lab.Options{}, with(strings.Replace(identity, "home", "office", 1)))
	kea := r.delegateByKea(pools["fiber"], lifetimes{3, 6, 900, 1800},
		`option[1].hex == 0x00030001020000000001 and vendor-class[3561].data == 'dslforum.org' and option[15].hex == 0x0004686f6d65 and substring(option[25].hex,0,4) == 0x00000007`)
	delegated := func() int {
		u, err := r.uplinkStatus("fiber")
		if err != nil {
			return 0
		}
		return len(u.IPv6.Delegated)
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitProblem("no-delegation", "fiber")
	if delegated() != 0 {
		t.Error("the server takes anybody")
	}
	r.configure(with(identity))
	r.command("reload", "--socket", r.socket())
	r.await("a prefix", func() error {
		if delegated() != 1 {
			return errors.New(kea.log.String())
		}
		return nil
	})
	// The class is in what follows too: of nobody else the server would take it.
	r.await("a renewal", kea.says("DHCP6_PD_LEASE_RENEW"))
	r.configure(strings.Replace(twoDelegations, "  delegation = true\n  prefix_hint = \"::/56\"\n", "", 1))
	r.command("reload", "--socket", r.socket())
	r.await("the prefix to be given back", kea.says("DHCP6_RELEASE_PD"))
}

// says reports whether the server has logged a word.
func (s *delegationServer) says(word string) func() error {
	return func() error {
		if log := s.log.String(); !strings.Contains(log, word) {
			return errors.New(log)
		}
		return nil
	}
}

// The scene of a house with two providers: each delegates a prefix, a host has an address of each and uses the
// one that works.
func TestHostsFollowTheirProvidersPrefixes(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	r.sh("router", "ip link set dev wan2 mtu 1400")
	r.delegateByKea(pools["fiber"], anHour)
	r.delegateByISC(pools["lte"], anHour)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitHost(pools["fiber"])
	r.await("the host to have an address of each provider and a unique-local one", func() error {
		if list := r.hostAddresses(); len(list) != 3 {
			return fmt.Errorf("it has %+v", list)
		}
		return nil
	})
	// No packet may be too large for whichever provider carries it.
	if mtu, err := r.Host("lan").Sysctl("net/ipv6/conf/eth0/mtu"); err != nil || mtu != "1400" {
		t.Errorf("the host's IPv6 MTU is %s, %v; want that of the narrowest path", mtu, err)
	}
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")

	broken := time.Now()
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["lte"])
	r.awaitFlow(flow, "lte")
	t.Logf("new flows by the other prefix after %v", time.Since(broken).Round(time.Millisecond))

	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["fiber"])
	r.awaitFlow(flow, "fiber")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source", n)
	}
	s := r.status()
	for i := range s.Uplinks {
		if d := s.Uplinks[i].IPv6.Delegated; len(d) != 1 || !pools[s.Uplinks[i].Name].Overlaps(d[0].Prefix) || d[0].ValidS < 3000 {
			t.Errorf("%s has %+v", s.Uplinks[i].Name, d)
		}
	}
}

// A crash and a restart cost no prefix and no packet: the lease is verified, not asked for anew.
func TestADelegationSurvivesACrash(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	server := r.delegateByKea(pools["fiber"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	before := r.hostAddresses()
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	began := time.Now()
	r.kill()
	r.start()
	r.await("the server to be asked whether the lease holds", func() error {
		if !strings.Contains(server.log.String(), "REBIND") && !strings.Contains(server.log.String(), "LEASE_RENEW") && strings.Count(server.log.String(), "LEASE") < 2 {
			return errors.New("it was not")
		}
		return nil
	})
	if n := strings.Count(server.log.String(), "ADVERT"); n > 1 {
		t.Errorf("the server advertised %d times", n)
	}
	for _, f := range flow.Flows() {
		if f.Start.After(began) && f.Err != nil {
			t.Errorf("a flow failed %v after the crash: %v", f.Start.Sub(began), f.Err)
		}
	}
	if after := r.hostAddresses(); len(after) != len(before) {
		t.Errorf("the host had %+v and has %+v", before, after)
	}
}
