package kernel

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// neighbours lists those of both families whose hardware addresses are known.
func (k *Kernel) neighbours() ([]rules.Neighbour, error) {
	return dump(k, "neighbours", unix.RTM_GETNEIGH, func() nl.NetlinkRequestData { return &netlink.Ndmsg{} }, decodeNeighbour)
}

func decodeNeighbour(m []byte) (n rules.Neighbour, ok bool) {
	const size = 12 // of struct ndmsg
	if len(m) < size {
		return n, false
	}
	for typ, value := range attributes(m[size:]) {
		switch typ {
		case unix.NDA_DST:
			n.Address, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			if ok = len(value) == len(n.Hardware); ok {
				n.Hardware = [6]byte(value)
			}
		}
	}
	return n, ok && n.Address.IsValid()
}
