package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// WireGuard speaks to the WireGuard devices of the network namespace that it is used in, and to user-space ones of this
// machine. The kernel's WireGuard is there only when there is a device, so the connection is made when it is needed, and
// anew after each failure. Its zero value can be used, by several goroutines.
type WireGuard struct {
	mu     sync.Mutex
	client *wgctrl.Client
}

func (w *WireGuard) do(what func(*wgctrl.Client) error) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client == nil {
		if w.client, err = wgctrl.New(); err != nil {
			return fmt.Errorf("opening WireGuard: %w", err)
		}
	}
	if err = what(w.client); err != nil {
		w.close()
	}
	return err
}

// Close gives the sockets back.
func (w *WireGuard) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
}

func (w *WireGuard) close() {
	if w.client != nil {
		_ = w.client.Close()
		w.client = nil
	}
}

// Device reads a device. The error is os.ErrNotExist when there is no WireGuard device of the name.
func (w *WireGuard) Device(device string) (*rules.WireGuardDevice, error) {
	var d *wgtypes.Device
	err := w.do(func(c *wgctrl.Client) (err error) {
		d, err = c.Device(device)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading WireGuard device %s: %w", device, err)
	}
	s := &rules.WireGuardDevice{Device: device, PrivateKey: netcfg.Key(d.PrivateKey), ListenPort: d.ListenPort, FwMark: uint32(d.FirewallMark)}
	for _, p := range d.Peers {
		peer := rules.WireGuardPeerState{WireGuardPeer: netcfg.WireGuardPeer{PublicKey: netcfg.Key(p.PublicKey), Preshared: netcfg.Secret{Key: netcfg.Key(p.PresharedKey)},
			Keepalive: p.PersistentKeepaliveInterval}, Handshake: p.LastHandshakeTime, Received: uint64(p.ReceiveBytes), Sent: uint64(p.TransmitBytes)}
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

// Set carries out a change.
func (w *WireGuard) Set(op netcfg.SetWireGuard) error {
	var cfg wgtypes.Config
	if op.FwMark != nil {
		mark := int(*op.FwMark)
		cfg.FirewallMark = &mark
	}
	if op.PrivateKey.File != "" {
		key := wgtypes.Key(op.PrivateKey.Key)
		cfg.PrivateKey = &key
	}
	if op.ListenPort != 0 {
		cfg.ListenPort = &op.ListenPort
	}
	for _, p := range op.Peers {
		peer := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), UpdateOnly: p.Known, Remove: p.Remove}
		if p.Endpoint.IsValid() {
			peer.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
		}
		if !p.Remove && !p.EndpointOnly {
			key := wgtypes.Key(p.Preshared.Key)
			peer.PresharedKey, peer.PersistentKeepaliveInterval, peer.ReplaceAllowedIPs = &key, &p.Keepalive, true
			for _, n := range p.AllowedIPs {
				peer.AllowedIPs = append(peer.AllowedIPs, net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
			}
		}
		cfg.Peers = append(cfg.Peers, peer)
	}
	if err := w.do(func(c *wgctrl.Client) error { return c.ConfigureDevice(op.Device, cfg) }); err != nil {
		return fmt.Errorf("configuring WireGuard device %s: %w", op.Device, err)
	}
	return nil
}
