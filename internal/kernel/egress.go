package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Numbers of linux/pkt_sched.h and linux/pkt_cls.h that golang.org/x/sys has not.
const (
	parentClsact   = 0xfffffff1 // TC_H_CLSACT, which is TC_H_INGRESS too
	handleClsact   = 0xffff0000
	parentIngress  = 0xfffffff2 // TC_H_MIN_INGRESS of it
	parentEgress   = 0xfffffff3 // TC_H_MIN_EGRESS of it
	kindClsact     = "clsact"
	kindBPF        = "bpf"
	tcaBPFOpsLen   = 4
	tcaBPFOps      = 5
	tcaBPFFlags    = 8
	bpfDirect      = 1 // TCA_BPF_FLAG_ACT_DIRECT
	sizeofTcMsg    = 20
	offsetTcHandle = 8
	offsetTcInfo   = 16
	sizeofBPF      = 8
)

// tcMsg is struct tcmsg of linux/rtnetlink.h.
type tcMsg struct {
	index                int
	handle, parent, info uint32
}

func (m *tcMsg) Len() int { return sizeofTcMsg }

func (m *tcMsg) Serialize() []byte {
	b := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(m.index))
	binary.NativeEndian.PutUint32(b[offsetTcHandle:], m.handle)
	binary.NativeEndian.PutUint32(b[12:], m.parent)
	binary.NativeEndian.PutUint32(b[offsetTcInfo:], m.info)
	return b
}

// egress looks for our filters, on devices whose parameters are asked for and on those in our link group: those are the uplinks, and those
// that have been.
func (k *Kernel) egress(links []rules.Link, sysctls []string) (*rules.Egress, error) {
	asked := make(map[string]bool)
	for _, name := range sysctls {
		if device, ok := strings.CutPrefix(name, "net/ipv4/conf/"); ok {
			asked[path.Dir(device)] = true
		}
	}
	found := &rules.Egress{Qdiscs: make(map[string]bool), Impossible: make(map[string]string)}
	for device, why := range k.unfiltered {
		found.Impossible[device] = why
	}
	for _, l := range links {
		if l.Group != k.numbers.LinkGroup && !asked[l.Name] || l.Loopback {
			continue
		}
		filters, err := k.filters(l.Index, parentEgress)
		if err != nil {
			return nil, fmt.Errorf("listing the egress filters of %s: %w", l.Name, err)
		}
		for _, f := range filters {
			if f.pref == uint16(k.numbers.Protocol) && f.kind == kindBPF && f.handle != 0 {
				found.Filters = append(found.Filters, netcfg.EgressFilter{Device: l.Name, Pref: k.numbers.Protocol, Program: f.program})
			}
		}
		kind := kindClsact
		if len(filters) == 0 {
			if kind, err = k.ingressQdisc(l.Index); err != nil {
				return nil, fmt.Errorf("looking for the clsact qdisc of %s: %w", l.Name, err)
			}
		}
		switch kind {
		case kindClsact:
			found.Qdiscs[l.Name] = true
		case "":
		default:
			found.Impossible[l.Name] = "its qdisc " + kind + " stands where clsact would"
		}
	}
	return found, nil
}

// ingressQdisc returns the kind of what stands where clsact would, "" for nothing.
func (k *Kernel) ingressQdisc(index int) (kind string, err error) {
	// Without an echo the kernel tells only those who listen to all changes (net/sched/sch_api.c qdisc_get_notify).
	req := k.request(unix.RTM_GETQDISC, unix.NLM_F_ECHO|unix.NLM_F_ACK)
	req.AddData(&tcMsg{index: index, parent: parentClsact})
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
	if isNotFound(err) || errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, m := range answers {
		for typ, value := range attributes(m[min(len(m), sizeofTcMsg):]) {
			if typ == unix.TCA_KIND {
				kind = unix.ByteSliceToString(value)
			}
		}
	}
	return kind, nil
}

// filter is a classifier as the kernel lists it.
type filter struct {
	pref    uint16
	handle  uint32 // 0: the head of a list
	kind    string
	program []netcfg.BPFInstruction
}

