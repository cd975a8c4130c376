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

// securityPolicies lists what IPsec does with packets that leave.
func (k *Kernel) securityPolicies() ([]explain.IPsecPolicy, error) {
	req := k.request(nl.XFRM_MSG_GETPOLICY, unix.NLM_F_DUMP)
	req.AddData(&nl.XfrmUserpolicyId{})
	var list []explain.IPsecPolicy
	err := req.ExecuteIter(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWPOLICY, func(m []byte) bool {
		if p, ok := k.decodePolicy(m); ok {
			list = append(list, p)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("listing IPsec policies: %w", err)
	}
	return list, nil
}

func (k *Kernel) decodePolicy(m []byte) (p explain.IPsecPolicy, ok bool) {
	if len(m) < nl.SizeofXfrmUserpolicyInfo {
		return p, false
	}
	msg := nl.DeserializeXfrmUserpolicyInfo(m)
	family, known := familyOf(uint8(msg.Sel.Family))
	if msg.Dir != policyOut || !known {
		return p, false
	}
	p = explain.IPsecPolicy{
		From: selected(family, msg.Sel.Saddr, msg.Sel.PrefixlenS), To: selected(family, msg.Sel.Daddr, msg.Sel.PrefixlenD),
		Protocol: msg.Sel.Proto, SPort: selectedPorts(msg.Sel.Sport, msg.Sel.SportMask), DPort: selectedPorts(msg.Sel.Dport, msg.Sel.DportMask),
		Priority: msg.Priority, Block: msg.Action == policyBlock,
	}
	if msg.Sel.Ifindex != 0 {
		p.Device = k.devices.name[int(msg.Sel.Ifindex)]
	}
	for typ, value := range attributes(m[nl.SizeofXfrmUserpolicyInfo:]) {
		switch typ {
		case nl.XFRMA_TMPL:
			if len(value) < nl.SizeofXfrmUserTmpl {
				continue
			}
			t := nl.DeserializeXfrmUserTmpl(value)
			p.Transforms = true
			if of, known := familyOf(uint8(t.Family)); t.Mode == modeTunnel && known {
				p.TunnelFrom, p.TunnelTo = address(of, t.Saddr), address(of, t.XfrmId.Daddr)
			}
		case nl.XFRMA_MARK:
			if len(value) >= 8 {
				p.Mark, p.Mask = native32(value), native32(value[4:])
			}
		case nl.XFRMA_IF_ID:
			return p, false // of an interface of its own, which is routed to
		}
	}
	return p, true
}

// XFRM_POLICY_OUT, XFRM_POLICY_BLOCK and XFRM_MODE_TUNNEL of linux/xfrm.h.
const (
	policyOut   = 1
	policyBlock = 1
	modeTunnel  = 1
)

func address(f rules.Family, a nl.XfrmAddress) netip.Addr {
	if f == rules.IPv4 {
		return netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrFrom16(a)
}

func selected(f rules.Family, a nl.XfrmAddress, bits uint8) netip.Prefix {
	return netip.PrefixFrom(address(f, a), int(bits)).Masked()
}

// selectedPorts reads a port in network order. A mask that is not whole is for a range that begins at a multiple of its size.
func selectedPorts(port, mask uint16) netcfg.Ports {
	host := func(v uint16) uint16 { return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)) }
	if mask == 0 {
		return netcfg.Ports{}
	}
	return netcfg.Ports{First: host(port) & host(mask), Last: host(port) | ^host(mask)}
}
