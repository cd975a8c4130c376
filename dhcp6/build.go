package dhcp6

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// request is all that a message to servers says.
type request struct {
	kind    dhcpv6.MessageType
	xid     dhcpv6.TransactionID
	client  DUID
	server  DUID // nil: any
	elapsed time.Duration
	rapid   bool
	ias     []iaKey
	class   Class
	// include lists the prefixes of an association, as bindings or as hints.
	include func(iaKey) []netip.Prefix
}

// bytes encodes the message. T1, T2 and lifetimes are 0: they are the server's to say (RFC 9915 sections 21.4
// and 21.21). Reconfigure-Accept is never there, since without RKAP a Reconfigure could be anybody's.
func (r *request) bytes() []byte {
	m := &dhcpv6.Message{MessageType: r.kind, TransactionID: r.xid}
	m.AddOption(generic(dhcpv6.OptionClientID, r.client))
	if r.server != nil {
		m.AddOption(generic(dhcpv6.OptionServerID, r.server))
	}
	m.AddOption(generic(dhcpv6.OptionElapsedTime, binary.BigEndian.AppendUint16(nil, hundredths(r.elapsed))))
	if r.rapid {
		m.AddOption(generic(dhcpv6.OptionRapidCommit, nil))
	}
	pd := slices.ContainsFunc(r.ias, func(k iaKey) bool { return k.pd })
	if r.kind != dhcpv6.MessageTypeConfirm && r.kind != dhcpv6.MessageTypeRelease {
		m.AddOption(dhcpv6.OptRequestedOption(wantedOptions(pd)...))
	}
	r.class.addTo(m) // a server that takes its customers by class takes a Release of nobody else either
	for _, k := range r.ias {
		m.AddOption(association(k, r.include(k)))
	}
	return m.ToBytes()
}

func wantedOptions(pd bool) []dhcpv6.OptionCode {
	codes := []dhcpv6.OptionCode{dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionSolMaxRT}
	if pd {
		codes = append(codes, dhcpv6.OptionPDExclude)
	}
	return codes
}

// hundredths encodes an Elapsed Time, which stops at its largest value (section 21.9).
func hundredths(d time.Duration) uint16 { return uint16(min(max(d/(10*time.Millisecond), 0), 0xffff)) }

func association(k iaKey, include []netip.Prefix) dhcpv6.Option {
	id := [4]byte(binary.BigEndian.AppendUint32(nil, k.id))
	var inner dhcpv6.Options
	for _, p := range include {
		ip := net.IP(p.Addr().AsSlice())
		if k.pd {
			inner.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: ip, Mask: net.CIDRMask(p.Bits(), 128)}})
		} else {
			inner.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip})
		}
	}
	if k.pd {
		return &dhcpv6.OptIAPD{IaId: id, Options: dhcpv6.PDOptions{Options: inner}}
	}
	return &dhcpv6.OptIANA{IaId: id, Options: dhcpv6.IdentityOptions{Options: inner}}
}

func generic(code dhcpv6.OptionCode, data []byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}
}
