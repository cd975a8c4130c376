package lease

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// dhclientFile has three leases as dhclient 4.4 writes them: an old one, one of another device, and the one in force.
const dhclientFile = `default-duid "\000\001\000\001/\002\003\004";
lease {
  interface "eth1";
  fixed-address 203.0.113.5;
  option routers 203.0.113.1;
  renew 4 2026/11/26 09:00:00;
  expire 4 2026/11/26 10:00:00;
}
lease {
  interface "eth2";
  fixed-address 192.168.9.5;
  option routers 192.168.9.1;
  expire 4 2026/11/26 13:00:00;
}
lease {
  interface "eth1";
  fixed-address 198.51.100.7;
  option subnet-mask 255.255.255.0;
  option routers 198.51.100.1,198.51.100.2;
  option domain-name-servers 192.0.2.53,192.0.2.54;
  expire 4 2026/11/26 12:00:00;
}
`

func addrs(words ...string) []netip.Addr { return Addresses(words) }

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestTheLeaseInForceIsRead(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("/var/lib/dhcp/dhclient.leases", dhclientFile)
	write("/run/systemd/netif/leases/7", "# This is private data. Do not parse.\nADDRESS=203.0.113.9\nNETMASK=255.255.255.0\nROUTER=203.0.113.1\nDNS=192.0.2.53\n")
	for name, c := range map[string]struct {
		device string
		index  int
		now    string
		want   Lease
		none   bool
	}{
		"dhclient's":       {"eth1", 1, "2026-11-26T11:59:59Z", Lease{netip.MustParseAddr("198.51.100.7"), addrs("198.51.100.1", "198.51.100.2"), addrs("192.0.2.53", "192.0.2.54"), "dhclient"}, false},
		"one that expired": {"eth1", 1, "2026-11-26T12:00:00Z", Lease{}, true},
		"another device's": {"eth2", 2, "2026-11-26T11:00:00Z", Lease{netip.MustParseAddr("192.168.9.5"), addrs("192.168.9.1"), nil, "dhclient"}, false},
		"nobody's":         {"eth3", 3, "2026-11-26T11:00:00Z", Lease{}, true},
		"networkd's":       {"eth7", 7, "2026-11-26T11:00:00Z", Lease{netip.MustParseAddr("203.0.113.9"), addrs("203.0.113.1"), addrs("192.0.2.53"), "systemd-networkd"}, false},
	} {
		got, ok := Of(root, c.device, c.index, at(c.now))
		if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{})); ok == c.none || ok && diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, ok, diff)
		}
	}
}

func FuzzDhclient(f *testing.F) {
	f.Add([]byte(dhclientFile))
	f.Fuzz(func(t *testing.T, content []byte) {
		l, ok := Dhclient(content, "eth1", at("2026-11-26T11:00:00Z"))
		if !ok && (l.Address.IsValid() || l.Routers != nil || l.DNS != nil) {
			t.Errorf("no lease, but %+v", l)
		}
		networkd(content)
	})
}
