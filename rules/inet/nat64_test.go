package inet_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// The addresses are those of RFC 6052 section 2.4 with 192.0.0.170 in them.
func TestPrefixesOfANAT64(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    []string
	}{
		"no DNS64":                          {nil, nil},
		"the well-known prefix":             {[]string{"64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"}, []string{"64:ff9b::/96"}},
		"of 96 bits":                        {[]string{"2001:db8:122:344::192.0.0.170"}, []string{"2001:db8:122:344::/96"}},
		"of 64 bits":                        {[]string{"2001:db8:122:344:c0:0:aa00:0"}, []string{"2001:db8:122:344::/64"}},
		"of 56 bits":                        {[]string{"2001:db8:122:3c0:0:aa::"}, []string{"2001:db8:122:300::/56"}},
		"of 48 bits":                        {[]string{"2001:db8:122:c000:0:aa00::"}, []string{"2001:db8:122::/48"}},
		"of 40 bits":                        {[]string{"2001:db8:1c0:0:aa::"}, []string{"2001:db8:100::/40"}},
		"of 32 bits":                        {[]string{"2001:db8:c000:aa::"}, []string{"2001:db8::/32"}},
		"two of them":                       {[]string{"64:ff9b::192.0.0.170", "2001:db8::192.0.0.171"}, []string{"64:ff9b::/96", "2001:db8::/96"}},
		"another address":                   {[]string{"64:ff9b::192.0.0.172"}, nil},
		"an IPv4 address":                   {[]string{"192.0.0.170", "::ffff:192.0.0.170"}, nil},
		"fits two lengths":                  {[]string{"2001:db8:c000:aa::192.0.0.170"}, nil},
		"of 96 bits with octet 8 not zero":  {[]string{"2001:db8:122:344:100::192.0.0.170"}, nil},
		"link-local, which nobody can send": {[]string{"fe80::192.0.0.170"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var answers []netip.Addr
			for _, a := range c.answers {
				answers = append(answers, netip.MustParseAddr(a))
			}
			var want []netip.Prefix
			for _, p := range c.want {
				want = append(want, netip.MustParsePrefix(p))
			}
			slices.SortFunc(want, netip.Prefix.Compare)
			if got := inet.NAT64Prefixes(answers); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}
