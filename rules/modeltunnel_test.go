package rules_test

import (
	"errors"
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// applyTunnel carries out a change to a tunnel device.
func (m *machine) applyTunnel(op netcfg.Op) error {
	switch op := op.(type) {
	case netcfg.AddTunnel:
		return m.addTunnel(op)
	case netcfg.DelTunnel:
		m.unplug(op.Device)
		m.obs.Tunnels = slices.DeleteFunc(m.obs.Tunnels, func(t netcfg.TunnelLink) bool { return t.Device == op.Device })
		m.obs.WireGuard = slices.DeleteFunc(m.obs.WireGuard, func(d rules.WireGuardDevice) bool { return d.Device == op.Device })
	case netcfg.SetMTU:
		return m.changeTunnel(op.Device, func(l *rules.Link, t *netcfg.TunnelLink) { l.MTU, t.MTU = op.MTU, op.MTU })
	case netcfg.SetMaster:
		return m.changeTunnel(op.Device, func(_ *rules.Link, t *netcfg.TunnelLink) { t.Bridge, t.Floods = op.Bridge, true })
	case netcfg.SetUp:
		err := m.changeTunnel(op.Device, func(l *rules.Link, t *netcfg.TunnelLink) {
			l.Up, l.Carrier, t.Up = true, true, true
			if t.Spec().LinkLocal {
				m.addLinkLocal(l)
			}
		})
		return err
	case netcfg.SetWireGuard:
		i := slices.IndexFunc(m.obs.WireGuard, func(d rules.WireGuardDevice) bool { return d.Device == op.Device })
		if i < 0 {
			return errors.New("no such device")
		}
		fakekernel.SetWireGuard(&m.obs.WireGuard[i], op)
	case netcfg.AddEndpoint, netcfg.ChangeEndpoint, netcfg.DelEndpoint, netcfg.SetSubflows:
		m.obs.MPTCP = fakekernel.ChangeMPTCP(m.obs.MPTCP, op)
	case netcfg.AddProxyNeighbour:
		m.obs.Proxied = fakekernel.AddProxied(m.obs.Proxied, op.ProxyNeighbour)
	case netcfg.DelProxyNeighbour:
		m.obs.Proxied = fakekernel.WithoutProxied(m.obs.Proxied, op.ProxyNeighbour)
	default:
		return fmt.Errorf("unknown change %T", op)
	}
	return nil
}

// addTunnel is rtnl_newlink: a name is there once, and so are the ends of a tunnel.
func (m *machine) addTunnel(op netcfg.AddTunnel) error {
	if _, exists := m.obs.Link(op.Device); exists {
		return errors.New("file exists")
	}
	m.obs.Tunnels = slices.DeleteFunc(m.obs.Tunnels, func(t netcfg.TunnelLink) bool { return !m.present(t.Device) })
	m.obs.WireGuard = slices.DeleteFunc(m.obs.WireGuard, func(d rules.WireGuardDevice) bool { return !m.present(d.Device) })
	if slices.ContainsFunc(m.obs.Tunnels, func(t netcfg.TunnelLink) bool {
		return t.Params == op.Params && t.Spec().Ends()
	}) {
		return errors.New("file exists: a tunnel of these ends")
	}
	m.plug(rules.Link{Name: op.Device, MTU: op.MTU})
	t := op.TunnelLink
	t.Up, t.Bridge, t.Multicast = false, "", true
	m.obs.Tunnels = append(m.obs.Tunnels, t)
	if op.Kind == encap.WireGuard {
		m.obs.WireGuard = append(m.obs.WireGuard, rules.WireGuardDevice{Device: op.Device})
	}
	return nil
}

func (m *machine) changeTunnel(device string, change func(*rules.Link, *netcfg.TunnelLink)) error {
	l := slices.IndexFunc(m.obs.Links, func(l rules.Link) bool { return l.Name == device })
	t := slices.IndexFunc(m.obs.Tunnels, func(t netcfg.TunnelLink) bool { return t.Device == device })
	if l < 0 || t < 0 {
		return errors.New("no such device")
	}
	change(&m.obs.Links[l], &m.obs.Tunnels[t])
	return nil
}
