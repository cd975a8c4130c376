package daemon

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
)

// wired is a WireGuard uplink.
type wired struct {
	id        int
	device    string
	made      bool // by us; else somebody else configures it, and only its mark is ours
	mark      uint32
	addresses []netip.Prefix
	private   tunnel.Key
	port      int
	peers     []wiredPeer
	carrier   [2]int       // id of the uplink that carries it, by family, as it was last set
	leaves    []rules.Path // by what its packets leave, in the families of its peers' endpoints
	state     *tunnel.State
	resolved  map[string]netip.AddrPort // endpoints, by how they are written
	stale     []tunnel.Key              // peers whose endpoint has a new address
	follows   bool                      // peers' networks are routed only while the peer is there
	present   *tunnel.Peers             // of one that follows them
}

type wiredPeer struct {
	tunnel.Peer
	endpoint string // as written; "" for none
}

func newWired(u *config.Uplink, id int, mark uint32) *wired {
	w := &wired{id: id, device: u.Device, mark: mark, resolved: make(map[string]netip.AddrPort), follows: u.PeerRoutes, present: new(tunnel.Peers)}
	c := u.WireGuard
	if c == nil {
		return w
	}
	w.made, w.addresses, w.port = true, c.Addresses, c.ListenPort
	for _, p := range c.Peers {
		if a, err := netip.ParseAddrPort(p.Endpoint); err == nil {
			w.resolved[p.Endpoint] = a
		}
		w.peers = append(w.peers, wiredPeer{endpoint: p.Endpoint,
			Peer: tunnel.Peer{PublicKey: tunnel.Key(p.PublicKey), AllowedIPs: p.AllowedIPs, Keepalive: p.Keepalive}})
	}
	return w
}

// readKeys reads the keys that a device of ours needs.
func (w *wired) readKeys(c *config.WireGuard) (err error) {
	if c == nil {
		return nil
	}
	if w.private, err = readKey(c.PrivateKeyFile); err != nil {
		return err
	}
	for i, p := range c.Peers {
		if p.PresharedKeyFile == "" {
			continue
		}
		if w.peers[i].Preshared, err = readKey(p.PresharedKeyFile); err != nil {
			return err
		}
	}
	return nil
}

