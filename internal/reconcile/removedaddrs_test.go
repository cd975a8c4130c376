package reconcile_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A connection on an address that is gone gets no answer for ever: it hears so at once. One that has only another prefix
// length now goes on.
func TestConnectionsOnRemovedAddressesAreAborted(t *testing.T) {
	for _, c := range []struct {
		gateway    string
		had, has   []string
		aborted    string
		addressing func(*rules.Uplink) *rules.Addressing
	}{
		{"fe80::1", []string{"2001:db8:a::2/64", "2001:db8:a::3/64"}, []string{"2001:db8:a::3/128", "2001:db8:c::2/64"}, "2001:db8:a::2",
			func(u *rules.Uplink) *rules.Addressing { return &u.IPv6 }},
		{"198.51.100.1", []string{"198.51.100.72/26", "198.51.100.73/26"}, []string{"198.51.100.73/32", "198.51.100.140/26"}, "198.51.100.72",
			func(u *rules.Uplink) *rules.Addressing { return &u.IPv4 }},
	} {
		cfg := config()
		assign := func(addresses []string) {
			a := &rules.Assignment{Gateway: netip.MustParseAddr(c.gateway)}
			for _, text := range addresses {
				a.Addresses = append(a.Addresses, rules.Address{Prefix: netip.MustParsePrefix(text)})
			}
			cfg.Uplinks = slices.Clone(cfg.Uplinks)
			*c.addressing(&cfg.Uplinks[0]) = rules.Addressing{Enabled: true, Managed: true, Assign: a}
		}
		assign(c.had)
		b := newBench(cfg)
		b.pass(t)
		b.pass(t)
		assign(c.has)
		b.SetConfig(cfg)
		b.pass(t)
		destroyed := slices.DeleteFunc(b.kernel.Log(), func(l string) bool { return !strings.HasPrefix(l, "destroy") })
		if want := []string{"destroy [" + c.aborted + "]"}; !slices.Equal(destroyed, want) {
			t.Errorf("%q, want %q", destroyed, want)
		}
	}
}
