package dhcp6

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// Answer returns what a client on a link is to be told (RFC 9915 section 18.3); nil: nothing. Changed says that there is something new to be
// stored, and planned, before the answer goes out.
func (d *Delegator) Answer(link string, t *Terms, from netip.Addr, datagram []byte, now time.Time) (answer []byte, changed bool, err error) {
	q, err := readQuery(datagram, d.duid)
	if err != nil {
		return nil, false, err
	}
	a := &answering{Delegator: d, query: q, terms: t, link: link, from: from, now: now}
	kind := dhcpv6.MessageTypeReply
	switch q.kind {
	case dhcpv6.MessageTypeInformationRequest:
		if !t.Inform {
			return nil, false, nil
		}
	case dhcpv6.MessageTypeSolicit:
		kind = dhcpv6.MessageTypeAdvertise
		if !a.advertise() {
			return nil, false, nil
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		if !a.bind() {
			return nil, false, nil
		}
	default:
		a.release()
	}
	return a.message(kind), a.changed, nil
}

// answering is one message that is being answered.
type answering struct {
	*Delegator
	*query
	terms *Terms
	link  string
	from  netip.Addr
	now   time.Time

	options []dhcpv6.Option // of the answer
	changed bool
}

// advertise tells what a Request would give. It is false for who wants no prefix: others on the link may have addresses to give.
func (a *answering) advertise() bool {
	ias := a.prefixIAs()
	for _, wants := range ias {
		var offers []grant
		if h := a.holder(a.link, a.client, wants.id, a.from, a.now); h != nil {
			offers = a.offers(h, a.terms, wants.wanted(), a.now)
		}
		a.add(wants.id, offers, nil)
	}
	a.refuseAddresses()
	return len(ias) > 0
}

// refuseAddresses answers those associations that are none of prefixes.
func (a *answering) refuseAddresses() {
	for _, other := range a.ias {
		if !other.pd {
			a.refuse(other, iana.StatusNoAddrsAvail)
		}
	}
}

// bind gives or extends. Another server's prefixes are none of our business: who rebinds those hears nothing.
func (a *answering) bind() bool {
	if a.kind == dhcpv6.MessageTypeRebind && !slices.ContainsFunc(a.prefixIAs(), a.isOurs) {
		return false
	}
	for _, wants := range a.prefixIAs() {
		if a.kind == dhcpv6.MessageTypeRebind && !a.isOurs(wants) {
			continue
		}
		h := a.holder(a.link, a.client, wants.id, a.from, a.now)
		if h == nil {
			a.add(wants.id, nil, wants.wanted())
			continue
		}
		offers := a.offers(h, a.terms, wants.wanted(), a.now)
		if len(offers) > 0 {
			a.changed = h.take(offers, a.from, a.now) || a.changed
			a.join(h)
		}
		a.add(wants.id, offers, a.leave(h, wants, offers))
	}
	a.refuseAddresses()
	return true
}

// isOurs reports whether an association holds something of us, or lists what only we can have given: what a disk lost is given again.
func (a *answering) isOurs(wants ia) bool {
	if h := a.find(a.link, a.client, wants.id); h != nil && len(h.Parts) > 0 {
		return true
	}
	return slices.ContainsFunc(wants.wanted(), a.within)
}

// within reports whether a prefix is part of one that we have.
func (a *answering) within(prefix netip.Prefix) bool {
	return slices.ContainsFunc(a.terms.Parents, func(p Parent) bool { return p.Prefix.Contains(prefix.Addr()) && p.Prefix.Bits() < prefix.Bits() })
}

// leave lists what a client is to use no more: what it lists, or has been given, and is not offered. Whoever rebinds may list prefixes of
// another server besides.
func (a *answering) leave(h *Holder, wants ia, offers []grant) []netip.Prefix {
	list := slices.DeleteFunc(wants.wanted(), func(p netip.Prefix) bool { return a.kind == dhcpv6.MessageTypeRebind && !a.within(p) })
	for _, p := range h.Parts {
		if !slices.Contains(list, p.Prefix) {
			list = append(list, p.Prefix)
		}
	}
	return slices.DeleteFunc(list, func(p netip.Prefix) bool {
		return slices.ContainsFunc(offers, func(o grant) bool { return o.prefix == p })
	})
}

// release takes back what a client gives up. A Decline is about addresses, which nobody has of us.
func (a *answering) release() {
	for _, gives := range a.ias {
		h := a.find(a.link, a.client, gives.id)
		if a.kind != dhcpv6.MessageTypeRelease || !gives.pd || h == nil || len(h.Parts) == 0 {
			a.refuse(gives, iana.StatusNoBinding)
			continue
		}
		h.Parts, a.changed = nil, true
	}
	a.options = append(a.options, &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
}

// wanted lists the prefixes that a client names.
func (i ia) wanted() []netip.Prefix {
	var list []netip.Prefix
	for _, g := range i.grants {
		if !slices.Contains(list, g.prefix) && len(list) < maxParts {
			list = append(list, g.prefix)
		}
	}
	return list
}

// add answers an association with prefixes, those to leave with lifetimes 0.
func (a *answering) add(id uint32, offers []grant, leave []netip.Prefix) {
	o := &dhcpv6.OptIAPD{IaId: iaid(id)}
	o.T1, o.T2 = times(offers)
	for _, give := range offers {
		o.Options.Add(&dhcpv6.OptIAPrefix{PreferredLifetime: give.preferred, ValidLifetime: give.valid, Prefix: ipNet(give.prefix)})
	}
	for _, p := range leave {
		o.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(p)})
	}
	if len(offers) == 0 && len(leave) == 0 {
		o.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail, StatusMessage: "no prefix is left"})
	}
	a.options = append(a.options, o)
}

// refuse answers an association with a status alone.
func (a *answering) refuse(i ia, code iana.StatusCode) {
	status := dhcpv6.Options{&dhcpv6.OptStatusCode{StatusCode: code}}
	if i.pd {
		a.options = append(a.options, &dhcpv6.OptIAPD{IaId: iaid(i.id), Options: dhcpv6.PDOptions{Options: status}})
	} else {
		a.options = append(a.options, &dhcpv6.OptIANA{IaId: iaid(i.id), Options: dhcpv6.IdentityOptions{Options: status}})
	}
}

// message puts an answer together.
func (a *answering) message(kind dhcpv6.MessageType) []byte {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: a.xid}
	if a.client != nil {
		m.AddOption(generic(dhcpv6.OptionClientID, a.client))
	}
	m.AddOption(generic(dhcpv6.OptionServerID, a.duid))
	for _, o := range a.options {
		m.AddOption(o)
	}
	if a.kind == dhcpv6.MessageTypeRelease || a.kind == dhcpv6.MessageTypeDecline {
		return m.ToBytes()
	}
	if wants := a.query.options; len(a.terms.DNS) > 0 && slices.Contains(wants, dhcpv6.OptionDNSRecursiveNameServer) {
		var servers []net.IP
		for _, s := range a.terms.DNS {
			servers = append(servers, s.AsSlice())
		}
		m.AddOption(dhcpv6.OptDNS(servers...))
	}
	if len(a.terms.Search) > 0 && slices.Contains(a.query.options, dhcpv6.OptionDomainSearchList) {
		m.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: a.terms.Search}))
	}
	return m.ToBytes()
}

func iaid(id uint32) [4]byte { return [4]byte(binary.BigEndian.AppendUint32(nil, id)) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}
}
