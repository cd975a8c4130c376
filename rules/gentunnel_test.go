package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

const (
	firstTunnel   = 40 // id of the uplink that is the first generated tunnel
	firstUnderlay = 45
)

// drawTunnels gives the machine up to three tunnels: uplinks, and ports of a bridge.
func (w *world) drawTunnels(t *rapid.T) {
	var locals []netip.Addr
	for i := range w.cfg.Uplinks {
		if p := w.providers[w.cfg.Uplinks[i].Device][rules.IPv4]; p.address.IsValid() {
			locals = append(locals, p.address.Addr())
		}
	}
	for n := range draw(t, "tunnels", 4) {
		tunnel := rules.Tunnel{Device: fmt.Sprintf("tun%d", n+1), For: "x", Params: drawTunnelParams(t, n, locals)}
		if tunnel.Spec().Carries == encap.Frames && seldom(t, "of a bridge") {
			tunnel.Bridge = "br0"
			if _, present := w.obs.Link("br0"); !present && often(t, "bridge") {
				w.plug(rules.Link{Name: "br0", Up: true, Carrier: true, MTU: 1500})
			}
		} else {
			w.addTunnelUplink(t, n, tunnel.Device, tunnel.Kind == encap.WireGuard)
		}
		w.cfg.Tunnels = append(w.cfg.Tunnels, tunnel)
		w.drawTunnelDevice(t, n, tunnel, locals)
	}
	if flip(t, "a tunnel of an earlier run") {
		w.mustAddTunnel(netcfg.TunnelLink{Device: "old0", Alias: "uplinkd: old", MTU: 1420, Params: encap.Params{Kind: encap.WireGuard}})
	}
}

// drawTunnelParams draws the nth tunnel's, of which no other tunnel has the same.
func drawTunnelParams(t *rapid.T, n int, locals []netip.Addr) encap.Params {
	kind := rapid.SampledFrom(encap.Kinds()).Draw(t, "kind")
	p := encap.Params{Kind: kind.Name}
	if !kind.Ends() {
		return p
	}
	p.Local = netip.MustParseAddr("203.0.113.250") // nobody's
	if len(locals) > 0 && often(t, "a local address") {
		p.Local = rapid.SampledFrom(locals).Draw(t, "local")
	}
	if kind.Name == encap.SixRD {
		p.TTL, p.Prefix6, p.Prefix4 = 64, netip.MustParsePrefix(fmt.Sprintf("2001:db8:f%03x::/48", n)), netip.PrefixFrom(p.Local, 24).Masked()
		return p
	}
	p.Remote, p.TTL = netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + n)}), uint8(rapid.IntRange(1, 3).Draw(t, "ttl"))
	for _, s := range kind.Settings {
		if s.Required != "" || flip(t, s.Key) {
			s.Set(&p, uint32(n+1))
		}
	}
	return p
}

// addTunnelUplink makes a tunnel an uplink, with addresses of ours.
func (w *world) addTunnelUplink(t *rapid.T, n int, device string, wireGuard bool) {
	u := rules.Uplink{ID: firstTunnel + n, Name: device, Device: device, Tier: 1 + draw(t, "tier", 3), Weight: 1}
	s := supply{address: netip.MustParsePrefix(fmt.Sprintf("10.31.%d.2/24", n)), route: true}
	if !wireGuard {
		s.gateway = s.address.Addr().Prev()
	}
	w.providers[device] = provider{rules.IPv4: s}
	u.IPv4 = rules.Addressing{Enabled: true, Managed: true, Masquerade: flip(t, "masquerade"), Assign: s.assignment()}
	w.verdicts[rules.Path{Uplink: u.ID, Family: rules.IPv4}] = drawVerdict(t)
	if wireGuard {
		w.cfg.Underlays = append(w.cfg.Underlays, rules.Underlay{ID: firstUnderlay + n, Uplink: u.ID, Carriers: []int{w.cfg.Uplinks[0].ID}})
		w.cfg.WireGuard = append(w.cfg.WireGuard, netcfg.WireGuard{Device: device, PrivateKey: netcfg.Secret{Key: netcfg.Key{byte(n + 1)}, File: "/k"},
			FwMark: numbers.Mark(firstUnderlay + n), UnderlayTable: numbers.Table(firstUnderlay + n), Peers: drawPeers(t)})
	}
	w.cfg.Uplinks = append(w.cfg.Uplinks, u)
}

// drawPeers draws peers, each with a network of its own.
func drawPeers(t *rapid.T) []netcfg.WireGuardPeer {
	peers := []netcfg.WireGuardPeer{}
	for n := range draw(t, "peers", 3) {
		p := netcfg.WireGuardPeer{PublicKey: netcfg.Key{byte(10 + n)}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.32.%d.0/24", n))}}
		if flip(t, "endpoint") {
			p.Endpoint, p.Called = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(210 + draw(t, "host", 3))}), 51820), true
			p.ResetEndpoint = seldom(t, "a new address")
		}
		peers = append(peers, p)
	}
	return peers
}

// drawTunnelDevice may have the device be there already: as it is wanted, otherwise, or made by others.
func (w *world) drawTunnelDevice(t *rapid.T, n int, tunnel rules.Tunnel, locals []netip.Addr) {
	l := netcfg.TunnelLink{Device: tunnel.Device, Params: tunnel.Params, MTU: 1400, Alias: "uplinkd: x"}
	switch draw(t, "device", 5) {
	case 0:
		l.Params = drawTunnelParams(t, n, locals)
	case 1:
		l.Alias = ""
	case 2:
	default:
		return
	}
	w.mustAddTunnel(l)
	if l.Kind == encap.WireGuard {
		d := &w.obs.WireGuard[len(w.obs.WireGuard)-1]
		for _, p := range drawPeers(t) {
			p.ResetEndpoint, p.Called = false, false
			d.Peers = append(d.Peers, rules.WireGuardPeerState{WireGuardPeer: p})
		}
	}
}

// mustAddTunnel makes a device that is up.
func (w *world) mustAddTunnel(l netcfg.TunnelLink) {
	if w.applyTunnel(netcfg.AddTunnel{TunnelLink: l}) != nil || w.applyTunnel(netcfg.SetUp{Device: l.Device}) != nil {
		panic("the model has no place for " + l.Device)
	}
	w.obs.Tunnels[len(w.obs.Tunnels)-1].Alias = l.Alias
}

func (w *world) isUnderlay(id int) bool {
	return slices.ContainsFunc(w.cfg.Underlays, func(u rules.Underlay) bool { return u.ID == id })
}

// tunnelName reports whether a device is called as generated tunnels are.
func tunnelName(device string) bool { return strings.HasPrefix(device, "tun") || device == "old0" }
