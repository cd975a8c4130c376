package addressing

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/rules"
)

// A prefix by 6rd ends with the carrier's address, and not before.
func TestAPrefixBy6RDLastsAsLongAsTheAddress(t *testing.T) {
	c, err := config.Parse("x.toml", []byte("[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n  [uplink.ipv4]\n  method = \"dhcp\"\n"+
		"[[uplink]]\nname = \"six\"\nkind = \"6rd\"\ndevice = \"6rd1\"\nover = \"fiber\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	e := New(Options{Save: func(string, func() any) {}, Changed: func() {}})
	e.Identify()
	e.Configure(c, map[string]int{"fiber": 1, "six": 2})
	six := &c.Uplinks[1]
	has := func(want string) {
		t.Helper()
		got := e.Delegated(six, time.Now())
		if want == "" {
			if len(got) > 0 {
				t.Errorf("it has %+v", got)
			}
			return
		}
		if len(got) != 1 || got[0].Prefix.String() != want || got[0].ValidS != infiniteSeconds {
			t.Errorf("it has %+v, want %s", got, want)
		}
		if preferred, valid, brief, ok := e.lanSource(six, 1480).lifetimes(netip.MustParsePrefix(want)); !ok || brief || !preferred.IsZero() || !valid.IsZero() {
			t.Errorf("hosts hear of %v, %v, %v, %v", preferred, valid, brief, ok)
		}
	}
	lease := dhcp4.Lease{Address: netip.MustParsePrefix("10.100.100.1/24"), SixRD: &dhcp4.SixRD{Prefix: netip.MustParsePrefix("2001:db8::/32"), MaskLength: 8, Relay: netip.MustParseAddr("192.0.2.1")}}
	has("")
	e.leases.held["fiber"] = lease
	has("2001:db8:6464:100::/56")
	lease.Address = netip.MustParsePrefix("10.100.100.2/24")
	e.leases.held["fiber"] = lease
	has("2001:db8:6464:200::/56")
	if _, _, _, ok := e.lanSource(six, 1480).lifetimes(netip.MustParsePrefix("2001:db8:6464:100::/56")); ok {
		t.Error("the former prefix still lasts")
	}
	names := func() bool {
		return slices.ContainsFunc(e.Problems(time.Now()), func(p rules.Problem) bool { return p.Code == "no-6rd" })
	}
	if names() {
		t.Error("a problem, with a prefix")
	}
	lease.SixRD = nil
	e.leases.held["fiber"] = lease
	if has(""); !names() {
		t.Error("a server that says nothing is no problem")
	}
	delete(e.leases.held, "fiber")
	if has(""); names() {
		t.Error("a problem before there is a lease")
	}
}
