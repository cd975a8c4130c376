package planinput

import (
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// tunnelsOf lists the devices that a configuration wants made.
func tunnelsOf(c *config.Config, learned Learned) []rules.Tunnel {
	var list []rules.Tunnel
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		switch {
		case u.Encap != nil:
			list = append(list, rules.Tunnel{Device: u.Device, For: u.Name, MTU: u.Encap.MTU, Params: u.Encap.Params})
		case u.IPv6.SixRD != nil:
			if s, ok := SixRDOf(c, u, learned); ok {
				list = append(list, rules.Tunnel{Device: u.Device, For: u.Name, Params: encap.Params{Kind: encap.SixRD, Local: s.Local, TTL: ttl6RD, Prefix6: s.Prefix6, Prefix4: s.Prefix4}})
			}
		case u.WireGuard != nil:
			list = append(list, rules.Tunnel{Device: u.Device, For: u.Name, MTU: u.WireGuard.MTU, Params: encap.Params{Kind: encap.WireGuard}})
		}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		far := rules.Tunnel{Device: t.Device, For: "tunnel " + t.Device, MTU: t.MTU, Bridge: t.Bridge, Params: t.Params}
		far.Fragment = far.CanFragment()
		list = append(list, far)
	}
	return list
}

// WithoutMarks has the WireGuard devices that others made carry no mark of ours any more.
func WithoutMarks(c *config.Config) []netcfg.WireGuard {
	var list []netcfg.WireGuard
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.Kind == config.KindWireGuard && u.WireGuard == nil {
			list = append(list, netcfg.WireGuard{Device: u.Device})
		}
	}
	return list
}
