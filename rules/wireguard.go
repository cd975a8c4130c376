package rules

import (
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// WireGuardDevice is a device with what has been seen of its peers.
type WireGuardDevice struct {
	Device     string
	PrivateKey netcfg.Key
	ListenPort int
	FwMark     uint32
	Peers      []WireGuardPeerState
	Err        string // why it could not be read; "" when it could
}

// WireGuardPeerState is a peer with what has been seen of it.
type WireGuardPeerState struct {
	netcfg.WireGuardPeer
	Handshake      time.Time // zero: none yet; wall clock
	Received, Sent uint64    // bytes
}

// Reaches reports whether the device sends packets for any Internet host of a family to some peer.
func (s *WireGuardDevice) Reaches(family Family) bool {
	return slices.ContainsFunc(s.Peers, func(p WireGuardPeerState) bool {
		return slices.ContainsFunc(p.AllowedIPs, func(n netip.Prefix) bool { return FamilyOf(n.Addr()) == family && n.Bits() <= 1 })
	})
}

// PeerFor returns the peer that packets to an address are sent to, nil for none.
func (s *WireGuardDevice) PeerFor(a netip.Addr) (peer *WireGuardPeerState) {
	longest := -1
	for i := range s.Peers {
		for _, n := range s.Peers[i].AllowedIPs {
			if n.Contains(a) && n.Bits() > longest {
				peer, longest = &s.Peers[i], n.Bits()
			}
		}
	}
	return peer
}

// WireGuardDevice returns what the snapshot says of a device; nil when it could not be read, or is none.
func (o *Observed) WireGuardDevice(device string) *WireGuardDevice {
	for i := range o.WireGuard {
		if d := &o.WireGuard[i]; d.Device == device && d.Err == "" {
			return d
		}
	}
	return nil
}

func (s *WireGuardDevice) state() netcfg.WireGuard {
	w := netcfg.WireGuard{Device: s.Device, PrivateKey: netcfg.Secret{Key: s.PrivateKey}, ListenPort: s.ListenPort, FwMark: s.FwMark}
	for i := range s.Peers {
		w.Peers = append(w.Peers, s.Peers[i].WireGuardPeer)
	}
	return w
}

// wireGuard plans what WireGuard devices hold, of those that are there or are about to be made.
func (p *planner) wireGuard() {
	for i := range p.cfg.WireGuard {
		w := p.cfg.WireGuard[i]
		if _, present := p.obs.Link(w.Device); !present {
			continue
		}
		if at := slices.IndexFunc(p.obs.WireGuard, func(d WireGuardDevice) bool { return d.Device == w.Device && d.Err != "" }); at >= 0 {
			p.problem("wireguard", "error", p.obs.WireGuard[at].Err, "check that the device is a WireGuard device; it is retried")
			continue
		}
		if p.obs.WireGuardDevice(w.Device) != nil || p.obs.foreseen[w.Device] {
			p.state.WireGuard = append(p.state.WireGuard, w)
		}
	}
}
