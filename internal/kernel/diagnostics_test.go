package kernel_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
)

func TestNeighboursAreToldInTheirStates(t *testing.T) {
	namespace(t)
	sh(t, `ip link add wan1 type veth peer name isp1
		ip link set wan1 up; ip link set isp1 up
		ip address add 198.51.100.2/26 dev wan1; ip -6 address add 2001:db8:a::2/64 dev wan1 nodad
		ip neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev wan1 nud reachable
		ip neigh add 198.51.100.3 lladdr 02:00:00:00:00:03 dev wan1 nud permanent
		ip -6 neigh add 2001:db8:a::1 lladdr 02:00:00:00:00:01 dev wan1 nud stale
		ip neigh add 198.51.100.4 dev wan1 nud failed || true`)
	wan1, err := net.InterfaceByName("wan1")
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{"198.51.100.1": "reachable", "198.51.100.3": "permanent", "2001:db8:a::1": "stale", "198.51.100.9": "none", "2001:db8:a::9": "none"} {
		if got, err := kernel.Neighbour(wan1.Index, netip.MustParseAddr(addr)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", addr, got, err, want)
		}
	}
	if got, err := kernel.Neighbour(4711, netip.MustParseAddr("198.51.100.1")); err == nil && got != "none" {
		t.Errorf("on no device: %q", got)
	}
}

func TestUnansweredConnectionsAreCountedByTheirMark(t *testing.T) {
	namespace(t)
	sh(t, `ip link set lo up
		conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 53 -t 60 -u ASSURED,SEEN_REPLY -m 0x01000000
		conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 2 --dport 53 -t 60 -m 0x01000007
		conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 53 -t 60 -m 0x02000000
		conntrack -I -p udp -s 2001:db8::1 -d 2001:db8::2 --sport 4 --dport 53 -t 60 -m 0x01000000`)
	for _, c := range []struct {
		family          rules.Family
		mark            uint32
		unanswered, all int
	}{{rules.IPv4, 0x01000000, 1, 2}, {rules.IPv4, 0x02000000, 1, 1}, {rules.IPv6, 0x01000000, 1, 1}, {rules.IPv6, 0x02000000, 0, 0}} {
		unanswered, all, err := kernel.Connections(c.family, c.mark, 0x3f000000)
		if err != nil || unanswered != c.unanswered || all != c.all {
			t.Errorf("%v mark %#x: %d of %d, %v; want %d of %d", c.family, c.mark, unanswered, all, err, c.unanswered, c.all)
		}
	}
}
