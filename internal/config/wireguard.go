package config

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// WireGuard is [uplink.wireguard]: a device to be made.
type WireGuard struct {
	PrivateKeyFile string         // private_key_file: absolute path; the file's owner alone may read it
	ListenPort     int            // listen_port: UDP; 0 lets the kernel choose
	Addresses      []netip.Prefix // addresses: at least one, with prefix lengths
	MTU            int            // mtu: 0 is what fits a carrier of 1500 bytes: 1420
	Peers          []Peer         // peers: at least one
}

// Key is a public or preshared key.
type Key [32]byte

// Peer is one element of peers.
type Peer struct {
	PublicKey        Key            // public_key: unique
	PresharedKeyFile string         // preshared_key_file: absolute path; "" is none
	Endpoint         string         // endpoint: HOST:PORT; "" waits for the peer to call
	AllowedIPs       []netip.Prefix // allowed_ips: what is sent to this peer, and what may come from it
	Keepalive        time.Duration  // keepalive: 0 is none; whole seconds, at most 65535
}

const (
	titleWireGuard = "[uplink.wireguard]"
	titlePeer      = "peers"
	maxPeers       = 1024
	maxAllowedIPs  = 1024
	exampleKeyFile = "/etc/uplinkd/wg.key"
	exampleKey     = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	exampleRemoteE = "vpn.example.net:51820"
)

func wireguardSection(w *WireGuard) section {
	return section{titleWireGuard, []field{
		text("private_key_file", &w.PrivateKeyFile, exampleKeyFile, checkFile),
		integer("listen_port", &w.ListenPort, 1, 65535, nil),
		parsedList("addresses", &w.Addresses, "10.0.31.2/24", 16, parseHostPrefix),
		integer("mtu", &w.MTU, minMTU, maxMTU, nil),
		{name: "peers", takes: "a list of tables", read: func(r *reader, v *value) { r.peers(v, w) }},
	}}
}

func peerSection(p *Peer) section {
	return section{titlePeer, []field{
		parsed("public_key", &p.PublicKey, exampleKey, parseKey),
		text("preshared_key_file", &p.PresharedKeyFile, "/etc/uplinkd/wg.psk", checkFile),
		text("endpoint", &p.Endpoint, exampleRemoteE, checkEndpoint),
		parsedList("allowed_ips", &p.AllowedIPs, "10.0.31.0/24", maxAllowedIPs, parseNetwork),
		duration("keepalive", &p.Keepalive, time.Second, 65535*time.Second),
	}}
}

func checkFile(name, s string) string {
	if s == "" {
		return name + " is empty: write a path"
	}
	return checkOptionalPath(name, s)
}

// parseKey reads a key as wg(8) writes it.
func parseKey(name, s string) (Key, string) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(Key{}) {
		return Key{}, fmt.Sprintf("%s %s is not a key: write what \"wg pubkey\" prints, 44 characters ending in =", name, quote(s))
	}
	return Key(b), ""
}

// checkEndpoint checks HOST:PORT, the host being an address or a name.
func checkEndpoint(name, s string) string {
	host, port, ok := probe.SplitHostPort(s)
	if !ok || host == "" {
		return fmt.Sprintf("%s must be a host with a port, not %s: write it as in %q, an IPv6 address in brackets", name, quote(s), exampleRemoteE)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		// A program of this machine may carry the tunnel in packets of another kind (udp2raw, wstunnel).
		if why := unusable(a); why != "" && !a.IsLoopback() {
			return fmt.Sprintf("%s %s %s", name, quote(s), why)
		}
	} else if !domainForm.MatchString(host) || len(host) > 253 || strings.Trim(host, "0123456789.") == "" {
		return fmt.Sprintf("%s %s has a host that is neither an address nor a name", name, quote(s))
	}
	return checkPort(name, port)
}

// parseHostPrefix reads an address of this machine with its prefix length.
func parseHostPrefix(name, s string) (netip.Prefix, string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Sprintf("%s: %s is not an address with a prefix length: write it as in %q", name, quote(s), "10.0.31.2/24")
	}
	if why := unusable(p.Addr()); why != "" {
		return netip.Prefix{}, fmt.Sprintf("%s: %s %s", name, quote(s), why)
	}
	return p, ""
}

// parseNetwork reads a prefix without host bits.
func parseNetwork(name, s string) (netip.Prefix, string) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Sprintf("%s: %s is not a network: write it as in %q", name, quote(s), "10.0.31.0/24")
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Sprintf("%s: %s has host bits set: write %q", name, quote(s), p.Masked())
	}
	return p, ""
}

