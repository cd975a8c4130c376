package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Further attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig   = 1
	ctaTupleReply  = 2
	ctaID          = 12
	ctaZone        = 18
	ctaTupleIP     = 1
	ctaIPv4Src     = 1
	ctaIPv4Dst     = 2
	ctaIPv6Src     = 3
	ctaIPv6Dst     = 4
	ctaTupleProto  = 2
	ctaProtoNumber = 1
	ctaSourcePort  = 2
	ctaDestPort    = 3
)

// trackedConnection is what names an entry of connection tracking in a request.
type trackedConnection struct {
	family uint8
	attrs  []*nl.RtAttr
}

// eachConnection reads all entries of connection tracking.
func (k *Kernel) eachConnection(see func(*rules.Connection, trackedConnection)) error {
	for _, family := range rules.Families {
		req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: nl.NFNETLINK_V0})
		err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
			c, id := decodeConnection(m, family)
			see(&c, trackedConnection{familyNumber(family), id})
			return true
		})
		// What changes while the list is read is new, and as it should be.
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
			return fmt.Errorf("listing %v connections: %w", family, err)
		}
	}
	return nil
}

// changeConnection sends a request about an entry, with these attributes besides.
func (k *Kernel) changeConnection(c trackedConnection, request int, attrs ...*nl.RtAttr) error {
	req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|request, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: c.family, Version: nl.NFNETLINK_V0})
	for _, a := range slices.Concat(c.attrs, attrs) {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// DeleteConnections deletes the entries of connection tracking that old gives a reason for, and counts them by it. Their next
// packets begin new ones.
func (k *Kernel) DeleteConnections(old func(*rules.Connection) (why string)) (map[string]int, error) {
	type entry struct {
		trackedConnection
		why string
	}
	var found []entry
	err := k.eachConnection(func(c *rules.Connection, id trackedConnection) {
		if why := old(c); why != "" {
			found = append(found, entry{id, why})
		}
	})
	if err != nil {
		return nil, err
	}
	deleted := make(map[string]int)
	offloaded := false
	for _, e := range found {
		switch err := k.changeConnection(e.trackedConnection, nl.IPCTNL_MSG_CT_DELETE); {
		case err == nil:
			deleted[e.why]++
		case errors.Is(err, unix.EBUSY):
			deleted[e.why]++
			offloaded = true
		case !errors.Is(err, unix.ENOENT):
			return deleted, fmt.Errorf("deleting a connection: %w", err)
		}
	}
	if offloaded {
		return deleted, k.flushCachedRoutes()
	}
	return deleted, nil
}

// PinConnections marks the entries of connection tracking that began by an uplink, those for which by returns another id than 0, as the
// packet filter marks new ones, and returns how many. All other bits of their marks stay (nf_conntrack_netlink.c ctnetlink_change_mark).
func (k *Kernel) PinConnections(by func(*rules.Connection) (uplink int)) (int, error) {
	pins := make(map[int][]trackedConnection)
	err := k.eachConnection(func(c *rules.Connection, id trackedConnection) {
		if uplink := by(c); uplink != 0 {
			pins[uplink] = append(pins[uplink], id)
		}
	})
	if err != nil {
		return 0, err
	}
	pinned := 0
	for uplink, list := range pins {
		mark := nl.NewRtAttr(ctaMark, binary.BigEndian.AppendUint32(nil, k.numbers.Mark(uplink)))
		mask := nl.NewRtAttr(ctaMarkMask, binary.BigEndian.AppendUint32(nil, k.numbers.MarkMask))
		for _, c := range list {
			switch err := k.changeConnection(c, nl.IPCTNL_MSG_CT_NEW, mark, mask); {
			case err == nil:
				pinned++
			case !errors.Is(err, unix.ENOENT):
				return pinned, fmt.Errorf("pinning a connection: %w", err)
			}
		}
	}
	return pinned, nil
}

// flushCachedRoutes has every route be looked up anew that connections and flowtables remember: a flowtable keeps its entries from being
// deleted, and passes by all packet filters until the route of one is out of date (net/netfilter/nf_flow_table_ip.c
// nf_flow_dst_check). Any change of the rules does that in both families (fib_rule ops flush_cache).
func (k *Kernel) flushCachedRoutes() error {
	for _, family := range rules.Families {
		nobody := netip.IPv4Unspecified()
		if family == rules.IPv6 {
			nobody = netip.IPv6Unspecified()
		}
		r := netcfg.Rule{Family: family, Priority: k.numbers.RulePriority, From: netip.PrefixFrom(nobody, nobody.BitLen()), To: netip.PrefixFrom(nobody, nobody.BitLen()),
			Table: netcfg.TableMain, SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: k.numbers.Protocol}
		err := k.changeRule(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err = errors.Join(err, ignoreNotFound(k.changeRule(unix.RTM_DELRULE, 0, r))); err != nil {
			return fmt.Errorf("forgetting the routes of offloaded %v connections: %w", family, err)
		}
	}
	return nil
}

// decodeConnection reads an entry, and copies what identifies it.
func decodeConnection(m []byte, family rules.Family) (c rules.Connection, id []*nl.RtAttr) {
	c.Family = family
	for typ, value := range attributes(m[min(len(m), nl.SizeofNfgenmsg):]) {
		switch typ {
		case ctaTupleOrig:
			first := decodeTuple(value)
			c.Source, c.Dest = first.src, first.dst
			decodeTransport(value, &c)
			id = append(id, nl.NewRtAttr(ctaTupleOrig|unix.NLA_F_NESTED, append([]byte(nil), value...)))
		case ctaTupleReply:
			answers := decodeTuple(value)
			c.ReplySource, c.ReplyDest = answers.src, answers.dst
		case ctaMark:
			if len(value) >= 4 {
				c.Mark = binary.BigEndian.Uint32(value)
			}
		case ctaID, ctaZone:
			id = append(id, nl.NewRtAttr(int(typ), append([]byte(nil), value...)))
		}
	}
	return c, id
}

// tuple holds the addresses of one direction of a connection.
type tuple struct{ src, dst netip.Addr }

func decodeTuple(b []byte) (t tuple) {
	for typ, value := range attributes(b) {
		if typ != ctaTupleIP {
			continue
		}
		for typ, value := range attributes(value) {
			switch typ {
			case ctaIPv4Src, ctaIPv6Src:
				t.src, _ = netip.AddrFromSlice(value)
			case ctaIPv4Dst, ctaIPv6Dst:
				t.dst, _ = netip.AddrFromSlice(value)
			}
		}
	}
	return t
}

// decodeTransport reads what a direction says beside its addresses.
func decodeTransport(b []byte, c *rules.Connection) {
	for typ, value := range attributes(b) {
		if typ != ctaTupleProto {
			continue
		}
		for typ, value := range attributes(value) {
			switch {
			case typ == ctaProtoNumber && len(value) > 0:
				c.Protocol = value[0]
			case typ == ctaSourcePort && len(value) >= 2:
				c.SPort = binary.BigEndian.Uint16(value)
			case typ == ctaDestPort && len(value) >= 2:
				c.DPort = binary.BigEndian.Uint16(value)
			}
		}
	}
}
