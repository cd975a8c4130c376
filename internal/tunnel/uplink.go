package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// wgUplink is a WireGuard uplink.
type wgUplink struct {
	id        int
	device    string
	made      bool   // by us; else somebody else configures it, and only its mark is ours
	keyless   bool   // its keys could not be read
	mark      uint32 // of the underlay
	table     uint32 // of the underlay
	addresses []netip.Prefix
	private   netcfg.Secret
	port      int
	peers     []wgPeer
	carrier   [2]int       // id of the uplink that carries it, by family, by the latest plan
	leaves    []rules.Path // by what its packets leave, in the families of its peers' endpoints
	state     *rules.WireGuardDevice
	resolved  map[string]netip.AddrPort // endpoints, by how they are written
	stale     []netcfg.Key              // peers whose endpoint has a new address
	follows   bool                      // peers' networks are routed only while the peer is there
	present   *Peers                    // of one that follows them
}

type wgPeer struct {
	netcfg.WireGuardPeer
	endpoint string // as written; "" for none
}

func newWGUplink(u *config.Uplink, ids map[string]int, k rules.Kernel) *wgUplink {
	underlay := ids[planinput.UnderlayName(u.Name)]
	w := &wgUplink{id: ids[u.Name], device: u.Device, mark: k.Mark(underlay), table: k.Table(underlay),
		resolved: make(map[string]netip.AddrPort), follows: u.PeerRoutes, present: new(Peers)}
	c := u.WireGuard
	if c == nil {
		return w
	}
	w.made, w.addresses, w.port = true, c.Addresses, c.ListenPort
	for _, p := range c.Peers {
		if a, err := netip.ParseAddrPort(p.Endpoint); err == nil {
			w.resolved[p.Endpoint] = a
		}
		w.peers = append(w.peers, wgPeer{endpoint: p.Endpoint, WireGuardPeer: netcfg.WireGuardPeer{PublicKey: netcfg.Key(p.PublicKey),
			AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive, Called: p.Endpoint != ""}})
	}
	return w
}

// readKeys reads the keys that a device of ours needs. Those that cannot be read are missing.
func (w *wgUplink) readKeys(c *config.WireGuard) error {
	if c == nil {
		return nil
	}
	var failed error
	w.private, failed = readKey(c.PrivateKeyFile)
	w.private.Key = clamped(w.private.Key)
	for i, p := range c.Peers {
		var err error
		w.peers[i].Preshared, err = readKey(p.PresharedKeyFile)
		failed = errors.Join(failed, err)
	}
	return failed
}

// marked reports whether the device's packets carry the mark of the underlay. With it the kernel forgets the address
// that a peer has called when the mark's route leads by another device (drivers/net/wireguard/socket.c send4), and the
// peer is answered from an address that it knows nothing of. So only a device that calls all of its peers has it. What
// others have configured for a peer is not known, but who leads to the Internet is called.
func (w *wgUplink) marked() bool {
	if w.made {
		return !slices.ContainsFunc(w.peers, func(p wgPeer) bool { return p.endpoint == "" })
	}
	return w.state != nil && slices.ContainsFunc(rules.Families[:], w.state.Reaches)
}

// calls lists the other ends that a device without the mark calls.
func (w *wgUplink) calls() []netip.AddrPort {
	if w.marked() {
		return nil
	}
	var list []netip.AddrPort
	for _, p := range w.peers {
		if to := w.endpointOf(p.endpoint); to.IsValid() && !slices.Contains(list, to) {
			list = append(list, to)
		}
	}
	return list
}

// config is what the device shall hold.
func (w *wgUplink) config() *netcfg.WireGuard {
	c := &netcfg.WireGuard{Device: w.device, UnderlayTable: w.table}
	if w.marked() {
		c.FwMark = w.mark
	}
	if !w.made {
		return c
	}
	c.PrivateKey, c.ListenPort, c.Peers = w.private, w.port, make([]netcfg.WireGuardPeer, 0, len(w.peers))
	for _, p := range w.peers {
		p.Endpoint, p.ResetEndpoint = w.endpointOf(p.endpoint), slices.Contains(w.stale, p.PublicKey)
		c.Peers = append(c.Peers, p.WireGuardPeer)
	}
	return c
}

// endpointOf returns the address of an endpoint as it is written; zero where none is known that can be used.
func (w *wgUplink) endpointOf(written string) netip.AddrPort {
	if to := w.resolved[written]; to.IsValid() && !w.inside(to.Addr()) {
		return to
	}
	return netip.AddrPort{}
}

