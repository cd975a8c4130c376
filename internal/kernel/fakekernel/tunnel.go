package fakekernel

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// addTunnel makes a device; there is one of each name.
func (k *Kernel) addTunnel(op netcfg.AddTunnel) error {
	if _, exists := k.obs.Link(op.Device); exists {
		return unix.EEXIST
	}
	index := 1
	for _, l := range k.obs.Links {
		index = max(index, l.Index+1)
	}
	k.obs.Links = append(k.obs.Links, rules.Link{Name: op.Device, Index: index, MTU: op.MTU})
	t := op.TunnelLink
	t.Up, t.Bridge, t.Multicast = false, "", true
	k.obs.Tunnels = append(k.obs.Tunnels, t)
	if op.Kind == encap.WireGuard {
		k.obs.WireGuard = append(k.obs.WireGuard, rules.WireGuardDevice{Device: op.Device})
	}
	return nil
}

// delTunnel removes a device and what hangs on it.
func (k *Kernel) delTunnel(device string) {
	o := &k.obs
	o.Links = slices.DeleteFunc(o.Links, func(l rules.Link) bool { return l.Name == device })
	o.Tunnels = slices.DeleteFunc(o.Tunnels, func(t netcfg.TunnelLink) bool { return t.Device == device })
	o.WireGuard = slices.DeleteFunc(o.WireGuard, func(d rules.WireGuardDevice) bool { return d.Device == device })
	o.Addrs = slices.DeleteFunc(o.Addrs, func(a rules.Addr) bool { return a.Device == device })
	o.Routes = slices.DeleteFunc(o.Routes, func(r netcfg.Route) bool {
		return slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device })
	})
}

func (k *Kernel) changeTunnel(device string, change func(*rules.Link, *netcfg.TunnelLink)) error {
	l := slices.IndexFunc(k.obs.Links, func(l rules.Link) bool { return l.Name == device })
	t := slices.IndexFunc(k.obs.Tunnels, func(t netcfg.TunnelLink) bool { return t.Device == device })
	if l < 0 || t < 0 {
		return unix.ENODEV
	}
	change(&k.obs.Links[l], &k.obs.Tunnels[t])
	return nil
}

// setUp sets a device up, with carrier.
func (k *Kernel) setUp(device string) error {
	for i := range k.obs.Tunnels {
		k.obs.Tunnels[i].Up = k.obs.Tunnels[i].Up || k.obs.Tunnels[i].Device == device
	}
	for i := range k.obs.Links {
		if l := &k.obs.Links[i]; l.Name == device {
			l.Up, l.Carrier = true, true
			return nil
		}
	}
	return unix.ENODEV
}

func (k *Kernel) setWireGuard(op netcfg.SetWireGuard) error {
	at := slices.IndexFunc(k.obs.WireGuard, func(d rules.WireGuardDevice) bool { return d.Device == op.Device })
	if at < 0 {
		return unix.ENODEV
	}
	SetWireGuard(&k.obs.WireGuard[at], op)
	return nil
}

// SetWireGuard does to a device what the kernel does.
func SetWireGuard(d *rules.WireGuardDevice, op netcfg.SetWireGuard) {
	if op.FwMark != nil {
		d.FwMark = *op.FwMark
	}
	if op.ListenPort != 0 {
		d.ListenPort = op.ListenPort
	}
	if op.PrivateKey.File != "" {
		d.PrivateKey = op.PrivateKey.Key
	}
	peers := slices.Clone(d.Peers)
	for _, c := range op.Peers {
		at := slices.IndexFunc(peers, func(p rules.WireGuardPeerState) bool { return p.PublicKey == c.PublicKey })
		switch {
		case at < 0 && (c.Known || c.Remove):
			continue
		case at < 0:
			at = len(peers)
			peers = append(peers, rules.WireGuardPeerState{WireGuardPeer: netcfg.WireGuardPeer{PublicKey: c.PublicKey}})
		case c.Remove:
			peers = slices.Delete(peers, at, at+1)
			continue
		}
		p := &peers[at]
		if c.Endpoint.IsValid() {
			p.Endpoint = c.Endpoint
		}
		if !c.EndpointOnly {
			p.Preshared, p.Keepalive, p.AllowedIPs = netcfg.Secret{Key: c.Preshared.Key}, c.Keepalive, c.AllowedIPs
			for i := range peers { // a network is one peer's
				if i != at {
					peers[i].AllowedIPs = slices.DeleteFunc(slices.Clone(peers[i].AllowedIPs), func(n netip.Prefix) bool { return slices.Contains(c.AllowedIPs, n) })
				}
			}
		}
	}
	d.Peers = peers
}
