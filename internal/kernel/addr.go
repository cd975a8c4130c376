package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// ifaProto is IFA_PROTO of linux/if_addr.h (kernel 5.18): who installed an address.
const ifaProto = 11

func (k *Kernel) addrs() ([]rules.Addr, error) {
	header := func() nl.NetlinkRequestData { return nl.NewIfAddrmsg(unix.AF_UNSPEC) }
	return dump(k, "addresses", unix.RTM_GETADDR, header, k.decodeAddr)
}

func (k *Kernel) decodeAddr(m []byte) (rules.Addr, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return rules.Addr{}, false
	}
	msg := nl.DeserializeIfAddrmsg(m)
	if _, known := familyOf(msg.Family); !known {
		return rules.Addr{}, false
	}
	var address, local netip.Addr
	flags := uint32(msg.Flags)
	a := rules.Addr{Device: k.devices.name[int(msg.Index)], LinkScope: msg.Scope >= unix.RT_SCOPE_LINK}
	for typ, value := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(value)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS:
			flags = native32(value)
		case ifaProto:
			if len(value) > 0 {
				a.Protocol = value[0]
			}
		}
	}
	// On a point-to-point link IFA_ADDRESS is the peer, IFA_LOCAL is us.
	bits := int(msg.Prefixlen)
	if local.IsValid() {
		if local != address {
			a.Peer = netip.PrefixFrom(address, bits)
			bits = local.BitLen()
		}
		address = local
	}
	a.Prefix = netip.PrefixFrom(address, bits)
	a.Temporary = flags&unix.IFA_F_TEMPORARY != 0 // the same bit as IFA_F_SECONDARY
	a.Deprecated = flags&unix.IFA_F_DEPRECATED != 0
	a.Tentative = flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && flags&unix.IFA_F_OPTIMISTIC == 0
	a.Dynamic, a.NoPrefixRoute = flags&unix.IFA_F_PERMANENT == 0, flags&unix.IFA_F_NOPREFIXROUTE != 0
	a.Failed = flags&unix.IFA_F_DADFAILED != 0
	return a, a.Device != "" && a.Prefix.IsValid()
}

func (k *Kernel) changeAddr(msgType, flags int, a netcfg.AddrAssignment) error {
	index, ok := k.devices.index[a.Device]
	if !ok {
		return fmt.Errorf("device %s: %w", a.Device, unix.ENODEV)
	}
	req := k.request(msgType, flags|unix.NLM_F_ACK)
	msg := nl.NewIfAddrmsg(int(familyNumber(rules.FamilyOf(a.Prefix.Addr()))))
	msg.Index = uint32(index)
	msg.Prefixlen = uint8(a.Prefix.Bits())
	if a.LinkScope {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	req.AddData(msg)
	ip := a.Prefix.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	if msgType == unix.RTM_NEWADDR {
		req.AddData(nl.NewRtAttr(ifaProto, []byte{k.numbers.Protocol}))
		if a.NoPrefixRoute {
			req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NOPREFIXROUTE)))
		}
		if a.Prefix.Addr().Is6() {
			req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lifetimes(a.Deprecated)))
		}
		if a.Prefix.Addr().Is4() && a.Prefix.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(a.Prefix)))
		}
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// lifetimes is struct ifa_cacheinfo of linux/if_addr.h: preferred and valid seconds, and two times that the
// kernel keeps. Ours are valid until we take them away: a daemon that stands still takes no address along.
func lifetimes(deprecated bool) []byte {
	const forever = 1<<32 - 1 // INFINITY_LIFE_TIME
	preferred := uint32(forever)
	if deprecated {
		preferred = 0
	}
	b := binary.NativeEndian.AppendUint32(make([]byte, 0, 16), preferred)
	b = binary.NativeEndian.AppendUint32(b, forever)
	return append(b, make([]byte, 8)...)
}

func broadcast(p netip.Prefix) []byte {
	ip := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 32; bit++ {
		ip[bit/8] |= 0x80 >> (bit % 8)
	}
	return ip
}