// observe takes in what a snapshot says of the device; nil when it is not there. Endpoints that the kernel has by now need
// no reset any more.
func (w *wgUplink) observe(state *rules.WireGuardDevice) {
	w.state = state
	if state == nil {
		return
	}
	w.stale = slices.DeleteFunc(w.stale, func(key netcfg.Key) bool {
		at := slices.IndexFunc(w.peers, func(p wgPeer) bool { return p.PublicKey == key })
		if at < 0 {
			return true
		}
		to := w.endpointOf(w.peers[at].endpoint)
		return !to.IsValid() || slices.ContainsFunc(state.Peers, func(p rules.WireGuardPeerState) bool { return p.PublicKey == key && p.Endpoint == to })
	})
}

// leavesBy lists the paths that the device's packets take by a plan.
func (w *wgUplink) leavesBy(report *rules.Report) []rules.Path {
	var paths []rules.Path
	for _, f := range rules.Families {
		used := w.state != nil && slices.ContainsFunc(w.state.Peers, func(p rules.WireGuardPeerState) bool {
			return p.Endpoint.IsValid() && rules.FamilyOf(p.Endpoint.Addr()) == f
		})
		if carrier := report.Carrier(w.id, f); used && carrier != 0 {
			paths = append(paths, rules.Path{Uplink: carrier, Family: f})
		}
	}
	return paths
}

// inside reports whether an address is one of the tunnel's own network, where no other end of it can be.
func (w *wgUplink) inside(a netip.Addr) bool {
	return slices.ContainsFunc(w.addresses, func(own netip.Prefix) bool { return own.Masked().Contains(a) })
}

// endpointInTunnel says which peer would be looked for inside the tunnel, "" when none would.
func (w *wgUplink) endpointInTunnel() string {
	for _, p := range w.peers {
		if to, ok := w.resolved[p.endpoint]; ok && w.inside(to.Addr()) {
			return fmt.Sprintf("endpoint %s of %s resolves to %v, inside the tunnel's own network: ignored", p.endpoint, w.device, to.Addr())
		}
	}
	return ""
}

// assignment says what one family of the uplink has: its addresses, whether it leads to the Internet, and its peers'
// networks. The addresses of a device that others make are theirs, and so are the routes unless they are to follow the
// peers.
func (w *wgUplink) assignment(family rules.Family) *rules.Assignment {
	a := &rules.Assignment{NoDefault: true}
	for _, own := range w.addresses {
		if rules.FamilyOf(own.Addr()) == family {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: own})
		}
	}
	switch {
	case w.state == nil && !w.made:
		return nil
	case w.state != nil:
		a.NoDefault = !w.state.Reaches(family)
	}
	for _, p := range w.known() {
		for _, n := range p.AllowedIPs {
			if rules.FamilyOf(n.Addr()) != family {
				continue
			}
			switch {
			case n.Bits() > internetBits(family):
				if !w.connected(n) && (w.made || w.follows) {
					a.Peers = append(a.Peers, rules.PeerNetwork{Dst: n, Alive: !w.follows || w.present.Alive(p.PublicKey)})
				}
			case w.state == nil:
				a.NoDefault = false
			}
		}
	}
	return a
}

// known lists the peers: those that are configured, or of a device of others those that it has.
func (w *wgUplink) known() []netcfg.WireGuardPeer {
	var list []netcfg.WireGuardPeer
	switch {
	case w.made:
		for _, p := range w.peers {
			list = append(list, p.WireGuardPeer)
		}
	case w.state != nil:
		for i := range w.state.Peers {
			list = append(list, w.state.Peers[i].WireGuardPeer)
		}
	}
	return list
}

// internetBits is the length of the prefixes that stand for the Internet, as pairs of them do.
func internetBits(family rules.Family) int {
	if family == rules.IPv4 {
		return 1
	}
	return 3
}

// connected reports whether the addresses lead to a network already.
func (w *wgUplink) connected(n netip.Prefix) bool {
	return slices.ContainsFunc(w.addresses, func(own netip.Prefix) bool { return own.Masked().Contains(n.Addr()) && own.Bits() <= n.Bits() })
}

// hasEndpoint reports whether it is known where to look for a peer, wherever it was last.
func (w *wgUplink) hasEndpoint(key netcfg.Key) bool {
	return slices.ContainsFunc(w.peers, func(p wgPeer) bool { return p.PublicKey == key && p.Called })
}

// innerAddress returns an address that a peer has inside the tunnel, or one of its network's, and ours of that family.
func (w *wgUplink) innerAddress(p *netcfg.WireGuardPeer) (target, source netip.Addr, ok bool) {
	for _, n := range p.AllowedIPs {
		a := n.Addr()
		if !n.IsSingleIP() {
			a = a.Next() // most networks have somebody there
		}
		if n.Bits() <= internetBits(rules.FamilyOf(a)) || target.IsValid() && !n.IsSingleIP() {
			continue
		}
		for _, own := range w.addresses {
			if own.Addr().Is4() == a.Is4() {
				target, source = a, own.Addr()
			}
		}
		if !w.made {
			target = a // the kernel knows the source
		}
		if n.IsSingleIP() && target.IsValid() {
			break
		}
	}
	return target, source, target.IsValid()
}
