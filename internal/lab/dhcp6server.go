package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/insomniacslk/dhcp/iana"
)

// How long the lab's providers lease a prefix. T1 is short, so that a renumbering is seen within seconds.
const (
	delegationRenew     = 10 * time.Second
	delegationRebind    = 30 * time.Second
	delegationPreferred = 30 * time.Minute
	delegationValid     = time.Hour
)

// delegatedBits is the length of what an ISP delegates.
const delegatedBits = 56

// delegation returns the prefix that an uplink's ISP delegates, before or after a renumbering.
func (u *uplink) delegation() netip.Prefix {
	b := netip.MustParseAddr("2001:db8:f000::").As16()
	b[5] = byte(u.number)
	if u.renumbered {
		b[4] = 0xf1
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), delegatedBits)
}

// serveDelegations has every ISP delegate a prefix to each of its customers, who is known by the port that he asks at.
// Real servers are for the tests; this one needs nothing to be installed.
func (w *World) serveDelegations(ctx context.Context) error {
	for _, u := range w.uplinks {
		if u.isp.bridged() {
			return errors.New("customers who share a segment cannot be told apart: no prefixes are delegated there")
		}
		if err := w.delegate(ctx, u, u.delegation()); err != nil {
			return err
		}
		if err := w.serveDelegation(u); err != nil {
			return fmt.Errorf("%s: serving DHCPv6: %w", u.isp.name, err)
		}
	}
	return nil
}

func (w *World) serveDelegation(u *uplink) error {
	var server *server6.Server
	duid := &dhcpv6.DUIDEN{EnterpriseNumber: 32473, EnterpriseIdentifier: []byte(u.isp.name)} // of RFC 5612, for examples
	err := w.hosts[u.isp.name].Do(func() (err error) {
		server, err = server6.NewServer(u.port, nil, func(conn net.PacketConn, peer net.Addr, m dhcpv6.DHCPv6) {
			if asked, ok := m.(*dhcpv6.Message); ok {
				w.mu.Lock()
				prefix := u.delegation()
				w.mu.Unlock()
				if answer := delegate(asked, prefix, duid); answer != nil {
					_, _ = conn.WriteTo(answer.ToBytes(), peer) // the client asks again
				}
			}
		})
		return err
	})
	if err != nil {
		return err
	}
	w.servers.Go(func() {
		defer context.AfterFunc(w.ctx, func() { _ = server.Close() })()
		_ = server.Serve()
	})
	return nil
}

// delegate answers a client; nil is silence. A prefix that it has and that is not its own any more is taken back by
// lifetimes of 0 (RFC 9915 section 18.3.4).
func delegate(asked *dhcpv6.Message, prefix netip.Prefix, duid dhcpv6.DUID) *dhcpv6.Message {
	types := map[dhcpv6.MessageType]dhcpv6.MessageType{
		dhcpv6.MessageTypeSolicit: dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeRequest: dhcpv6.MessageTypeReply,
		dhcpv6.MessageTypeRenew: dhcpv6.MessageTypeReply, dhcpv6.MessageTypeRebind: dhcpv6.MessageTypeReply,
		dhcpv6.MessageTypeRelease: dhcpv6.MessageTypeReply,
	}
	client, server := asked.Options.ClientID(), asked.Options.ServerID()
	typ, known := types[asked.MessageType]
	if !known || client == nil || server != nil && !server.Equal(duid) {
		return nil
	}
	answer := &dhcpv6.Message{MessageType: typ, TransactionID: asked.TransactionID}
	answer.AddOption(dhcpv6.OptClientID(client))
	answer.AddOption(dhcpv6.OptServerID(duid))
	if asked.MessageType == dhcpv6.MessageTypeRelease {
		answer.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
		return answer
	}
	for _, ia := range asked.Options.IAPD() {
		own := &dhcpv6.OptIAPD{IaId: ia.IaId, T1: delegationRenew, T2: delegationRebind}
		own.Options.Add(iaPrefix(prefix, delegationPreferred, delegationValid))
		for _, had := range ia.Options.Prefixes() {
			if had.Prefix == nil || had.Prefix.IP.IsUnspecified() {
				continue
			}
			bits, _ := had.Prefix.Mask.Size()
			if addr, ok := netip.AddrFromSlice(had.Prefix.IP); ok && netip.PrefixFrom(addr, bits) != prefix {
				own.Options.Add(iaPrefix(netip.PrefixFrom(addr, bits), 0, 0))
			}
		}
		answer.AddOption(own)
	}
	return answer
}

func iaPrefix(prefix netip.Prefix, preferred, valid time.Duration) *dhcpv6.OptIAPrefix {
	return &dhcpv6.OptIAPrefix{PreferredLifetime: preferred, ValidLifetime: valid,
		Prefix: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)}}
}
