package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/mdlayher/ndp"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// provider is a DHCP server and a router that say what they are told to say, at the provider of one uplink.
type provider struct {
	uplink lab.Uplink
	bound  *ndp.Conn
	port   net.HardwareAddr

	mu       sync.Mutex
	lease    func(answer *dhcpv4.DHCPv4)       // alters an honest answer
	silent   bool                              // no answer to DHCP
	announce func(ra *ndp.RouterAdvertisement) // alters an honest advertisement
	mute     bool                              // no advertisement
}

// Of the provider's own making.
const (
	leaseSpan      = 20 * time.Second
	advertiseEvery = 500 * time.Millisecond
)

func newProvider(r *router, uplink string) *provider {
	r.Helper()
	p := &provider{uplink: r.Uplink(uplink)}
	isp, port := r.Host(p.uplink.ISP), "cust1"
	var server *server4.Server
	err := isp.Do(func() error {
		ifi, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		p.port = ifi.HardwareAddr
		if p.bound, _, err = ndp.Listen(ifi, ndp.LinkLocal); err != nil {
			return err
		}
		server, err = server4.NewServer(port, nil, p.answer)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve() })
	running.Go(func() { p.advertise(ctx) })
	r.Cleanup(func() { cancel(); _ = server.Close(); _ = p.bound.Close(); running.Wait() })
	return p
}

// honest makes the provider tell the truth again.
func (p *provider) honest() {
	p.set(func() { p.lease, p.announce, p.silent, p.mute = nil, nil, false, false })
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
		dhcpv4.WithRouter(p.uplink.Gateway4.AsSlice()), dhcpv4.WithLeaseTime(uint32(leaseSpan.Seconds())))
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