// readKey reads a key that nobody else may read.
func readKey(file string) (tunnel.Key, error) {
	info, err := os.Stat(file)
	if err != nil {
		return tunnel.Key{}, fmt.Errorf("reading a key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return tunnel.Key{}, fmt.Errorf("others may read the key file %s (mode %#o): chmod 600 %s", file, info.Mode().Perm(), file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return tunnel.Key{}, fmt.Errorf("reading a key: %w", err)
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != len(tunnel.Key{}) {
		return tunnel.Key{}, fmt.Errorf("%s holds no key: it is what \"wg genkey\" prints", file)
	}
	return tunnel.Key(b), nil
}

// look looks at a device for the first time, so that what is planned first keeps what an earlier run has routed.
func (w *wired) look(wires *wires) {
	if state, err := wires.state(w.device); err == nil {
		w.state = state
		w.present.Begin(time.Now(), state)
	}
}

// marked reports whether the device's packets carry the mark of the underlay. With it the kernel forgets the address
// that a peer has called when the mark's route leads by another device (drivers/net/wireguard/socket.c send4), and the
// peer is answered from an address that it knows nothing of. So only a device that calls all of its peers has it. What
// others have configured for a peer is not known, but who leads to the Internet is called.
func (w *wired) marked() bool {
	if w.made {
		return !slices.ContainsFunc(w.peers, func(p wiredPeer) bool { return p.endpoint == "" })
	}
	return w.state != nil && (w.state.Reaches(true) || w.state.Reaches(false))
}

// calls lists the other ends that a device without the mark calls.
func (w *wired) calls() []netip.AddrPort {
	if w.marked() {
		return nil
	}
	var list []netip.AddrPort
	for _, p := range w.peers {
		if to, ok := w.resolved[p.endpoint]; ok && !w.inside(to.Addr()) && !slices.Contains(list, to) {
			list = append(list, to)
		}
	}
	return list
}

// called reports whether we call a peer.
func (w *wired) called(peer tunnel.Key) bool {
	return w.marked() || slices.ContainsFunc(w.peers, func(p wiredPeer) bool { return p.PublicKey == peer && p.endpoint != "" })
}

// config is what the device shall hold.
func (w *wired) config() tunnel.Config {
	c := tunnel.Config{}
	if w.marked() {
		c.FwMark = w.mark
	}
	if !w.made {
		return c
	}
	c.PrivateKey, c.ListenPort, c.Peers = &w.private, w.port, make([]tunnel.Peer, 0, len(w.peers))
	for _, p := range w.peers {
		if to, ok := w.resolved[p.endpoint]; ok && !w.inside(to.Addr()) {
			p.Endpoint = to
		}
		c.Peers = append(c.Peers, p.Peer)
	}
	return c
}

// leavesBy lists the paths that the device's packets take by a plan.
func (w *wired) leavesBy(report *rules.Report) []rules.Path {
	var paths []rules.Path
	for _, f := range rules.Families {
		used := w.state != nil && slices.ContainsFunc(w.state.Peers, func(p tunnel.PeerState) bool {
			return p.Endpoint.IsValid() && rules.FamilyOf(p.Endpoint.Addr()) == f
		})
		if carrier := report.Carrier(w.id, f); used && carrier != 0 {
			paths = append(paths, rules.Path{Uplink: carrier, Family: f})
		}
	}
	return paths
}

// inside reports whether an address is one of the tunnel's own network, where no other end of it can be.
func (w *wired) inside(a netip.Addr) bool {
	return slices.ContainsFunc(w.addresses, func(own netip.Prefix) bool { return own.Masked().Contains(a) })
}

// loops says which peer would be looked for inside the tunnel, "" when none would.
func (w *wired) loops() string {
	for _, p := range w.peers {
		if to, ok := w.resolved[p.endpoint]; ok && w.inside(to.Addr()) {
			return fmt.Sprintf("endpoint %s of %s resolves to %v, inside the tunnel's own network: it is not used", p.endpoint, w.device, to.Addr())
		}
	}
	return ""
}

// assignment says what one family of the uplink has: its addresses, whether it leads to the Internet, and its peers'
// networks. The addresses of a device that others make are theirs, and so are the routes unless they are to follow the
// peers.
func (w *wired) assignment(is4 bool) *rules.Assignment {
	a := &rules.Assignment{NoDefault: true}
	for _, own := range w.addresses {
		if own.Addr().Is4() == is4 {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: own})
		}
	}
	switch {
	case w.state == nil && !w.made:
		return nil
	case w.state != nil:
		a.NoDefault = !w.state.Reaches(is4)
	}
	for _, p := range w.known() {
		for _, n := range p.AllowedIPs {
			if n.Addr().Is4() != is4 {
				continue
			}
			switch {
			case n.Bits() > leastBits(is4):
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
func (w *wired) known() []tunnel.Peer {
	var list []tunnel.Peer
	switch {
	case w.made:
		for _, p := range w.peers {
			list = append(list, p.Peer)
		}
	case w.state != nil:
		for i := range w.state.Peers {
			list = append(list, w.state.Peers[i].Peer)
		}
	}
	return list
}

// leastBits is the length of the prefixes that stand for the Internet, as pairs of them do.
func leastBits(is4 bool) int {
	if is4 {
		return 1
	}
	return 3
}

// connected reports whether the addresses lead to a network already.
func (w *wired) connected(n netip.Prefix) bool {
	return slices.ContainsFunc(w.addresses, func(own netip.Prefix) bool { return own.Masked().Contains(n.Addr()) && own.Bits() <= n.Bits() })
}

const (
	resolveEvery    = 5 * time.Second  // how often names without an address are asked for
	resolveAgain    = 30 * time.Second // how often a dead tunnel's are
	resolvePatience = 4 * time.Second
)

// resolve keeps the names of endpoints resolved: until they have an address, and again while their tunnel is dead.
func (t *tunnels) resolve(ctx context.Context, dead func(id int) bool, changed func()) error {
	ticker := time.NewTicker(resolveEvery)
	defer ticker.Stop()
	asked := make(map[string]time.Time)
	for {
		for endpoint, mark := range t.unresolved(dead, asked) {
			asked[endpoint] = time.Now()
			if to, err := lookUp(ctx, endpoint, mark); err != nil {
				t.log.Warn("an endpoint is not found", "endpoint", endpoint, "err", err)
			} else if t.found(endpoint, to) {
				changed()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// unresolved lists the endpoints to ask for, with the mark that a tunnel's own packets have.
func (t *tunnels) unresolved(dead func(id int) bool, asked map[string]time.Time) map[string]uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make(map[string]uint32)
	for _, w := range t.wired {
		for _, p := range w.peers {
			if _, err := netip.ParseAddrPort(p.endpoint); err == nil || p.endpoint == "" {
				continue
			}
			_, known := w.resolved[p.endpoint]
			if !known || dead(w.id) && time.Since(asked[p.endpoint]) >= resolveAgain {
				list[p.endpoint] = w.mark
			}
		}
	}
	return list
}

// found takes an endpoint's address over, and has peers that are believed elsewhere be sought there.
func (t *tunnels) found(endpoint string, to netip.AddrPort) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.wired {
		for _, p := range w.peers {
			if p.endpoint != endpoint || w.resolved[endpoint] == to {
				continue
			}
			w.resolved[endpoint], changed = to, true
			w.stale = append(w.stale, p.PublicKey)
		}
	}
	return changed
}

// lookUp asks for the address of HOST:PORT over the way that a tunnel's packets take.
func lookUp(ctx context.Context, endpoint string, mark uint32) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.LookupPort("udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		if err == nil {
			err = failed
		}
		return err
	}}
	resolver := net.Resolver{PreferGo: true, Dial: dialer.DialContext}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}
