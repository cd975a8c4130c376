package planinput

import (
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// tunnelsOf lists the devices that a configuration wants made.
func tunnelsOf(c *config.Config) []rules.Tunnel {
	var list []rules.Tunnel
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		switch {
		case u.Ethernet != nil:
			list = append(list, ethernetTunnel(u.Ethernet, u.Device, u.Name, ""))
		case u.WireGuard != nil:
			list = append(list, rules.Tunnel{Device: u.Device, For: u.Name, MTU: u.WireGuard.MTU, TunnelParams: rules.TunnelParams{Kind: rules.WireGuardKind}})
		}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		list = append(list, ethernetTunnel(&t.Ethernet, t.Device, "tunnel "+t.Device, t.Bridge))
	}
	return list
}

func ethernetTunnel(e *config.Ethernet, device, purpose, bridge string) rules.Tunnel {
	t := rules.Tunnel{Device: device, For: purpose, MTU: e.MTU, Bridge: bridge, TunnelParams: rules.TunnelParams{Kind: e.Kind, Local: e.Local, Remote: e.Remote,
		TTL: uint8(e.TTL), ID: uint32(e.ID), Port: uint16(e.Port)}}
	if e.Kind == config.KindGRETAP && e.Key >= 0 {
		t.Key, t.HasKey = uint32(e.Key), true
	}
	t.Fragment = bridge != "" && e.Kind == config.KindGRETAP && e.Local.Is4()
	return t
}

// WithoutMarks has the WireGuard devices that others made carry no mark of ours any more.
func WithoutMarks(c *config.Config) []rules.WireGuard {
	var list []rules.WireGuard
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.Kind == config.KindWireGuard && u.WireGuard == nil {
			list = append(list, rules.WireGuard{Device: u.Device})
		}
	}
	return list
}
