package inet_test

import (
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules/inet"
)

func TestPartsAreCountedFromTheLast(t *testing.T) {
	for _, c := range []struct {
		whole        string
		bits, number int
		want         string // "" for none
	}{
		{"2001:db8:a00::/56", 62, 0, "2001:db8:a00:fc::/62"},
		{"2001:db8:a00::/56", 62, 63, "2001:db8:a00::/62"},
		{"2001:db8:a00::/56", 62, 64, ""},
		{"2001:db8:a00::/56", 64, 1, "2001:db8:a00:fe::/64"},
		{"2001:db8:a00:10::/60", 61, 1, "2001:db8:a00:10::/61"},
		{"2001:db8:a00::/56", 56, 0, ""},
		{"2001:db8:a00::/56", 65, 0, ""},
		{"2001:db8:a00::/64", 64, 0, ""},
		{"2001:db8:a00::/56", 62, -1, ""},
		{"fd00:77::/48", 62, 4095, "fd00:77:0:c000::/62"},
		{"::/0", 64, 0, "ffff:ffff:ffff:ffff::/64"},
	} {
		got, ok := inet.LastPart(netip.MustParsePrefix(c.whole), c.bits, c.number)
		if ok != (c.want != "") || ok && got != netip.MustParsePrefix(c.want) {
			t.Errorf("/%d number %d of %s: %v, %v; want %q", c.bits, c.number, c.whole, got, ok, c.want)
		}
	}
}
