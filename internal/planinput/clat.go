package planinput

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// translators splits the uplinks that carry IPv4 by a translator. Their devices stand behind all others.
func translators(out *rules.Config, c *config.Config, learned Learned) {
	numbers := addressNumbers(out, c)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv4.Method != config.MethodCLAT {
			continue
		}
		nat64 := u.IPv4.NAT64
		if given := learned[u.Name]; !nat64.IsValid() && given != nil {
			nat64 = given.NAT64
		}
		id := out.Uplinks[i].ID
		var tun rules.Uplink
		out.Uplinks[i], tun = out.Uplinks[i].Translate(rules.CLAT{Device: u.DeviceOf(rules.IPv4), NAT64: nat64,
			Addr4: netip.AddrFrom4([4]byte{192, 0, 0, byte(numbers[id])}), Addr6: localAddress(id)})
		out.Uplinks = append(out.Uplinks, tun)
	}
}

// localAddress is what a translator calls this machine in IPv6: unique-local, and "uplink" in it. tayga takes none of the prefix that is for
// translation within a site (RFC 8215).
func localAddress(id int) netip.Addr {
	b := [16]byte{0xfd, 'u', 'p', 'l', 'i', 'n', 0, 'k'}
	binary.BigEndian.PutUint32(b[12:], uint32(id))
	return netip.AddrFrom16(b)
}

// addressNumbers deals out the addresses of 192.0.0.0/29 (RFC 7335) by id, so that one uplink more mostly changes no other's.
func addressNumbers(out *rules.Config, c *config.Config) map[int]int {
	var ids []int
	for i := range c.Uplinks {
		if c.Uplinks[i].IPv4.Method == config.MethodCLAT {
			ids = append(ids, out.Uplinks[i].ID)
		}
	}
	slices.SortFunc(ids, cmp.Compare)
	numbers, taken := make(map[int]int, len(ids)), make(map[int]bool, len(ids))
	for _, id := range ids {
		n := (id - 1) % config.MaxCLAT
		for taken[n] {
			n = (n + 1) % config.MaxCLAT
		}
		numbers[id], taken[n] = n+1, true
	}
	return numbers
}
