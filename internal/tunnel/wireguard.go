package tunnel

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// Key is a private, public or preshared key of WireGuard.
type Key [32]byte

// Config is what a WireGuard device shall be.
type Config struct {
	PrivateKey *Key   // nil leaves it
	ListenPort int    // 0 leaves it
	FwMark     uint32 // mark of encrypted packets
	Peers      []Peer // nil leaves them
}

// Peer is one other end.
type Peer struct {
	PublicKey  Key
	Preshared  Key // zero: none
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Keepalive  time.Duration
}

// State is what a WireGuard device is.
type State struct {
	PrivateKey Key
	ListenPort int
	FwMark     uint32
	Peers      []PeerState
}

// PeerState is a peer with what has been seen of it.
type PeerState struct {
	Peer
	Handshake      time.Time // zero: none yet; wall clock
	Received, Sent uint64    // bytes
}

// Reaches reports whether the device sends packets for any Internet host of a family to some peer.
func (s *State) Reaches(is4 bool) bool {
	return slices.ContainsFunc(s.Peers, func(p PeerState) bool {
		return slices.ContainsFunc(p.AllowedIPs, func(n netip.Prefix) bool { return n.Addr().Is4() == is4 && n.Bits() <= 1 })
	})
}

// Towards returns the peer that packets to an address are sent to, nil for none.
func (s *State) Towards(a netip.Addr) (peer *PeerState) {
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

// Missing returns what must be set for a device to be as wanted, and false when it is. An endpoint counts only while
// the peer has none: a peer that moves is heard of by the kernel first.
func (c *Config) Missing(have *State) (Config, bool) {
	set := Config{FwMark: c.FwMark}
	differs := c.FwMark != have.FwMark
	if c.PrivateKey != nil && *c.PrivateKey != have.PrivateKey {
		set.PrivateKey, differs = c.PrivateKey, true
	}
	if c.ListenPort != 0 && c.ListenPort != have.ListenPort {
		set.ListenPort, differs = c.ListenPort, true
	}
	if c.Peers != nil && !samePeers(c.Peers, have.Peers) {
		set.Peers, differs = slices.Clone(c.Peers), true
		for i := range set.Peers {
			if known := have.peer(set.Peers[i].PublicKey); known != nil && known.Endpoint.IsValid() {
				set.Peers[i].Endpoint = known.Endpoint
			}
		}
	}
	return set, differs
}

func (s *State) peer(key Key) *PeerState {
	if i := slices.IndexFunc(s.Peers, func(p PeerState) bool { return p.PublicKey == key }); i >= 0 {
		return &s.Peers[i]
	}
	return nil
}

func samePeers(want []Peer, have []PeerState) bool {
	if len(want) != len(have) {
		return false
	}
	byKey := func(a, b Peer) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) }
	is := make([]Peer, len(have))
	for i := range have {
		is[i] = have[i].Peer
	}
	want = slices.Clone(want)
	slices.SortFunc(want, byKey)
	slices.SortFunc(is, byKey)
	return slices.EqualFunc(want, is, func(w, h Peer) bool {
		return w.PublicKey == h.PublicKey && w.Preshared == h.Preshared && w.Keepalive == h.Keepalive &&
			(h.Endpoint.IsValid() || !w.Endpoint.IsValid()) && slices.Equal(sorted(w.AllowedIPs), sorted(h.AllowedIPs))
	})
}

func sorted(list []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
}