// parsedList is a list of strings that parse makes values of; parse returns a message if it cannot.
func parsedList[T comparable](name string, dst *[]T, example string, limit int, parse func(name, s string) (T, string)) field {
	return field{name: name, takes: listSuchAs(example), read: func(r *reader, v *value) {
		var words []string
		texts(name, &words, example, limit, nil).read(r, v)
		if v.bad {
			return
		}
		var list []T
		for i, w := range words {
			p, msg := parse(name, w)
			switch {
			case msg != "":
				r.fail(v, v.elems[i].off, "%s", msg)
			case slices.Contains(list, p):
				r.fail(v, v.elems[i].off, "%s: %s is given twice", name, quote(w))
			default:
				list = append(list, p)
			}
		}
		if !v.bad {
			*dst = list
		}
	}}
}

// peers reads the list of peers, inline tables or sections.
func (r *reader) peers(v *value, w *WireGuard) {
	if v.kind != kindList {
		r.wrongType(v, "peers", "a list of peers", fmt.Sprintf("[ { public_key = %q } ]", exampleKey))
		return
	}
	if len(v.elems) > maxPeers {
		r.fail(v, v.off, "peers has %d elements: there can be at most %d", len(v.elems), maxPeers)
		return
	}
	seen := make(map[string]int)
	allowed := make(map[netip.Prefix]int)
	for i, e := range v.elems {
		if e.kind != kindTable {
			r.fail(v, e.off, "peer %d must be a table, not %s: write { public_key = %q }", i+1, e.kind, exampleKey)
			continue
		}
		var p Peer
		r.section(e.table, peerSection(&p))
		r.required(e.table, "peer", "public_key", "public_key", exampleKey, base64.StdEncoding.EncodeToString(p.PublicKey[:]), seen)
		if k := e.table.values["keepalive"]; k != nil && !k.bad && p.Keepalive%time.Second != 0 {
			r.fail(k, k.off, "keepalive = %s is not a whole number of seconds", quote(k.text))
		}
		v.bad = v.bad || !e.table.usable("allowed_ips")
		for n, prefix := range p.AllowedIPs {
			at := e.table.values["allowed_ips"].elems[n].off
			if first, taken := allowed[prefix]; taken {
				// The kernel takes it away from the first peer without a word.
				r.fail(v, at, "allowed_ips: %s already belongs to another peer, at %s", prefix, r.where(first))
			}
			allowed[prefix] = at
		}
		w.Peers = append(w.Peers, p)
	}
}

// wireguard checks what a tunnel says against itself and its uplink.
func (r *reader) wireguard(t *table, u *Uplink) {
	w := t.values["wireguard"].table
	for _, key := range []struct{ name, example string }{
		{"private_key_file", strconv.Quote(exampleKeyFile)}, {"addresses", `["10.0.31.2/24"]`}, {"peers", fmt.Sprintf("[ { public_key = %q } ]", exampleKey)},
	} {
		if v := w.values[key.name]; v == nil && !w.misspelled[key.name] || v != nil && !v.bad && v.kind == kindList && len(v.elems) == 0 {
			r.errorf(w.off, "this %s has no %s: write %s = %s below, with your own", titleWireGuard, key.name, key.name, key.example)
		}
	}
	r.endpoints(w, u)
	for _, f := range []struct {
		name string
		ip   *IP
		is4  bool
	}{{"ipv4", &u.IPv4, true}, {"ipv6", &u.IPv6, false}} {
		if s := t.values[f.name]; s != nil && s.table != nil {
			if m := s.table.values["method"]; m != nil && !m.bad && f.ip.Method != MethodAuto && f.ip.Method != MethodOff {
				r.fail(m, m.off, "the addresses of this tunnel are set in %s: remove method, or write \"off\"", titleWireGuard)
			}
		}
		if len(u.WireGuard.Addresses) > 0 && !slices.ContainsFunc(u.WireGuard.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == f.is4 }) {
			f.ip.Method = MethodOff
		}
	}
	if probe := t.values["probe"]; u.PeerRoutes && !u.WireGuard.routesInternet() && (probe == nil || probe.table != nil && probe.table.values["targets"] == nil) {
		u.Probe.Targets = nil // whether a peer is there is seen of each by itself
	}
	r.checkPeerTargets(t, w, u)
	r.peerRoutes(w, u)
}

