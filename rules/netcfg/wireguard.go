package netcfg

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// Key is a public, private or preshared key of WireGuard.
type Key [32]byte

// String writes a public key as wg(8) does.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Secret is a private or preshared key. Only the name of its file is ever written.
type Secret struct {
	Key  Key    // zero: none, or not read
	File string // "" for none
}

// String is the name of the file.
func (s Secret) String() string { return s.File }

// differs reports whether a device has another key. One that could not be read is another than none.
func (s Secret) differs(have Secret) bool {
	if s.Key == (Key{}) && s.File != "" {
		return have.Key == Key{}
	}
	return s.Key != have.Key
}

// WireGuard is what a WireGuard device shall be, or is.
type WireGuard struct {
	Device     string
	PrivateKey Secret          // none leaves it
	ListenPort int             // 0 leaves it
	FwMark     uint32          // mark of encrypted packets
	Peers      []WireGuardPeer // nil leaves them
	// UnderlayTable is the routing table that the device's packets follow where it calls its peers, 0 for none.
	UnderlayTable uint32
}

// WireGuardPeer is one other end.
type WireGuardPeer struct {
	PublicKey  Key
	Preshared  Secret
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Keepalive  time.Duration // whole seconds; 0 is none
	// Called is true for a peer whose endpoint is known to us: we call it.
	Called bool
	// ResetEndpoint has the endpoint count even though the kernel knows another: the name has a new address.
	ResetEndpoint bool
}

// SetWireGuard changes what it says of a WireGuard device.
type SetWireGuard struct {
	Device     string
	PrivateKey Secret  // none leaves it
	ListenPort int     // 0 leaves it
	FwMark     *uint32 // nil leaves it
	Peers      []WireGuardPeerChange
}

// WireGuardPeerChange adds a peer, or changes or removes one that is there. To set the endpoint that a peer has clears the
// source address that the kernel has used towards it so far (drivers/net/wireguard/socket.c wg_socket_set_peer_endpoint).
type WireGuardPeerChange struct {
	WireGuardPeer // an endpoint that is zero leaves it
	Known         bool
	Remove        bool
	EndpointOnly  bool
}

// Diff returns what must be set for a device to be as wanted, and false when it is; have is nil for one that is to be
// made. An endpoint counts only while the peer has none, or where it is to be reset: a peer that moves is heard of by the
// kernel first.
func (w *WireGuard) Diff(have *WireGuard) (set SetWireGuard, differs bool) {
	if have == nil {
		have = new(WireGuard)
	}
	set.Device = w.Device
	if w.FwMark != have.FwMark {
		set.FwMark = &w.FwMark
	}
	if w.PrivateKey.File != "" && w.PrivateKey.differs(have.PrivateKey) {
		set.PrivateKey = w.PrivateKey
	}
	if w.ListenPort != have.ListenPort {
		set.ListenPort = w.ListenPort
	}
	if w.Peers != nil {
		for i := range have.Peers {
			if p := &have.Peers[i]; w.peer(p.PublicKey) == nil {
				set.Peers = append(set.Peers, WireGuardPeerChange{WireGuardPeer: WireGuardPeer{PublicKey: p.PublicKey}, Known: true, Remove: true})
			}
		}
	}
	for i := range w.Peers {
		p := &w.Peers[i]
		known := have.peer(p.PublicKey)
		change := WireGuardPeerChange{WireGuardPeer: *p, Known: known != nil}
		if known != nil && known.Endpoint.IsValid() && (!p.ResetEndpoint || known.Endpoint == p.Endpoint) {
			change.Endpoint = netip.AddrPort{}
		}
		switch {
		case known == nil || p.Preshared.differs(known.Preshared) || p.Keepalive != known.Keepalive || !slices.Equal(sortedPrefixes(p.AllowedIPs), sortedPrefixes(known.AllowedIPs)):
			set.Peers = append(set.Peers, change)
		case change.Endpoint.IsValid():
			change.EndpointOnly = true
			set.Peers = append(set.Peers, change)
		}
	}
	return set, set.FwMark != nil || set.PrivateKey.File != "" || set.ListenPort != 0 || len(set.Peers) > 0
}

func (w *WireGuard) peer(key Key) *WireGuardPeer {
	if i := slices.IndexFunc(w.Peers, func(p WireGuardPeer) bool { return p.PublicKey == key }); i >= 0 {
		return &w.Peers[i]
	}
	return nil
}

func findWireGuard(list []WireGuard, device string) *WireGuard {
	if i := slices.IndexFunc(list, func(w WireGuard) bool { return w.Device == device }); i >= 0 {
		return &list[i]
	}
	return nil
}

func sortedPrefixes(list []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
}

// Command writes the change as a line for a shell.
func (o SetWireGuard) Command() string {
	var b strings.Builder
	b.WriteString("wg set " + o.Device)
	if o.ListenPort != 0 {
		fmt.Fprintf(&b, " listen-port %d", o.ListenPort)
	}
	if o.FwMark != nil {
		fmt.Fprintf(&b, " fwmark %#x", *o.FwMark)
	}
	if o.PrivateKey.File != "" {
		fmt.Fprintf(&b, " private-key %s", o.PrivateKey)
	}
	for i := range o.Peers {
		o.Peers[i].write(&b)
	}
	return b.String()
}

func (c *WireGuardPeerChange) write(b *strings.Builder) {
	fmt.Fprintf(b, " peer %v", c.PublicKey)
	if c.Remove {
		b.WriteString(" remove")
		return
	}
	if c.Endpoint.IsValid() {
		fmt.Fprintf(b, " endpoint %v", c.Endpoint)
	}
	if c.EndpointOnly {
		return
	}
	switch {
	case c.Preshared.File != "":
		fmt.Fprintf(b, " preshared-key %s", c.Preshared)
	case c.Known:
		b.WriteString(" preshared-key /dev/null")
	}
	fmt.Fprintf(b, " persistent-keepalive %d", int(c.Keepalive.Seconds()))
	networks := make([]string, len(c.AllowedIPs))
	for i, n := range c.AllowedIPs {
		networks[i] = n.String()
	}
	fmt.Fprintf(b, " allowed-ips %q", strings.Join(networks, ","))
}

// resetEndpoints sets the endpoints of peers that we call to what they are, where the routes change by which the device's
// packets leave: that clears the source address that the kernel has used so far.
func (d *differ) resetEndpoints(have, want State, changed []*Route) {
	for i := range want.WireGuard {
		w := &want.WireGuard[i]
		h := findWireGuard(have.WireGuard, w.Device)
		if h == nil || w.UnderlayTable == 0 {
			continue
		}
		set := SetWireGuard{Device: w.Device}
		for _, known := range h.Peers {
			p := w.peer(known.PublicKey)
			underlayChanged := slices.ContainsFunc(changed, func(r *Route) bool {
				return r.Table == w.UnderlayTable && r.Type == Unicast && r.IsDefault() && r.Family == inet.Of(known.Endpoint.Addr())
			})
			if known.Endpoint.IsValid() && underlayChanged && (w.FwMark != 0 || p != nil && p.Called) && (p == nil || !p.ResetEndpoint) {
				set.Peers = append(set.Peers, WireGuardPeerChange{WireGuardPeer: WireGuardPeer{PublicKey: known.PublicKey, Endpoint: known.Endpoint}, Known: true, EndpointOnly: true})
			}
		}
		if len(set.Peers) > 0 {
			d.ops = append(d.ops, set)
		}
	}
}
