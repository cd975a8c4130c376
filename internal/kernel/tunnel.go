package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// greIgnoreDF is IFLA_GRE_IGNORE_DF of linux/if_tunnel.h.
const greIgnoreDF = 19

const (
	greKeyFlag         = 0x2000 // GRE_KEY of linux/if_tunnel.h, in network order
	ip6IgnoreEncapFlag = 0x1    // IP6_TNL_F_IGN_ENCAP_LIMIT of linux/ip6_tunnel.h: no destination option
	kindGRETAP6        = "ip6gretap"
)

// decodedLink is a device with what only tunnels have.
type decodedLink struct {
	rules.Link
	tunnel rules.TunnelLink
	master int // index of the device that it is a port of
}

// tunnelLinks picks those that are tunnels of kinds that we make, or ours.
func tunnelLinks(all []decodedLink) []rules.TunnelLink {
	var links []rules.TunnelLink
	for i := range all {
		t := all[i].tunnel
		switch t.Kind {
		case rules.GRETAP, rules.VXLAN, rules.WireGuardKind:
		default:
			if !t.Ours() {
				continue
			}
		}
		t.Device, t.MTU, t.Up = all[i].Name, all[i].MTU, all[i].Up
		for j := range all {
			if all[i].master != 0 && all[j].Index == all[i].master {
				t.Bridge = all[j].Name
			}
		}
		links = append(links, t)
	}
	return links
}

// decodeParams reads IFLA_LINKINFO: the kind, and the data of the kinds that we make.
func decodeParams(b []byte) rules.TunnelParams {
	var kind string
	var data []byte
	for typ, value := range attributes(b) {
		switch typ {
		case nl.IFLA_INFO_KIND:
			kind = unix.ByteSliceToString(value)
		case nl.IFLA_INFO_DATA:
			data = value
		}
	}
	switch kind {
	case rules.GRETAP, kindGRETAP6:
		return decodeGRETAP(data)
	case rules.VXLAN:
		return decodeVXLAN(data)
	}
	return rules.TunnelParams{Kind: kind}
}

// decodeFloods reads of IFLA_LINKINFO whether a bridge hands multicast on to its port.
func decodeFloods(b []byte) bool {
	for typ, value := range attributes(b) {
		if typ != nl.IFLA_INFO_SLAVE_DATA {
			continue
		}
		for typ, value := range attributes(value) {
			if typ == unix.IFLA_BRPORT_MCAST_FLOOD {
				return first(value) != 0
			}
		}
	}
	return false
}

func decodeGRETAP(data []byte) rules.TunnelParams {
	p := rules.TunnelParams{Kind: rules.GRETAP, Fragment: true}
	ignoreDF := false
	for typ, value := range attributes(data) {
		switch typ {
		case nl.IFLA_GRE_LOCAL:
			p.Local, _ = netip.AddrFromSlice(value)
		case nl.IFLA_GRE_REMOTE:
			p.Remote, _ = netip.AddrFromSlice(value)
		case nl.IFLA_GRE_TTL:
			p.TTL = first(value)
		case nl.IFLA_GRE_IFLAGS:
			p.HasKey = len(value) == 2 && binary.BigEndian.Uint16(value)&greKeyFlag != 0
		case nl.IFLA_GRE_IKEY:
			if len(value) == 4 {
				p.Key = binary.BigEndian.Uint32(value)
			}
		case nl.IFLA_GRE_PMTUDISC:
			p.Fragment = first(value) == 0
		case greIgnoreDF:
			ignoreDF = first(value) != 0
		}
	}
	p.Fragment = p.Fragment && ignoreDF && p.Local.Is4()
	return p
}

func decodeVXLAN(data []byte) rules.TunnelParams {
	p := rules.TunnelParams{Kind: rules.VXLAN}
	for typ, value := range attributes(data) {
		switch typ {
		case nl.IFLA_VXLAN_ID:
			p.ID = native32(value)
		case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
			p.Local, _ = netip.AddrFromSlice(value)
		case nl.IFLA_VXLAN_GROUP, nl.IFLA_VXLAN_GROUP6:
			p.Remote, _ = netip.AddrFromSlice(value)
		case nl.IFLA_VXLAN_TTL:
			p.TTL = first(value)
		case nl.IFLA_VXLAN_PORT:
			if len(value) == 2 {
				p.Port = binary.BigEndian.Uint16(value)
			}
		}
	}
	return p
}

func first(value []byte) uint8 {
	if len(value) == 0 {
		return 0
	}
	return value[0]
}

func (k *Kernel) addTunnel(m rules.AddTunnel) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(m.Device)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m.MTU))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(m.LinkKind()))
	switch m.Kind {
	case rules.GRETAP:
		encodeGRETAP(info.AddRtAttr(nl.IFLA_INFO_DATA, nil), &m.TunnelParams)
	case rules.VXLAN:
		encodeVXLAN(info.AddRtAttr(nl.IFLA_INFO_DATA, nil), &m.TunnelParams)
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	// Kernels take no alias with the device. Without its alias it would be nobody's.
	if err := k.setLink(m.Device, 0, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(m.Alias))); err != nil {
		_ = k.removeLink(m.Device)
		return fmt.Errorf("marking the device as ours: %w", err)
	}
	_, _, err := k.readDevices() // what follows is about it
	return err
}

func encodeGRETAP(data *nl.RtAttr, p *rules.TunnelParams) {
	flags := make([]byte, 2)
	if p.HasKey {
		binary.BigEndian.PutUint16(flags, greKeyFlag)
		key := binary.BigEndian.AppendUint32(nil, p.Key)
		data.AddRtAttr(nl.IFLA_GRE_IKEY, key)
		data.AddRtAttr(nl.IFLA_GRE_OKEY, key)
	}
	data.AddRtAttr(nl.IFLA_GRE_IFLAGS, flags)
	data.AddRtAttr(nl.IFLA_GRE_OFLAGS, flags)
	data.AddRtAttr(nl.IFLA_GRE_LOCAL, p.Local.AsSlice())
	data.AddRtAttr(nl.IFLA_GRE_REMOTE, p.Remote.AsSlice())
	data.AddRtAttr(nl.IFLA_GRE_TTL, []byte{p.TTL})
	switch {
	case p.Local.Is6():
		data.AddRtAttr(nl.IFLA_GRE_FLAGS, nl.Uint32Attr(ip6IgnoreEncapFlag))
	case p.Fragment:
		data.AddRtAttr(nl.IFLA_GRE_PMTUDISC, []byte{0})
		data.AddRtAttr(greIgnoreDF, []byte{1})
	default:
		data.AddRtAttr(nl.IFLA_GRE_PMTUDISC, []byte{1})
	}
}

func encodeVXLAN(data *nl.RtAttr, p *rules.TunnelParams) {
	local, remote := nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_GROUP
	if p.Local.Is6() {
		local, remote = nl.IFLA_VXLAN_LOCAL6, nl.IFLA_VXLAN_GROUP6
	}
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(p.ID))
	data.AddRtAttr(local, p.Local.AsSlice())
	data.AddRtAttr(remote, p.Remote.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_TTL, []byte{p.TTL})
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, p.Port))
	// There is one other end: nothing is to be learned, and an address learned wrongly would mislead.
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
}

func (k *Kernel) removeLink(device string) error {
	req := k.request(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(device)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (k *Kernel) setMaster(op rules.SetMaster) error {
	bridge, ok := k.devices.index[op.Bridge]
	if !ok {
		return fmt.Errorf("bridge %s: %w", op.Bridge, unix.ENODEV)
	}
	return k.setLink(op.Device, 0, 0, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
}
