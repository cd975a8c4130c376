package kernel

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// sizeofRuleHeader is that of struct fib_rule_hdr, which has the layout of rtmsg: family, lengths, tos,
// table, two reserved bytes, action, flags.
const sizeofRuleHeader = unix.SizeofRtMsg

// fibRuleInvert is FIB_RULE_INVERT of linux/fib_rules.h.
const fibRuleInvert = 0x2

func (k *Kernel) rules(family rules.Family) ([]netcfg.Rule, error) {
	header := func() nl.NetlinkRequestData {
		return &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(family)}}
	}
	return dump(k, family.String()+" rules", unix.RTM_GETRULE, header, decodeRule)
}

func decodeRule(m []byte) (netcfg.Rule, bool) {
	if len(m) < sizeofRuleHeader {
		return netcfg.Rule{}, false
	}
	msg := nl.DeserializeRtMsg(m)
	family, known := familyOf(msg.Family)
	if !known {
		return netcfg.Rule{}, false
	}
	r := netcfg.Rule{Family: family, Table: uint32(msg.Table), SuppressPrefixLen: -1, SuppressGroup: -1}
	r.Selectors = netcfg.RuleSelectors{Not: msg.Flags&fibRuleInvert != 0, TOS: msg.Tos}
	if msg.Type != nl.FR_ACT_TO_TBL {
		r.Selectors.Action = netcfg.Action(msg.Type)
	}
	for typ, value := range attributes(m[sizeofRuleHeader:]) {
		switch typ {
		case nl.FRA_PRIORITY:
			r.Priority = int(native32(value))
		case nl.FRA_TABLE:
			r.Table = native32(value)
		case nl.FRA_FWMARK:
			r.Mark = native32(value)
		case nl.FRA_FWMASK:
			r.Mask = native32(value)
		case nl.FRA_SRC:
			r.From = decodePrefix(value, msg.Src_len)
		case nl.FRA_DST:
			r.To = decodePrefix(value, msg.Dst_len)
		case nl.FRA_IIFNAME:
			r.IIF = unix.ByteSliceToString(value)
		case nl.FRA_OIFNAME:
			r.OIF = unix.ByteSliceToString(value)
		case nl.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressPrefixLen = int(int32(native32(value)))
		case nl.FRA_SUPPRESS_IFGROUP:
			r.SuppressGroup = int64(int32(native32(value)))
		case nl.FRA_PROTOCOL:
			if len(value) > 0 {
				r.Protocol = value[0]
			}
		default:
			decodeSelectors(&r.Selectors, typ, value)
		}
	}
	if s := &r.Selectors; s.Unknown || s.Goto != 0 || s.TOS != 0 || s.DSCP {
		s.Received = string(m)
	}
	return r, true
}

// Attributes of linux/fib_rules.h that the netlink library does not name.
const (
	fraDSCP      = 25
	fraSPortMask = 28
	fraDPortMask = 29
	fraDSCPMask  = 30
)

// decodeSelectors reads the rarer selectors, and what rules of ours never have.
func decodeSelectors(m *netcfg.RuleSelectors, typ uint16, value []byte) {
	full := len(value) == 1 && value[0] == 0x3f || len(value) >= 2 && value[0] == 0xff && value[1] == 0xff
	switch {
	case typ == nl.FRA_FLOW, typ == nl.FRA_PAD: // a realm selects nothing
	case full && (typ == fraSPortMask || typ == fraDPortMask || typ == fraDSCPMask):
	case typ == nl.FRA_IP_PROTO && len(value) > 0:
		m.Protocol = value[0]
	case typ == nl.FRA_SPORT_RANGE && len(value) >= 4:
		m.SPort = decodePorts(value)
	case typ == nl.FRA_DPORT_RANGE && len(value) >= 4:
		m.DPort = decodePorts(value)
	case typ == nl.FRA_UID_RANGE && len(value) >= 8:
		m.UIDs = netcfg.UIDs{Set: true, First: native32(value), Last: native32(value[4:])}
	case typ == nl.FRA_GOTO:
		m.Goto = int(native32(value))
	case typ == fraDSCP && len(value) > 0:
		m.TOS, m.DSCP = value[0]<<2, true
	default:
		m.Unknown = true
	}
}

func decodePorts(value []byte) netcfg.Ports {
	return netcfg.Ports{First: binary.NativeEndian.Uint16(value), Last: binary.NativeEndian.Uint16(value[2:])}
}

func decodePrefix(value []byte, bits uint8) netip.Prefix {
	ip, _ := netip.AddrFromSlice(value)
	return netip.PrefixFrom(ip, int(bits))
}

func (k *Kernel) changeRule(msgType, flags int, r netcfg.Rule) error {
	req := k.request(msgType, flags|unix.NLM_F_ACK)
	if r.Selectors.Received != "" {
		req.AddRawData([]byte(r.Selectors.Received))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyNumber(r.Family), Type: nl.FR_ACT_TO_TBL}}
	if r.Selectors.Action != 0 {
		msg.Type = uint8(r.Selectors.Action)
	}
	req.AddData(msg)
	add := func(typ int, value []byte) { req.AddData(nl.NewRtAttr(typ, value)) }
	add(nl.FRA_PRIORITY, nl.Uint32Attr(uint32(r.Priority)))
	add(nl.FRA_TABLE, nl.Uint32Attr(r.Table))
	add(nl.FRA_PROTOCOL, []byte{r.Protocol})
	if r.From.IsValid() {
		msg.Src_len = uint8(r.From.Bits())
		add(nl.FRA_SRC, r.From.Addr().AsSlice())
	}
	if r.To.IsValid() {
		msg.Dst_len = uint8(r.To.Bits())
		add(nl.FRA_DST, r.To.Addr().AsSlice())
	}
	if r.Mask != 0 {
		add(nl.FRA_FWMARK, nl.Uint32Attr(r.Mark))
		add(nl.FRA_FWMASK, nl.Uint32Attr(r.Mask))
	}
	if r.IIF != "" {
		add(nl.FRA_IIFNAME, nl.ZeroTerminated(r.IIF))
	}
	if r.OIF != "" {
		add(nl.FRA_OIFNAME, nl.ZeroTerminated(r.OIF))
	}
	encodeSelectors(&r.Selectors, msg, add)
	if r.SuppressPrefixLen >= 0 {
		add(nl.FRA_SUPPRESS_PREFIXLEN, nl.Uint32Attr(uint32(r.SuppressPrefixLen)))
	}
	if r.SuppressGroup >= 0 {
		add(nl.FRA_SUPPRESS_IFGROUP, nl.Uint32Attr(uint32(r.SuppressGroup)))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// encodeSelectors adds the selectors of policies.
func encodeSelectors(m *netcfg.RuleSelectors, msg *nl.RtMsg, add func(typ int, value []byte)) {
	if m.Not {
		msg.Flags |= fibRuleInvert
	}
	if m.Protocol != 0 {
		add(nl.FRA_IP_PROTO, []byte{m.Protocol})
	}
	if m.SPort != (netcfg.Ports{}) {
		add(nl.FRA_SPORT_RANGE, encodePorts(m.SPort))
	}
	if m.DPort != (netcfg.Ports{}) {
		add(nl.FRA_DPORT_RANGE, encodePorts(m.DPort))
	}
	if m.UIDs.Set {
		add(nl.FRA_UID_RANGE, append(nl.Uint32Attr(m.UIDs.First), nl.Uint32Attr(m.UIDs.Last)...))
	}
}

func encodePorts(p netcfg.Ports) []byte {
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, p.First), p.Last)
}
