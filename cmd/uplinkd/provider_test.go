package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/mdlayher/ndp"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// provider is a DHCP server, a DHCPv6 server and a router that say what they are told to say, at the provider of one uplink.
type provider struct {
	uplink lab.Uplink
	bound  *ndp.Conn
	port   net.HardwareAddr

	mu       sync.Mutex
	lease    func(answer *dhcpv4.DHCPv4)                 // alters an honest answer
	silent   bool                                        // no answer to DHCP
	announce func(ra *ndp.RouterAdvertisement)           // alters an honest advertisement
	mute     bool                                        // no advertisement
	delegate func(m *dhcpv6.Message, ia *dhcpv6.OptIAPD) // alters an honest delegation
	silent6  bool                                        // no answer to DHCPv6
}

// Of the provider's own making.
const (
	leaseTime      = 20 * time.Second
	delegationTime = time.Hour
	advertiseEvery = 500 * time.Millisecond
)

func newProvider(r *router, uplink string) *provider {
	r.Helper()
	p := &provider{uplink: r.Uplink(uplink)}
	isp, port := r.Host(p.uplink.ISP), "cust1"
	var server *server4.Server
	var delegating *server6.Server
	err := isp.Do(func() error {
		ifi, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		p.port = ifi.HardwareAddr
		if p.bound, _, err = ndp.Listen(ifi, ndp.LinkLocal); err != nil {
			return err
		}
		if server, err = server4.NewServer(port, nil, p.answer); err != nil {
			return err
		}
		delegating, err = server6.NewServer(port, nil, p.answer6)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve() })
	running.Go(func() { _ = delegating.Serve() })
	r.delegate(uplink, delegatedByFiber)
	running.Go(func() { p.advertise(ctx) })
	r.Cleanup(func() { cancel(); _ = server.Close(); _ = delegating.Close(); _ = p.bound.Close(); running.Wait() })
	return p
}

// honest makes the provider tell the truth again.
func (p *provider) honest() {
	p.set(func() {
		p.lease, p.announce, p.delegate, p.silent, p.mute, p.silent6 = nil, nil, nil, false, false, false
	})
}

func (p *provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) answer(conn net.PacketConn, peer net.Addr, asked *dhcpv4.DHCPv4) {
	kind := dhcpv4.MessageTypeOffer
	if asked.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	a := p.uplink.Address4
	mask := net.CIDRMask(a.Bits(), 32)
	reply, err := dhcpv4.NewReplyFromRequest(asked,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(a.Addr().AsSlice()), dhcpv4.WithServerIP(p.uplink.Gateway4.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(p.uplink.Gateway4.AsSlice())), dhcpv4.WithNetmask(mask),
		dhcpv4.WithRouter(p.uplink.Gateway4.AsSlice()), dhcpv4.WithLeaseTime(uint32(leaseTime.Seconds())))
	if err != nil {
		return
	}
	p.mu.Lock()
	alter, silent := p.lease, p.silent
	p.mu.Unlock()
	if silent {
		return
	}
	if alter != nil {
		alter(reply)
	}
	_, _ = conn.WriteTo(reply.ToBytes(), peer) // the client asks again
}

func (p *provider) advertise(ctx context.Context) {
	ticker := time.NewTicker(advertiseEvery)
	defer ticker.Stop()
	for {
		ra := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: 1800 * time.Second, Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: p.port},
			onLink(p.uplink.Address6.Masked()), &ndp.MTU{MTU: 1500}, // which takes another one back (RFC 4861 section 6.3.4)
		}}
		p.mu.Lock()
		alter, mute := p.announce, p.mute
		p.mu.Unlock()
		if alter != nil {
			alter(ra)
		}
		if !mute {
			_ = p.bound.WriteTo(ra, nil, netip.IPv6LinkLocalAllNodes()) // the port may be down
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func onLink(prefix netip.Prefix) *ndp.PrefixInformation {
	return &ndp.PrefixInformation{Prefix: prefix.Masked().Addr(), PrefixLength: uint8(prefix.Bits()), OnLink: true,
		AutonomousAddressConfiguration: true, ValidLifetime: time.Hour, PreferredLifetime: 30 * time.Minute}
}

// delegatedByFiber is what the provider routes to the router.
var delegatedByFiber = netip.MustParsePrefix("2001:db8:f000:100::/56")

func (p *provider) answer6(conn net.PacketConn, peer net.Addr, m dhcpv6.DHCPv6) {
	asked, ok := m.(*dhcpv6.Message)
	if !ok || asked.Options.ClientID() == nil {
		return
	}
	kind := dhcpv6.MessageTypeReply
	if asked.MessageType == dhcpv6.MessageTypeSolicit {
		kind = dhcpv6.MessageTypeAdvertise
	}
	reply := &dhcpv6.Message{MessageType: kind, TransactionID: asked.TransactionID}
	reply.AddOption(dhcpv6.OptClientID(asked.Options.ClientID()))
	reply.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: p.port}))
	p.mu.Lock()
	alter, silent := p.delegate, p.silent6
	p.mu.Unlock()
	for _, ia := range asked.Options.IAPD() {
		own := &dhcpv6.OptIAPD{IaId: ia.IaId, T1: leaseTime / 2, T2: leaseTime}
		own.Options.Add(iaPrefix(delegatedByFiber, delegationTime/2, delegationTime))
		for _, had := range ia.Options.Prefixes() { // what is not the provider's to give is taken back
			if had.Prefix != nil && !had.Prefix.IP.IsUnspecified() && !had.Prefix.IP.Equal(delegatedByFiber.Addr().AsSlice()) {
				own.Options.Add(&dhcpv6.OptIAPrefix{Prefix: had.Prefix})
			}
		}
		if alter != nil {
			alter(reply, own)
		}
		reply.AddOption(own)
	}
	if !silent {
		_, _ = conn.WriteTo(reply.ToBytes(), peer) // the client asks again
	}
}

func iaPrefix(prefix netip.Prefix, preferred, valid time.Duration) *dhcpv6.OptIAPrefix {
	return &dhcpv6.OptIAPrefix{PreferredLifetime: preferred, ValidLifetime: valid,
		Prefix: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)}}
}
