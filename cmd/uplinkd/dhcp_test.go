package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// dhcpFiber leases the address of its IPv4 side.
var dhcpFiber = ipv4Only("  [uplink.ipv4]\n  method = \"dhcp\"\n", 2)

// dhcpServer is isc-dhcp-server at the first provider.
type dhcpServer struct {
	log  *safeBuffer
	stop func()
}

// serveDHCP lends out one address for so many seconds, as more of dhcpd.conf says. A server that is started again has forgotten all leases.
func (r *router) serveDHCP(address string, seconds int, more ...string) *dhcpServer {
	r.Helper()
	dir, err := os.MkdirTemp(r.dir, "dhcpd-")
	if err != nil {
		r.Fatal(err)
	}
	config := fmt.Sprintf(`
authoritative; ping-check false;
default-lease-time %[2]d; max-lease-time %[2]d; min-lease-time %[2]d;
subnet %[3]s netmask 255.255.255.192 { range %[1]s %[1]s; option routers %[4]v; }
`, address, seconds, r.Uplink("fiber").Address4.Masked().Addr(), r.Uplink("fiber").Gateway4) + strings.Join(more, "\n")
	for name, content := range map[string]string{"conf": config, "leases": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	_, log, stop := r.background("isp1", "dhcpd", "-4", "-d", "-cf", filepath.Join(dir, "conf"), "-lf", filepath.Join(dir, "leases"),
		"-pf", filepath.Join(dir, "pid"), "cust1")
	return &dhcpServer{log, stop}
}

// count is how many lines of the server's log hold a word.
func (s *dhcpServer) count(word string) int { return strings.Count(s.log.String(), word) }

func (r *router) awaitCount(s *dhcpServer, word string, want int) {
	r.Helper()
	r.await(fmt.Sprintf("%d times %s", want, word), func() error {
		if n := s.count(word); n < want {
			return fmt.Errorf("%d times so far", n)
		}
		return nil
	})
}

// hasAddress reports whether wan1 carries the address.
func (r *router) hasAddress(a string) bool {
	return strings.Contains(r.sh("router", "ip -4 -o address show dev wan1"), " "+a+"/")
}

func TestALeaseIsTakenRenewedKeptOverACrashAndChanged(t *testing.T) {
	t.Parallel()
	const first, second = "198.51.100.2", "198.51.100.66"
	r := newRouter(t, lab.Options{DNAT: true}, dhcpFiber)
	r.serve()
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	server := r.serveDHCP(first, 20)
	r.start()
	r.awaitSource("fiber", netip.MustParseAddr(first))
	r.awaitState("lte", uplink.Up)
	if u, err := r.uplinkStatus("fiber"); err != nil || u.IPv4.Gateway != netip.MustParseAddr("198.51.100.1") || u.IPv4.Addresses[0].Bits() != 26 {
		t.Errorf("%+v, %v", u.IPv4, err)
	}
	r.wellKept("fiber")
	v4 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	r.probe(v4)
	r.awaitFlow(v4, "fiber")
	for _, s := range services {
		if err := r.ask("inet", s, netip.MustParseAddr(first), patience); err != nil {
			t.Error(err)
		}
	}

	stream, stop := r.streamFrom("lan", "192.0.2.1:7")
	r.awaitCount(server, "DHCPACK", 2) // at half of 20 s
	if n := server.count("DHCPDISCOVER"); n != 1 {
		t.Errorf("%d times DISCOVER, not once: a renewal asks its own server", n)
	}
	r.kill()
	r.awaitMore(stream)
	if !r.hasAddress(first) {
		t.Error("the address went with the daemon")
	}
	r.start()
	r.awaitCount(server, "DHCPACK", 3)
	if n := server.count("DHCPDISCOVER"); n != 1 {
		t.Errorf("%d times DISCOVER, not once: a restart asks for what it has", n)
	}
	r.awaitMore(stream)
	if st := stop(); st.Answered != st.Sent || len(st.Moves) != 1 {
		t.Errorf("a renewal, a crash and a restart cost packets: %v, moves %v", st, st.Moves)
	}

	// The provider renumbers while we are away, so that the server refuses what we remember.
	r.kill()
	server.stop()
	// The lab does as another client would, for both families, which this router has not.
	r.sh("router", "ip address add 2001:db8:a::2/64 dev wan1 nodad")
	if err := r.Break(lab.Prefix, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.sh("router", "ip address flush dev wan1 scope global; ip address add 198.51.100.2/26 dev wan1")
	server = r.serveDHCP(second, 20)
	r.start()
	r.awaitSource("fiber", netip.MustParseAddr(second))
	if server.count("DHCPNAK") == 0 {
		t.Errorf("the server has not refused the old address:\n%s", server.log)
	}
	foreign := r.foreign()
	if r.hasAddress(first) || r.hasSourceRule(netip.MustParseAddr(first)) {
		t.Errorf("something of the old lease is left:\n%s", r.sh("router", "ip address show dev wan1; ip rule"))
	}
	r.awaitFlow(v4, "fiber")
	for _, s := range services {
		if err := r.ask("inet", s, netip.MustParseAddr(second), patience); err != nil {
			t.Error(err)
		}
	}
	r.wellKept("fiber")
	if n := r.foreign() - foreign; n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
	if !slices.ContainsFunc(r.events(status.EventLease), func(e status.Event) bool { return strings.HasPrefix(e.Message, second+"/26 from 198.51.100.65") }) {
		t.Errorf("no event tells of the lease: %+v", r.events(status.EventLease))
	}
	r.stop()
	r.command("clean", "-c", r.config)
	if r.hasAddress(second) {
		t.Error("clean left the address")
	}
}

// A provider that leases to one hardware address alone. Before the device has it, nobody is asked.
func TestALineIsLeasedToTheHardwareAddress(t *testing.T) {
	t.Parallel()
	const address, insisted = "198.51.100.2", "02:00:5e:10:00:01"
	with := func(key string) string {
		return strings.Replace(dhcpFiber, `device = "wan1"`, `device = "wan1"`+key, 1)
	}
	r := newRouter(t, lab.Options{}, with("\nhardware_address = \""+insisted+"\""))
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	own := r.hardware("wan1")
	before := r.sh("router", "sysctl net.ipv4.conf.wan1.arp_notify net.ipv6.conf.wan1.ndisc_notify; ip -o link show dev wan1")
	server := r.serveDHCP(address, 20, "host router { hardware ethernet "+insisted+"; } deny unknown-clients;")
	if plan := r.command("plan", "-c", r.config); !strings.Contains(plan, "# fiber's hardware_address\nip link set dev wan1 address "+insisted+"\n") {
		t.Errorf("the plan:\n%s", plan)
	}
	r.start()
	r.awaitSource("fiber", netip.MustParseAddr(address))
	if u, err := r.uplinkStatus("fiber"); err != nil || u.HardwareAddress != insisted {
		t.Errorf("%+v, %v", u, err)
	}
	r.kill()
	r.start()
	r.awaitCount(server, "DHCPACK", 2)
	if log := server.log.String(); strings.Contains(log, own) || server.count("DHCPDISCOVER") != 1 {
		t.Errorf("the server has heard of %s:\n%s", own, log)
	}
	// Somebody gives the device its own address back, once: it is set again, and nothing is asked for meanwhile.
	r.sh("router", "ip link set dev wan1 address "+own)
	r.await("the hardware address to be back", func() error {
		if got := r.hardware("wan1"); got != insisted {
			return errors.New(got)
		}
		return r.converged()
	})
	r.configure(with(""))
	r.command("reload", "--socket", r.socket())
	r.await("the device to have its own hardware address", func() error {
		if got := r.hardware("wan1"); got != own {
			return errors.New(got)
		}
		return nil
	})
	r.await("the line to be without the lease of another", func() error {
		if r.hasAddress(address) {
			return errors.New(r.sh("router", "ip address show dev wan1"))
		}
		return nil
	})
	r.configure(with("\nhardware_address = \"" + insisted + "\""))
	r.command("reload", "--socket", r.socket())
	r.await("the lease to be back", func() error {
		if !r.hasAddress(address) {
			return errors.New(server.log.String())
		}
		return nil
	})
	r.stop()
	r.command("clean", "-c", r.config)
	r.sh("router", "ip link set wan1 down")
	if after := r.sh("router", "sysctl net.ipv4.conf.wan1.arp_notify net.ipv6.conf.wan1.ndisc_notify; ip -o link show dev wan1"); after != before {
		t.Errorf("clean leaves\n%s\nit was\n%s", after, before)
	}
}

// hardware returns the link-layer address of a device of the router.
func (r *router) hardware(device string) string {
	r.Helper()
	fields := strings.Fields(r.sh("router", "ip -o link show dev "+device))
	return fields[slices.Index(fields, "link/ether")+1]
}

// TestALeaseThatEndsTakesItsAddressAlong has a server that falls silent; new traffic must not wait for the end.
func TestALeaseThatEndsTakesItsAddressAlong(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dhcpFiber)
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	server := r.serveDHCP("198.51.100.2", 12)
	r.start()
	r.awaitSource("fiber", netip.MustParseAddr("198.51.100.2"))
	r.awaitState("lte", uplink.Up)
	server.stop()
	r.await("the lease to end", func() error {
		if r.hasAddress("198.51.100.2") {
			return errors.New("the address is still there")
		}
		return nil
	})
	r.awaitState("fiber", uplink.Down)
	if u, err := r.uplinkStatus("fiber"); err != nil || u.IPv4.Code != uplink.CodeNoAddress {
		t.Errorf("without a lease: %+v, %v", u.IPv4, err)
	}
	v4 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	r.probe(v4)
	r.awaitFlow(v4, "lte")
	r.serveDHCP("198.51.100.2", 600)
	r.awaitSource("fiber", netip.MustParseAddr("198.51.100.2"))
	r.awaitFlow(v4, "fiber")
}
