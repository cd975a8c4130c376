package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Providers number the line itself out of what they delegate, and do not always exclude that part (RFC 6603): a LAN that had
// it too would be looked for on the line. The same goes for a part that somebody has put on another device.

// maxSearch bounds the search for a part that nobody has. LANs and networks of this machine are fewer.
const maxSearch = 1024

// occupant returns the device of another network than the LAN that has a part of a delegation, "" for none.
func (p *planner) occupant(subnet netip.Prefix, lan *LAN) string {
	for _, a := range p.obs.Addrs {
		if a.Device != lan.Device && !p.obs.owns(p.k, a) && occupies(a.Prefix, subnet) {
			return a.Device
		}
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if assign := u.IPv6.Assign; assign != nil && u.IPv6.Enabled && slices.ContainsFunc(assign.Addresses, func(a Address) bool { return occupies(a.Prefix, subnet) && !u.shares(a.Prefix.Addr()) }) {
			return u.Device
		}
	}
	return ""
}

func occupies(address, subnet netip.Prefix) bool {
	return address.Addr().Is6() && !isOwn(address) && address.Masked().Overlaps(subnet)
}

// isOwn recognizes the address that an uplink has of its own delegation, which takes nothing from a LAN.
func isOwn(address netip.Prefix) bool {
	b := address.Addr().As16()
	id := binary.BigEndian.Uint64(b[8:])
	return address.IsSingleIP() && id >= ownID && id < ownID+MaxUplinks
}

// otherSubnet finds a part of a delegation for a LAN whose own is taken: from the highest number down, for owners count up.
// Those that are no LAN's number and nobody else's network go to the LANs that need one, in their order.
func (p *planner) otherSubnet(u *Uplink, d Delegation, lan *LAN) (netip.Prefix, bool) {
	lans := p.lansFrom(u.ID)
	next := (1 << min(max(lanBits-d.Prefix.Bits(), 0), 31)) - 1
	for _, l := range lans {
		if wanted, ok := p.numbered(u, d, l); !ok || p.occupant(wanted, l) == "" {
			continue
		}
		for tries := 0; tries < maxSearch; tries++ {
			id := next
			next--
			numbered := slices.ContainsFunc(lans, func(o *LAN) bool { return o.SubnetID == id })
			if subnet, ok := d.Subnet(id); ok && !numbered && p.occupant(subnet, l) == "" {
				if l == lan {
					return subnet, true
				}
				break
			}
		}
	}
	return netip.Prefix{}, false
}

// reportOccupied says that a LAN has another part of a delegation than the one of its number.
func (p *planner) reportOccupied(u *Uplink, d Delegation, lan *LAN, has netip.Prefix) {
	wanted, ok := p.numbered(u, d, lan)
	if !ok || wanted == has {
		return
	}
	if by := p.occupant(wanted, lan); by != "" {
		p.problemOnce("subnet-occupied", "notice",
			fmt.Sprintf("subnet %d of %s's delegation, %v, is already the network of %s: %s has %v instead", lan.SubnetID, u.Name, wanted, by, lan.Device, has),
			fmt.Sprintf("nothing; to choose the subnet yourself, set another subnet_id for %s", lan.Device))
	}
}
