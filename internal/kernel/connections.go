package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// Further attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaID          = 12
	ctaTupleProto  = 2
	ctaProtoNumber = 1
	ctaSourcePort  = 2
	ctaDestPort    = 3
)

// DeleteConnections deletes the entries of connection tracking that old gives a reason for, and counts them by it. Their next
// packets begin new ones.
func (k *Kernel) DeleteConnections(old func(*rules.Connection) (why string)) (map[string]int, error) {
	type entry struct {
		family uint8
		attrs  []*nl.RtAttr
		why    string
	}
	var found []entry
	for _, family := range rules.Families {
		req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: nl.NFNETLINK_V0})
		err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
			c, id := decodeConnection(m, family)
			if why := old(&c); why != "" {
				found = append(found, entry{familyNumber(family), id, why})
			}
			return true
		})
		// What changes while the list is read is new, and as it should be.
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing %v connections: %w", family, err)
		}
	}
	deleted := make(map[string]int)
	for _, e := range found {
		req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: e.family, Version: nl.NFNETLINK_V0})
		for _, a := range e.attrs {
			req.AddData(a)
		}
		switch _, err := req.Execute(unix.NETLINK_NETFILTER, 0); {
		case err == nil:
			deleted[e.why]++
		case !errors.Is(err, unix.ENOENT):
			return deleted, fmt.Errorf("deleting a connection: %w", err)
		}
	}
	return deleted, nil
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
			c.ReplyDest = decodeTuple(value).dst
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
