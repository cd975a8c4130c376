package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// rtaNextHopID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNextHopID = 30

// decodeRoute reads a route of any table into r, whose lists it uses again; it reports whether that is one.
func (d devices) decodeRoute(m []byte, r *explain.TableRoute) bool {
	if len(m) < unix.SizeofRtMsg {
		return false
	}
	msg := nl.DeserializeRtMsg(m)
	family, known := familyOf(msg.Family)
	if !known || msg.Flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	*r = explain.TableRoute{Unusable: r.Unusable[:0], Linkdown: r.Linkdown[:0], Route: netcfg.Route{TOS: msg.Tos, Nexthops: r.Nexthops[:0],
		Family: family, Table: uint32(msg.Table), Type: netcfg.RouteType(msg.Type), Protocol: msg.Protocol, Dst: family.Default()}}
	if family == rules.IPv4 {
		r.Scope = msg.Scope
	}
	single := netcfg.Nexthop{Weight: 1, Onlink: msg.Flags&unix.RTNH_F_ONLINK != 0}
	for typ, value := range attributes(m[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			r.Table = native32(value)
		case unix.RTA_DST:
			if ip, ok := netip.AddrFromSlice(value); ok {
				r.Dst = netip.PrefixFrom(ip, int(msg.Dst_len))
			}
		case unix.RTA_SRC:
			if ip, ok := netip.AddrFromSlice(value); ok {
				r.From = netip.PrefixFrom(ip, int(msg.Src_len))
			}
		case unix.RTA_PRIORITY:
			r.Metric = native32(value)
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			single.Device = d.name[int(native32(value))]
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			single.Gateway = decodeGateway(typ, value)
		case unix.RTA_METRICS:
			for metric, value := range attributes(value) {
				if metric == unix.RTAX_MTU {
					r.MTU = int(native32(value))
				}
			}
		case rtaNextHopID:
			r.Object = native32(value)
		case unix.RTA_MULTIPATH:
			d.decodeNexthops(value, r)
		}
	}
	if carries(r.Type) && len(r.Nexthops) == 0 && single.Device != "" {
		r.AddNexthop(single, msg.Flags&unix.RTNH_F_DEAD != 0, msg.Flags&unix.RTNH_F_LINKDOWN != 0)
	}
	return !carries(r.Type) || len(r.Nexthops) > 0
}

// carries reports whether routes of a type have nexthops that matter. Those that refuse are on device lo
// in IPv6, and on none in IPv4.
func carries(t netcfg.RouteType) bool {
	switch t {
	case netcfg.Unicast, netcfg.Local, netcfg.Broadcast, netcfg.Anycast, netcfg.Multicast:
		return true
	}
	return false
}

func decodeGateway(typ uint16, value []byte) netip.Addr {
	if typ == unix.RTA_VIA && len(value) > 2 {
		value = value[2:] // struct rtvia: the address family, then the address
	}
	ip, _ := netip.AddrFromSlice(value)
	return ip
}

// decodeNexthops reads RTA_MULTIPATH: rtnexthop headers, each with attributes of its own.
func (d devices) decodeNexthops(b []byte, r *explain.TableRoute) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		hop := netcfg.Nexthop{
			Onlink: b[2]&unix.RTNH_F_ONLINK != 0,
			Weight: int(b[3]) + 1,
			Device: d.name[int(native32(b[4:]))],
		}
		for typ, value := range attributes(b[unix.SizeofRtNexthop:length]) {
			if typ == unix.RTA_GATEWAY || typ == unix.RTA_VIA {
				hop.Gateway = decodeGateway(typ, value)
			}
		}
		r.AddNexthop(hop, b[2]&unix.RTNH_F_DEAD != 0, b[2]&unix.RTNH_F_LINKDOWN != 0)
		b = b[min(len(b), (length+3)&^3):]
	}
}

func (k *Kernel) changeRoute(msgType, flags int, r netcfg.Route) error {
	req := k.request(msgType, flags|unix.NLM_F_ACK)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(r.Family), Dst_len: uint8(r.Dst.Bits()), Tos: r.TOS,
		Protocol: r.Protocol, Scope: r.Scope, Type: uint8(r.Type)}}
	req.AddData(msg)
	add := func(typ int, value []byte) { req.AddData(nl.NewRtAttr(typ, value)) }
	add(unix.RTA_TABLE, nl.Uint32Attr(r.Table))
	add(unix.RTA_DST, r.Dst.Addr().AsSlice())
	if r.From.IsValid() {
		msg.Src_len = uint8(r.From.Bits())
		add(unix.RTA_SRC, r.From.Addr().AsSlice())
	}
	if r.Metric != 0 {
		add(unix.RTA_PRIORITY, nl.Uint32Attr(r.Metric))
	}
	if r.Src.IsValid() {
		add(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.MTU != 0 {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
		req.AddData(metrics)
	}
	switch {
	case r.Object != 0 && msgType == unix.RTM_DELROUTE:
		add(rtaNextHopID, nl.Uint32Attr(r.Object))
	case len(r.Nexthops) == 0:
	case len(r.Nexthops) == 1:
		hop := r.Nexthops[0]
		index, ok := k.devices.index[hop.Device]
		if !ok {
			return fmt.Errorf("device %s: %w", hop.Device, unix.ENODEV)
		}
		add(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))
		if hop.Gateway.IsValid() {
			typ, value := encodeGateway(r.Family, hop.Gateway)
			add(typ, value)
		}
		if hop.Onlink {
			msg.Flags |= unix.RTNH_F_ONLINK
		}
	default:
		hops, err := k.encodeNexthops(r)
		if err != nil {
			return err
		}
		add(unix.RTA_MULTIPATH, hops)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func encodeGateway(family rules.Family, gateway netip.Addr) (typ int, value []byte) {
	if rules.FamilyOf(gateway) == family {
		return unix.RTA_GATEWAY, gateway.AsSlice()
	}
	value = binary.NativeEndian.AppendUint16(nil, uint16(familyNumber(rules.FamilyOf(gateway))))
	return unix.RTA_VIA, append(value, gateway.AsSlice()...)
}

func (k *Kernel) encodeNexthops(r netcfg.Route) ([]byte, error) {
	var b []byte
	for _, hop := range r.Nexthops {
		index, ok := k.devices.index[hop.Device]
		if !ok {
			return nil, fmt.Errorf("device %s: %w", hop.Device, unix.ENODEV)
		}
		var attr []byte
		if hop.Gateway.IsValid() {
			typ, value := encodeGateway(r.Family, hop.Gateway)
			attr = nl.NewRtAttr(typ, value).Serialize()
		}
		flags := byte(0)
		if hop.Onlink {
			flags = unix.RTNH_F_ONLINK
		}
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtNexthop+len(attr)))
		b = append(b, flags, byte(hop.Weight-1))
		b = binary.NativeEndian.AppendUint32(b, uint32(index))
		b = append(b, attr...)
	}
	return b, nil
}
