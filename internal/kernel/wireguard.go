package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/uplinkd/uplinkd/internal/tunnel"
)

// WireGuard speaks to the WireGuard devices of the network namespace that it was opened in. It may be used by several
// goroutines.
type WireGuard struct{ client *wgctrl.Client }

// OpenWireGuard connects to the kernel's WireGuard, and to user-space ones on this machine.
func OpenWireGuard() (*WireGuard, error) {
	c, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard: %w", err)
	}
	return &WireGuard{c}, nil
}

// Close gives the sockets back.
func (w *WireGuard) Close() { _ = w.client.Close() }

// State reads a device. The error is os.ErrNotExist when there is no WireGuard device of the name.
func (w *WireGuard) State(device string) (*tunnel.State, error) {
	d, err := w.client.Device(device)
	if err != nil {
		return nil, fmt.Errorf("reading WireGuard device %s: %w", device, err)
	}
	s := &tunnel.State{PrivateKey: tunnel.Key(d.PrivateKey), ListenPort: d.ListenPort, FwMark: uint32(d.FirewallMark)}
	for _, p := range d.Peers {
		peer := tunnel.PeerState{Peer: tunnel.Peer{PublicKey: tunnel.Key(p.PublicKey), Preshared: tunnel.Key(p.PresharedKey), Keepalive: p.PersistentKeepaliveInterval},
			Handshake: p.LastHandshakeTime, Received: uint64(p.ReceiveBytes), Sent: uint64(p.TransmitBytes)}
		if p.Endpoint != nil {
			a := p.Endpoint.AddrPort()
			peer.Endpoint = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
		for _, n := range p.AllowedIPs {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				bits, _ := n.Mask.Size()
				peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(a.Unmap(), bits))
			}
		}
		s.Peers = append(s.Peers, peer)
	}
	return s, nil
}

// Set changes what c says of a device. Peers, when there are any, replace all others.
func (w *WireGuard) Set(device string, c tunnel.Config) error {
	mark := int(c.FwMark)
	cfg := wgtypes.Config{FirewallMark: &mark, ReplacePeers: c.Peers != nil}
	if c.PrivateKey != nil {
		key := wgtypes.Key(*c.PrivateKey)
		cfg.PrivateKey = &key
	}
	if c.ListenPort != 0 {
		cfg.ListenPort = &c.ListenPort
	}
	for _, p := range c.Peers {
		keepalive := p.Keepalive
		peer := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), PersistentKeepaliveInterval: &keepalive, ReplaceAllowedIPs: true, Endpoint: udpAddr(p.Endpoint)}
		if p.Preshared != (tunnel.Key{}) {
			key := wgtypes.Key(p.Preshared)
			peer.PresharedKey = &key
		}
		for _, n := range p.AllowedIPs {
			peer.AllowedIPs = append(peer.AllowedIPs, net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
		}
		cfg.Peers = append(cfg.Peers, peer)
	}
	if err := w.client.ConfigureDevice(device, cfg); err != nil {
		return fmt.Errorf("configuring WireGuard device %s: %w", device, err)
	}
	return nil
}

// SetEndpoint sets where a peer of a device is. To set the same one again clears the source address that the kernel has
// used towards it so far (drivers/net/wireguard/socket.c wg_socket_set_peer_endpoint).
func (w *WireGuard) SetEndpoint(device string, peer tunnel.Key, endpoint netip.AddrPort) error {
	err := w.client.ConfigureDevice(device, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key(peer), UpdateOnly: true, Endpoint: udpAddr(endpoint)}}})
	if err != nil {
		return fmt.Errorf("setting an endpoint of WireGuard device %s: %w", device, err)
	}
	return nil
}

func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if !a.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(a)
}