// routesInternet reports whether some peer has a default route.
func (w *WireGuard) routesInternet() bool {
	return slices.ContainsFunc(w.Peers, func(p Peer) bool {
		return slices.ContainsFunc(p.AllowedIPs, func(n netip.Prefix) bool { return n.Bits() <= 1 || n.Addr().Is6() && n.Bits() <= 3 })
	})
}

// peerRoutes refuses networks that cannot be routed by whether their peer is there.
func (r *reader) peerRoutes(w *table, u *Uplink) {
	v := w.values["peers"]
	if !u.PeerRoutes || v == nil || v.bad || v.kind != kindList {
		return
	}
	for i, p := range u.WireGuard.Peers {
		for n, net := range p.AllowedIPs {
			for _, own := range u.WireGuard.Addresses {
				if own.Bits() <= net.Bits() && own.Masked().Contains(net.Addr()) {
					e := v.elems[i].table.values["allowed_ips"]
					r.fail(e, e.elems[n].off, "peer_routes cannot follow the peer for %s, because the address %s always leads there: write that as %s/%d",
						net, own, own.Addr(), own.Addr().BitLen())
				}
			}
		}
	}
}

// endpoints refuses peers that would be looked for inside their own tunnel.
func (r *reader) endpoints(w *table, u *Uplink) {
	v := w.values["peers"]
	if v == nil || v.bad || v.kind != kindList {
		return
	}
	for i, p := range u.WireGuard.Peers {
		host, _, _ := probe.SplitHostPort(p.Endpoint)
		a, err := netip.ParseAddr(host)
		if err != nil || i >= len(v.elems) {
			continue
		}
		for _, own := range u.WireGuard.Addresses {
			if own.Masked().Contains(a) {
				e := v.elems[i].table.values["endpoint"]
				r.fail(e, e.off, "endpoint %s lies in %s, the tunnel's own network: packets would loop", quote(p.Endpoint), own.Masked())
				break
			}
		}
	}
}

// checkPeerTargets reports targets that no peer would be sent. Of those by default, these are left out: a tunnel that leads to its peers
// alone has none.
func (r *reader) checkPeerTargets(t, w *table, u *Uplink) {
	if v := w.values["peers"]; v == nil || v.bad || t.values["probe"] != nil && t.values["probe"].bad {
		return
	}
	elsewhere := func(target probe.Target) bool {
		return !slices.ContainsFunc(u.WireGuard.Peers, func(p Peer) bool {
			return slices.ContainsFunc(p.AllowedIPs, func(n netip.Prefix) bool { return n.Contains(target.Addr()) })
		})
	}
	v := t.values["probe"]
	if v == nil || v.table == nil || v.table.values["targets"] == nil {
		u.Probe.Targets = slices.DeleteFunc(slices.Clone(u.Probe.Targets), elsewhere)
		return
	}
	if !v.table.usable("targets") {
		return
	}
	for _, target := range u.Probe.Targets {
		off := target.Addr().Is4() && u.IPv4.Method == MethodOff || target.Addr().Is6() && u.IPv6.Method == MethodOff
		if !off && elsewhere(target) {
			r.errorf(v.table.offset("targets"), "target %s is in no peer's allowed_ips, so it cannot be probed through this tunnel: write targets = [\"...\"] in %s, with "+
				"addresses that it leads to", quote(target.String()), titleProbe)
			return
		}
	}
}

// masqueradeFrom checks the sources that an uplink hides.
func (r *reader) masqueradeFrom(t *table, u *Uplink) {
	for _, f := range []struct {
		name, title string
		ip          *IP
		is4         bool
	}{{"ipv4", titleIPv4, &u.IPv4, true}, {"ipv6", titleIPv6, &u.IPv6, false}} {
		s := t.values[f.name]
		if s == nil || s.table == nil || !s.table.usable("method") {
			continue
		}
		v := s.table.values["masquerade_from"]
		if v == nil || v.bad || f.ip.Method == MethodCLAT {
			continue
		}
		if f.ip.Masquerade == On || f.ip.Masquerade == Automatic && u.Kind != KindWireGuard {
			r.fail(v, v.key, "masquerade already covers all sources: write masquerade = false to translate only masquerade_from")
			continue
		}
		for i, p := range f.ip.MasqueradeFrom {
			if p.Addr().Is4() != f.is4 {
				r.fail(v, v.elems[i].off, "masquerade_from: %s does not belong to the family of %s", p, f.title)
			}
		}
	}
}
