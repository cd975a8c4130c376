package dhcp4

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// prefix6RD is 2001:db8::/32 in the 16 octets of the option.
var prefix6RD = []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func option(mask, length byte, more ...byte) []byte {
	return slices.Concat([]byte{mask, length}, prefix6RD, more)
}

func TestWhatAServerSaysOf6RDIsRead(t *testing.T) {
	junk := option(8, 32, 192, 0, 2, 1)
	junk[2+15] = 7 // behind the length
	for name, c := range map[string]struct {
		option []byte
		want   *SixRD
	}{
		"RFC 5969's":             {option(8, 32, 192, 0, 2, 1), &SixRD{netip.MustParsePrefix("2001:db8::/32"), 8, netip.MustParseAddr("192.0.2.1")}},
		"several relays":         {option(0, 32, 192, 0, 2, 1, 192, 0, 2, 2), &SixRD{netip.MustParsePrefix("2001:db8::/32"), 0, netip.MustParseAddr("192.0.2.1")}},
		"bits behind the length": {junk, &SixRD{netip.MustParsePrefix("2001:db8::/32"), 8, netip.MustParseAddr("192.0.2.1")}},
		"no relay":               {option(8, 32), nil},
		"half a relay":           {option(8, 32, 192, 0, 2, 1, 192, 0), nil},
		"cut short":              {option(8, 32, 192, 0, 2, 1)[:12], nil},
		"nothing":                {nil, nil},
		"a mask beyond 32":       {option(33, 32, 192, 0, 2, 1), nil},
		"a prefix of which less than a /64 is left": {option(0, 33, 192, 0, 2, 1), nil},
		"a length beyond 128":                       {option(8, 200, 192, 0, 2, 1), nil},
		"a relay that is nobody":                    {option(8, 32, 0, 0, 0, 0), nil},
		"a relay that is many":                      {option(8, 32, 224, 0, 0, 1), nil},
	} {
		if got := sixRD(c.option); (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func Test6RDIsAskedForWhereItIsWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := startWith(t, Config{SixRD: wanted}, generous(800, dhcpv4.WithOption(dhcpv4.OptGeneric(option6RD, option(8, 32, 192, 0, 2, 1)))))
			for _, m := range b.sent {
				if m.IsOptionRequested(option6RD) != wanted {
					t.Errorf("wanted %v: %v", wanted, m.ParameterRequestList())
				}
			}
			lease := b.heard()[0]
			if lease.SixRD == nil || lease.SixRD.MaskLength != 8 {
				t.Errorf("%+v", lease)
			}
			lease.SixRD.MaskLength = 77 // damaged on the disk
			if kept, ok := lease.Usable(time.Now()); !ok || kept.SixRD != nil {
				t.Errorf("%+v, %v", kept, ok)
			}
		})
	}
}
