package kernel

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

const (
	sizeofNdmsg = 12 // bytes, of struct ndmsg
	ndaProtocol = 12 // NDA_PROTOCOL of linux/neighbour.h
)

// neighbours lists those of both families whose hardware addresses are known.
func (k *Kernel) neighbours() ([]rules.Neighbour, error) {
	return dump(k, "neighbours", unix.RTM_GETNEIGH, func() nl.NetlinkRequestData { return &netlink.Ndmsg{} }, decodeNeighbour)
}

func decodeNeighbour(m []byte) (n rules.Neighbour, ok bool) {
	if len(m) < sizeofNdmsg {
		return n, false
	}
	for typ, value := range attributes(m[sizeofNdmsg:]) {
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

// proxyNeighbours lists the IPv6 addresses that this machine answers neighbours for.
func (k *Kernel) proxyNeighbours() ([]netcfg.ProxyNeighbour, error) {
	header := func() nl.NetlinkRequestData { return &netlink.Ndmsg{Family: unix.AF_INET6, Flags: unix.NTF_PROXY} }
	return dump(k, "proxied neighbours", unix.RTM_GETNEIGH, header, func(m []byte) (n netcfg.ProxyNeighbour, ok bool) {
		if len(m) < sizeofNdmsg {
			return n, false
		}
		n.Device = k.devices.name[int(native32(m[4:]))]
		for typ, value := range attributes(m[sizeofNdmsg:]) {
			switch {
			case typ == unix.NDA_DST:
				n.Addr, _ = netip.AddrFromSlice(value)
			case typ == ndaProtocol && len(value) == 1:
				n.Protocol = value[0]
			}
		}
		return n, n.Addr.Is6() && n.Device != ""
	})
}

// changeProxyNeighbour adds or removes one. A permanent one outlives a loss of carrier.
func (k *Kernel) changeProxyNeighbour(msgType, flags int, n netcfg.ProxyNeighbour) error {
	req := k.request(msgType, flags|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_INET6, Index: uint32(k.devices.index[n.Device]), State: unix.NUD_PERMANENT, Flags: unix.NTF_PROXY})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, n.Addr.AsSlice()))
	if msgType == unix.RTM_NEWNEIGH {
		req.AddData(nl.NewRtAttr(ndaProtocol, nl.Uint8Attr(n.Protocol)))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
