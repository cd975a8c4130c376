package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/tunnel"
)

// greIgnoreDF is IFLA_GRE_IGNORE_DF of linux/if_tunnel.h.
const greIgnoreDF = 19

const (
	greKeyFlag         = 0x2000 // GRE_KEY of linux/if_tunnel.h, in network order
	ip6IgnoreEncapFlag = 0x1    // IP6_TNL_F_IGN_ENCAP_LIMIT of linux/ip6_tunnel.h: no destination option
	kindGRETAP6        = "ip6gretap"
)

// TunnelLinks lists the devices that tunnels are, lie on or are ports of: tunnels of the kinds that we know, bridges,
// and whatever is marked as ours.
func (k *Kernel) TunnelLinks() ([]tunnel.Link, error) {
	header := func() nl.NetlinkRequestData { return nl.NewIfInfomsg(unix.AF_UNSPEC) }
	type indexed struct {
		tunnel.Link
		index, master int
	}
	all, err := dump(k, "tunnels", unix.RTM_GETLINK, header, func(m []byte) (indexed, bool) {
		if len(m) < unix.SizeofIfInfomsg {
			return indexed{}, false
		}
		msg := nl.DeserializeIfInfomsg(m)
		l := indexed{index: int(msg.Index)}
		l.Up, l.Multicast = msg.Flags&unix.IFF_UP != 0, msg.Flags&unix.IFF_MULTICAST != 0
		for typ, value := range attributes(m[unix.SizeofIfInfomsg:]) {
			switch typ {
			case unix.IFLA_IFNAME:
				l.Device = unix.ByteSliceToString(value)
			case unix.IFLA_MTU:
				l.MTU = int(native32(value))
			case unix.IFLA_IFALIAS:
				l.Alias = unix.ByteSliceToString(value)
			case unix.IFLA_MASTER:
				l.master = int(native32(value))
			case unix.IFLA_LINKINFO:
				l.Params, l.Floods = decodeParams(value), decodeFloods(value)
			}
		}
		return l, l.Device != ""
	})
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(all))
	for _, l := range all {
		names[l.index] = l.Device
	}
	links := make([]tunnel.Link, len(all))
	for i, l := range all {
		links[i] = l.Link
		links[i].Bridge = names[l.master]
	}
	return links, nil
}

// decodeParams reads IFLA_LINKINFO: the kind, and the data of the kinds that we make.
func decodeParams(b []byte) tunnel.Params {
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
	case tunnel.GRETAP, kindGRETAP6:
		return decodeGRETAP(data)
	case tunnel.VXLAN:
		return decodeVXLAN(data)
	}
	return tunnel.Params{Kind: kind}
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

func decodeGRETAP(data []byte) tunnel.Params {
	p := tunnel.Params{Kind: tunnel.GRETAP, Fragment: true}
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

func decodeVXLAN(data []byte) tunnel.Params {
	p := tunnel.Params{Kind: tunnel.VXLAN}
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

// ChangeTunnel carries out one change of Decide.
func (k *Kernel) ChangeTunnel(c tunnel.Change) error {
	var err error
	switch {
	case c.Make != nil:
		err = k.makeTunnel(c.Make)
	case c.Remove != "":
		err = gone(k.removeLink(c.Remove))
	case c.MTU != nil:
		err = k.setLink(c.MTU.Device, 0, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU.MTU))))
	case c.Up != "":
		err = k.setLink(c.Up, unix.IFF_UP, unix.IFF_UP)
	case c.Join != nil:
		err = k.join(c.Join)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Line(), err)
	}
	return nil
}

func (k *Kernel) makeTunnel(m *tunnel.Made) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(m.Device)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m.MTU))))
	kind := m.Kind
	if kind == tunnel.GRETAP && m.Local.Is6() {
		kind = kindGRETAP6
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	switch m.Kind {
	case tunnel.GRETAP:
		encodeGRETAP(info.AddRtAttr(nl.IFLA_INFO_DATA, nil), &m.Params)
	case tunnel.VXLAN:
		encodeVXLAN(info.AddRtAttr(nl.IFLA_INFO_DATA, nil), &m.Params)
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	// Kernels take no alias with the device. Without its alias it would be nobody's.
	if err := k.setLink(m.Device, 0, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(m.Alias()))); err != nil {
		_ = k.removeLink(m.Device)
		return fmt.Errorf("marking the device as ours: %w", err)
	}
	return nil
}

func encodeGRETAP(data *nl.RtAttr, p *tunnel.Params) {
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

func encodeVXLAN(data *nl.RtAttr, p *tunnel.Params) {
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

func (k *Kernel) join(j *tunnel.Join) error {
	links, err := k.links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name == j.Bridge {
			return k.setLink(j.Device, 0, 0, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(l.Index))))
		}
	}
	return fmt.Errorf("bridge %s: %w", j.Bridge, unix.ENODEV)
}

// BridgeFilters names the parameters by which bridged traffic goes through the firewall of routed traffic (br_netfilter),
// as far as they are on.
func (k *Kernel) BridgeFilters() []string {
	var on []string
	for _, name := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if readSysctls([]string{name})[name] == "1" {
			on = append(on, name)
		}
	}
	return on
}
