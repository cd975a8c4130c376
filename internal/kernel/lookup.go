package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Attributes of linux/rtnetlink.h for RTM_GETROUTE, and the flag that has the answer name its table.
const (
	rtaUID          = 25
	rtaIPProto      = 27
	rtaSPort        = 28
	rtaDPort        = 29
	rtmFLookupTable = 0x1000
	protocolUDP     = unix.IPPROTO_UDP
	protocolTCP     = unix.IPPROTO_TCP
	protocolICMP    = unix.IPPROTO_ICMP
	protocolICMPv6  = unix.IPPROTO_ICMPV6
)

// Routing reads all that a route lookup depends on: more than a Snapshot, because every table counts.
func (k *Kernel) Routing() (*explain.Routing, error) {
	links, _, err := k.links()
	if err != nil {
		return nil, err
	}
	obs, err := k.Snapshot(rules.Query{Sysctls: explain.LookupSysctls(links)})
	if err != nil {
		return nil, err
	}
	rt := &explain.Routing{Observed: obs}
	if obs.XFRM {
		if rt.IPsec, err = k.securityPolicies(); err != nil {
			return nil, err
		}
	}
	for _, family := range rules.Families {
		if family == rules.IPv6 && obs.NoIPv6 {
			continue
		}
		header := func() nl.NetlinkRequestData {
			return &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(family)}}
		}
		routes, err := dump(k, family.String()+" routes", unix.RTM_GETROUTE, header, func(m []byte) (r explain.TableRoute, is bool) {
			is = k.devices.decodeRoute(m, &r)
			return r, is
		})
		if err != nil {
			return nil, err
		}
		rt.Tables = append(rt.Tables, routes...)
	}
	return rt, nil
}

// Lookup asks the kernel for its own answer to what rules.Explain explains. A way that is refused is no
// error: the answer then says how. A protocol that the kernel takes no ports of is left out of the
// question.
func (k *Kernel) Lookup(p explain.Packet) (explain.Answer, error) {
	req := k.request(unix.RTM_GETROUTE, 0)
	family := rules.FamilyOf(p.To)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(family), Dst_len: uint8(p.To.BitLen()), Tos: p.TOS, Flags: rtmFLookupTable}}
	req.AddData(msg)
	add := func(typ int, value []byte) { req.AddData(nl.NewRtAttr(typ, value)) }
	add(unix.RTA_DST, p.To.AsSlice())
	if p.From.IsValid() {
		msg.Src_len = uint8(p.From.BitLen())
		add(unix.RTA_SRC, p.From.AsSlice())
	}
	for typ, device := range map[int]string{unix.RTA_IIF: p.In, unix.RTA_OIF: p.Out} {
		if device == "" {
			continue
		}
		index, ok := k.devices.index[device]
		if !ok {
			return explain.Answer{}, fmt.Errorf("device %s: %w", device, unix.ENODEV)
		}
		add(typ, nl.Uint32Attr(uint32(index)))
	}
	if p.Mark != 0 {
		add(unix.RTA_MARK, nl.Uint32Attr(p.Mark))
	}
	if p.UID != 0 {
		add(rtaUID, nl.Uint32Attr(p.UID))
	}
	switch p.Protocol {
	case protocolTCP, protocolUDP, protocolICMP, protocolICMPv6:
		add(rtaIPProto, []byte{p.Protocol})
		if p.SPort != 0 {
			add(rtaSPort, binary.BigEndian.AppendUint16(nil, p.SPort))
		}
		if p.DPort != 0 {
			add(rtaDPort, binary.BigEndian.AppendUint16(nil, p.DPort))
		}
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	var refused unix.Errno
	switch {
	case errors.As(err, &refused) && isRefusal(refused):
		return explain.Answer{Refused: refused.Error()}, nil
	case err != nil:
		return explain.Answer{}, fmt.Errorf("asking the kernel for the route to %v: %w", p.To, err)
	case len(answers) == 0:
		return explain.Answer{}, fmt.Errorf("asking the kernel for the route to %v: no answer", p.To)
	}
	return k.decodeAnswer(answers[0])
}

// isRefusal reports whether an error of RTM_GETROUTE is what a packet would meet: no route (of IPv4 and of
// IPv6), one that refuses, an invalid source, and a source that strict filtering refuses.
func isRefusal(errno unix.Errno) bool {
	switch errno {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EXDEV, unix.ENETDOWN, unix.ESRCH, unix.ENODEV:
		return true
	}
	return false
}

func (k *Kernel) decodeAnswer(m []byte) (explain.Answer, error) {
	if len(m) < unix.SizeofRtMsg {
		return explain.Answer{}, errors.New("the kernel's answer about a route is cut short")
	}
	msg := nl.DeserializeRtMsg(m)
	a := explain.Answer{Table: uint32(msg.Table)}
	for typ, value := range attributes(m[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_TABLE:
			a.Table = native32(value)
		case unix.RTA_OIF:
			a.Device = k.devices.name[int(native32(value))]
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			a.Gateway = decodeGateway(typ, value)
		case unix.RTA_PREFSRC:
			a.Source, _ = netip.AddrFromSlice(value)
		}
	}
	switch netcfg.RouteType(msg.Type) {
	case netcfg.Local, netcfg.Broadcast, netcfg.Anycast:
		a.Local = true
	case netcfg.Unreachable, netcfg.Blackhole, netcfg.Prohibit:
		// IPv6 answers some refusals with a route that says no instead of an error.
		a = explain.Answer{Refused: netcfg.RouteType(msg.Type).String() + " route"}
	}
	return a, nil
}
