package encap

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestACustomersPrefixIsThatOfHisAddress(t *testing.T) {
	for _, c := range []struct {
		name, prefix6, prefix4, local string
		want                          string // "": none
	}{
		// RFC 5969 section 4: an address in 10.0.0.0/8, of which 24 bits are used.
		{"the RFC's, with /8 in common", "2001:db8::/32", "10.0.0.0/8", "10.100.100.1", "2001:db8:6464:100::/56"},
		{"nothing in common", "2001:db8::/32", "0.0.0.0/0", "192.0.2.33", "2001:db8:c000:221::/64"},
		{"a /28", "2001:db0::/28", "0.0.0.0/0", "192.0.2.33", "2001:dbc:0:2210::/60"},
		{"all in common", "2001:db8:1::/48", "192.0.2.33/32", "192.0.2.33", "2001:db8:1::/48"},
		{"not a whole octet", "2001:db8::/34", "198.51.96.0/19", "198.51.100.7", "2001:db8:80e::/47"},
		{"the length is 0", "::/0", "0.0.0.0/0", "255.255.255.255", "ffff:ffff::/32"},
		{"too long for a network", "2001:db8:8000::/33", "0.0.0.0/0", "192.0.2.33", ""},
		{"another provider's address", "2001:db8::/32", "10.0.0.0/8", "192.0.2.33", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := Delegated6RD(netip.MustParsePrefix(c.prefix6), netip.MustParsePrefix(c.prefix4), netip.MustParseAddr(c.local))
			if ok != (c.want != "") || ok && got.String() != c.want {
				t.Errorf("%v, %v, want %q", got, ok, c.want)
			}
		})
	}
	for _, local := range []netip.Addr{{}, netip.MustParseAddr("2001:db8::1")} {
		if got, ok := Delegated6RD(netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("0.0.0.0/0"), local); ok {
			t.Errorf("%v has %v", local, got)
		}
	}
}

// The address can be read out of the prefix again, as the kernel does (net/ipv6/sit.c check_6rd), so no two customers have the same.
func TestAnAddressIsReadOutOfItsPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits4 := rapid.IntRange(0, 32).Draw(t, "IPv4 mask length")
		bits6 := rapid.IntRange(0, 32+bits4).Draw(t, "prefix length")
		v4 := rapid.Uint32().Draw(t, "address")
		local := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v4)))
		prefix4, _ := local.Prefix(bits4)
		b := [16]byte{}
		binary.BigEndian.PutUint64(b[:], rapid.Uint64().Draw(t, "prefix"))
		prefix6 := netip.PrefixFrom(netip.AddrFrom16(b), bits6).Masked()
		got, ok := Delegated6RD(prefix6, prefix4, local)
		if !ok || got.Bits() != bits6+32-bits4 || got != got.Masked() || !prefix6.Overlaps(got) {
			t.Fatalf("%v of %v, %v, %v", got, prefix6, prefix4, local)
		}
		var read uint32
		whole := got.Addr().As16()
		for i := range 32 - bits4 { // bit by bit, the slow way
			at := bits6 + i
			read = read<<1 | uint32(whole[at/8]>>(7-at%8)&1)
		}
		if mask := uint32(1<<(32-bits4) - 1); read != v4&mask {
			t.Errorf("%v has %x of %v", got, read, local)
		}
	})
}

func TestASITIsNo6RD(t *testing.T) {
	told := func(yield func(uint16, []byte) bool) { // as the kernel tells of one with another end, and of the one that comes with the module
		_ = yield(sit6rdPrefixLen, native16(16)) && yield(sit6rdPrefix, sixToFour.Addr().AsSlice()) && yield(sit6rdRelayPrefix, []byte{0, 0, 0, 0}) &&
			yield(sit6rdRelayLen, native16(0)) && yield(sitLocal, []byte{0, 0, 0, 0}) && yield(sitRemote, []byte{0, 0, 0, 0})
	}
	if p := Decode("sit", told); p.Kind != SIT || p.Prefix6.IsValid() || p.Prefix4.IsValid() {
		t.Errorf("%+v", p)
	}
}