func (k *Kernel) filters(index int, parent uint32) ([]filter, error) {
	header := func() nl.NetlinkRequestData { return &tcMsg{index: index, parent: parent} }
	list, err := dump(k, "filters", unix.RTM_GETTFILTER, header, decodeFilter)
	if isNotFound(err) {
		return nil, nil
	}
	return list, err
}

func decodeFilter(m []byte) (filter, bool) {
	if len(m) < sizeofTcMsg {
		return filter{}, false
	}
	f := filter{handle: native32(m[offsetTcHandle:]), pref: uint16(native32(m[offsetTcInfo:]) >> 16)}
	for typ, value := range attributes(m[sizeofTcMsg:]) {
		switch typ {
		case unix.TCA_KIND:
			f.kind = unix.ByteSliceToString(value)
		case unix.TCA_OPTIONS:
			for option, ops := range attributes(value) {
				if option == tcaBPFOps {
					f.program = decodeBPF(ops)
				}
			}
		}
	}
	return f, true
}

func decodeBPF(b []byte) []netcfg.BPFInstruction {
	program := make([]netcfg.BPFInstruction, 0, len(b)/sizeofBPF)
	for ; len(b) >= sizeofBPF; b = b[sizeofBPF:] {
		program = append(program, netcfg.BPFInstruction{Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])})
	}
	return program
}

func encodeBPF(program []netcfg.BPFInstruction) []byte {
	var b bytes.Buffer
	for _, i := range program {
		_ = binary.Write(&b, binary.NativeEndian, i)
	}
	return b.Bytes()
}

// putEgress makes a filter, or replaces ours at once: no packet meets neither of both. A kernel that cannot do it is no error:
// the filter is a second line, and the next snapshot says that the device has none.
func (k *Kernel) putEgress(op netcfg.PutEgress) error {
	index, ok := k.devices.index[op.Device]
	if !ok {
		return unix.ENODEV
	}
	err := k.replaceEgress(index, op)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EEXIST) {
		k.unfiltered[op.Device] = "the kernel refuses it, " + err.Error()
		return nil
	}
	return err
}

func (k *Kernel) replaceEgress(index int, op netcfg.PutEgress) error {
	if kind, err := k.ingressQdisc(index); err != nil {
		return err
	} else if kind == "" {
		req := k.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
		req.AddData(&tcMsg{index: index, handle: handleClsact, parent: parentClsact})
		req.AddData(nl.NewRtAttr(unix.TCA_KIND, nl.ZeroTerminated(kindClsact)))
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fmt.Errorf("adding the qdisc clsact: %w", err)
		}
	}
	req := k.request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	req.AddData(&tcMsg{index: index, handle: 1, parent: parentEgress, info: uint32(op.Pref)<<16 | networkOrder16(unix.ETH_P_ALL)})
	req.AddData(nl.NewRtAttr(unix.TCA_KIND, nl.ZeroTerminated(kindBPF)))
	options := nl.NewRtAttr(unix.TCA_OPTIONS, nil)
	options.AddRtAttr(tcaBPFOpsLen, binary.NativeEndian.AppendUint16(nil, uint16(len(op.Program))))
	options.AddRtAttr(tcaBPFOps, encodeBPF(op.Program))
	options.AddRtAttr(tcaBPFFlags, nl.Uint32Attr(bpfDirect))
	req.AddData(options)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("adding a filter of kind bpf: %w", err)
	}
	return nil
}

// networkOrder16 is htons.
func networkOrder16(v uint16) uint32 {
	return uint32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

// delEgress removes our filter, and the qdisc that we have brought unless somebody else's filters hang on it.
func (k *Kernel) delEgress(op netcfg.DelEgress) error {
	index, ok := k.devices.index[op.Device]
	if !ok {
		return unix.ENODEV
	}
	req := k.request(unix.RTM_DELTFILTER, unix.NLM_F_ACK)
	req.AddData(&tcMsg{index: index, parent: parentEgress, info: uint32(op.Pref)<<16 | networkOrder16(unix.ETH_P_ALL)})
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil || !op.Qdisc {
		return err
	}
	for _, parent := range []uint32{parentIngress, parentEgress} {
		if others, err := k.filters(index, parent); err != nil || len(others) > 0 {
			return err
		}
	}
	req = k.request(unix.RTM_DELQDISC, unix.NLM_F_ACK)
	req.AddData(&tcMsg{index: index, parent: parentClsact})
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
