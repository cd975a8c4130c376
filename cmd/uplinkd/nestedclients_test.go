package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
)

// pdClients are programs that ask for prefixes, as shells start them on a router whose line is wan0 and whose LAN is in0.
var pdClients = map[string]string{
	"dhcpcd": `mkdir -p /run/dhcpcd /var/lib/dhcpcd
printf 'duid\nipv6only\nnohook resolv.conf\nallowinterfaces wan0 in0\nnoipv6rs\ninterface wan0\nipv6rs\nia_pd 1 in0/0/64\n' >/etc/dhcpcd.conf
exec dhcpcd -B -d -f /etc/dhcpcd.conf wan0`,
	"wide": `mkdir -p /var/lib/dhcpv6 /etc/wide-dhcpv6; sysctl -qw net.ipv6.conf.wan0.accept_ra=2
printf 'interface wan0 { send ia-pd 0; };\nid-assoc pd 0 { prefix-interface in0 { sla-id 0; sla-len 2; ifid 1; }; };\n' >/etc/wide-dhcpv6/dhcp6c.conf
exec dhcp6c -f -D -c /etc/wide-dhcpv6/dhcp6c.conf -p /run/dhcp6c.pid wan0`,
	"networkd": `mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /etc/systemd/network
chown -R systemd-network: /run/systemd/netif; rm -f /etc/systemd/network/*
printf '[Match]\nName=wan0\n[Network]\nDHCP=ipv6\nIPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n[DHCPv6]\nWithoutRA=solicit\nUseDNS=no\n[IPv6AcceptRA]\nDHCPv6Client=always\nUseDNS=no\n' >/etc/systemd/network/10-wan0.network
printf '[Match]\nName=in0\n[Network]\nDHCPPrefixDelegation=yes\nLinkLocalAddressing=ipv6\n[DHCPPrefixDelegation]\nSubnetId=0\nAnnounce=no\n' >/etc/systemd/network/20-in0.network
exec /lib/systemd/systemd-networkd`,
}

// pdClient is a router on the LAN that runs one of these.
type pdClient struct {
	*nested
	name string
	pid  string // a process in its network and its mounts
	log  *safeBuffer
	stop func()
}

// client puts a router on the LAN, beside the others.
func (n *nested) client(name string) *pdClient {
	n.Helper()
	holder, _, _ := n.background("lan", "unshare", "-mn", "sh", "-ec", mounts)
	c := &pdClient{nested: n, name: name, pid: strconv.Itoa(holder.Process.Pid)}
	n.await("mounts of "+name, func() error {
		_, err := os.Stat("/proc/" + c.pid + "/root/run/own/ready")
		return err
	})
	n.sh("lan", "ip link add w"+c.pid+" link eth0 type macvlan mode bridge; ip link set w"+c.pid+" netns "+c.pid+" name wan0")
	n.sh("lan", c.in(`ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1; ip link add in0 type veth peer name in1; ip link set in0 up; ip link set in1 up
sysctl -qw net.ipv6.conf.wan0.accept_dad=0; ip link set wan0 up`))
	c.start()
	return c
}

func (c *pdClient) in(script string) string {
	return "nsenter -t " + c.pid + " -m -n sh -ec '" + script + "'"
}

func (c *pdClient) start() {
	c.Helper()
	_, c.log, c.stop = c.background("lan", "nsenter", "-t", c.pid, "-m", "-n", "sh", "-ec", pdClients[c.name])
}

// addresses lists those that it has on its LAN.
func (c *pdClient) addresses() (list []hostAddress) {
	c.Helper()
	var links []struct {
		AddrInfo []hostAddress `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(c.sh("lan", c.in("ip -6 -j address show dev in0 scope global"))), &links); err != nil {
		c.Fatal(err)
	}
	for _, l := range links {
		list = append(list, l.AddrInfo...)
	}
	return slices.DeleteFunc(list, func(a hostAddress) bool { return !a.Local.IsValid() })
}

// pings asks the Internet from an address of its LAN.
func (c *pdClient) pings(source netip.Addr) error {
	out, err := c.Host("lan").Run("nsenter", "-t", c.pid, "-n", "ping", "-c1", "-W2", "-I", source.String(), "2001:db8:ffff::1")
	if err != nil {
		return fmt.Errorf("from %v: %w: %s", source, err, out)
	}
	return nil
}

// given is what the router in front says that it has of an uplink.
func (c *pdClient) given(uplink string) (status.Downstream, error) {
	c.Helper()
	link := strings.TrimSpace(c.sh("lan", c.in("ip -6 -o address show dev wan0 scope link | sed \"s/.*inet6 \\([^/]*\\).*/\\1/\"")))
	all := c.lan().Downstream
	i := slices.IndexFunc(all, func(d status.Downstream) bool { return d.Uplink == uplink && d.Router.String() == link })
	if i < 0 {
		return status.Downstream{}, fmt.Errorf("%s at %s has nothing of %q: %+v", c.name, link, uplink, all)
	}
	return all[i], nil
}

// has waits until it has an address in what it was given of an uplink, which it prefers or not.
func (c *pdClient) has(uplink string, preferred bool) netip.Addr {
	c.Helper()
	var found netip.Addr
	c.awaitFor(2*patience, fmt.Sprintf("%s to have an address of %q, preferred %v", c.name, uplink, preferred), func() error {
		given, err := c.given(uplink)
		if err != nil {
			return err
		}
		list := c.addresses()
		i := slices.IndexFunc(list, func(a hostAddress) bool { return given.Prefix.Contains(a.Local) })
		if i < 0 || list[i].Deprecated == preferred && c.name != "wide" { // which tells its kernel of no lifetimes
			return fmt.Errorf("given %v: %+v", given.Prefix, list)
		}
		found = list[i].Local
		return nil
	})
	return found
}

// Programs that people run on routers get, renew, lose and move prefixes.
func TestRoutersOfOtherKindsHavePartsOfEachPrefix(t *testing.T) {
	t.Parallel()
	n := newNested(t, delegatingParts)
	n.pace = 300 * time.Millisecond
	n.ready()
	clients := make([]*pdClient, 0, len(pdClients))
	for name := range pdClients {
		clients = append(clients, n.client(name))
	}
	for _, c := range clients {
		fiber, lte := c.has("fiber", true), c.has("lte", false)
		for _, a := range []netip.Addr{fiber, lte} {
			n.await("a ping of "+c.name, func() error { return c.pings(a) })
		}
		t.Logf("%s has %v and %v", c.name, fiber, lte)
	}
	if err := n.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.has("fiber", false)
		n.await("a ping of "+c.name+" by lte", func() error { return c.pings(c.has("lte", true)) })
	}
	if err := n.Heal(); err != nil {
		t.Fatal(err)
	}
	if count := n.foreign(); count != 0 {
		t.Errorf("%d packets with a foreign source: %s", count, n.foreignSources())
	}
	if err := n.Break(lab.Prefix, "fiber"); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		n.awaitFor(2*patience, c.name+" to have moved", func() error {
			given, err := c.given("fiber")
			if err == nil && pools["fiber"].Overlaps(given.Prefix) {
				err = errors.New("not yet")
			}
			return err
		})
		moved := c.has("fiber", true)
		n.await("a ping of "+c.name, func() error { return c.pings(moved) })
		t.Logf("%s has moved to %v", c.name, moved)
	}
}
