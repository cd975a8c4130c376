package netcfg

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/encap"
)

// AliasPrefix begins the alias of each device that we have made, which makes it ours.
const AliasPrefix = "uplinkd: "

// TunnelLink is a device of one of encap.Kinds, or one that is ours.
type TunnelLink struct {
	Device       string
	encap.Params        // of another kind: only Kind
	MTU          int    // bytes
	Up           bool   // administratively
	Bridge       string // the device that it is a port of
	Alias        string

	Multicast bool // the device takes multicast
	Floods    bool // and its bridge hands it on to it
}

// Ours reports whether we have made the device.
func (l *TunnelLink) Ours() bool { return strings.HasPrefix(l.Alias, AliasPrefix) }

// FindTunnel returns the tunnel of a device, nil when there is none.
func FindTunnel(list []TunnelLink, device string) *TunnelLink {
	if i := slices.IndexFunc(list, func(l TunnelLink) bool { return l.Device == device }); i >= 0 {
		return &list[i]
	}
	return nil
}

// The changes to tunnel devices.
type (
	// AddTunnel makes a device, and gives it the alias that it is known by. It is down.
	AddTunnel struct{ TunnelLink }
	// DelTunnel removes a device of ours.
	DelTunnel struct{ Device string }
	// SetMTU changes a device's MTU, in bytes.
	SetMTU struct {
		Device string
		MTU    int
	}
	// SetMaster makes a device a port of a bridge.
	SetMaster struct{ Device, Bridge string }
	// SetUp sets a device administratively up.
	SetUp struct{ Device string }
)

// deviceOp is a change to a device.
type deviceOp interface{ device() string }

func (o AddTunnel) device() string    { return o.Device }
func (o DelTunnel) device() string    { return o.Device }
func (o SetMTU) device() string       { return o.Device }
func (o SetMaster) device() string    { return o.Device }
func (o SetUp) device() string        { return o.Device }
func (o SetWireGuard) device() string { return o.Device }

// DeviceOf returns the device that a change is one to, "" when it is none to a device itself.
func DeviceOf(op Op) string {
	if op, is := op.(deviceOp); is {
		return op.device()
	}
	return ""
}

// Command writes the change as lines for a shell.
func (o AddTunnel) Command() string {
	return fmt.Sprintf("ip link add name %s mtu %d type %s%s\nip link set dev %s alias %q", o.Device, o.MTU, o.LinkKind(), o.Args(), o.Device, o.Alias)
}

// Command writes the change as a line for a shell.
func (o DelTunnel) Command() string { return "ip link delete dev " + o.Device }

// Command writes the change as a line for a shell.
func (o SetMTU) Command() string { return fmt.Sprintf("ip link set dev %s mtu %d", o.Device, o.MTU) }

// Command writes the change as a line for a shell.
func (o SetMaster) Command() string {
	return fmt.Sprintf("ip link set dev %s master %s", o.Device, o.Bridge)
}

// Command writes the change as a line for a shell.
func (o SetUp) Command() string { return "ip link set dev " + o.Device + " up" }

// addTunnels makes and changes devices, and sets WireGuard up in them. It returns those that are to be set up when the
// rest of them is as wanted: nothing is sent before a device is whole. A device of ours that nobody wants any more goes
// last, unless the kernel takes no second one like it.
func (d *differ) addTunnels(have, want State) (up, unwanted []Op) {
	for i := range have.Tunnels {
		h := &have.Tunnels[i]
		if !h.Ours() || FindTunnel(want.Tunnels, h.Device) != nil {
			continue
		}
		same := func(w TunnelLink) bool {
			return w.Params == h.Params && h.Spec().Ends() && FindTunnel(have.Tunnels, w.Device) == nil
		}
		if slices.ContainsFunc(want.Tunnels, same) {
			d.ops = append(d.ops, DelTunnel{h.Device})
		} else {
			unwanted = append(unwanted, DelTunnel{h.Device})
		}
	}
	for _, w := range want.Tunnels {
		h := FindTunnel(have.Tunnels, w.Device)
		if h != nil && h.Params != w.Params {
			if h.Ours() {
				d.ops = append(d.ops, DelTunnel{w.Device})
			}
			h = nil
		}
		if h == nil {
			d.ops = append(d.ops, AddTunnel{w})
			h = &TunnelLink{MTU: w.MTU}
		}
		if h.MTU != w.MTU {
			d.ops = append(d.ops, SetMTU{w.Device, w.MTU})
		}
		if h.Bridge != w.Bridge {
			d.ops = append(d.ops, SetMaster{w.Device, w.Bridge})
		}
		if w.Up && !h.Up {
			up = append(up, SetUp{w.Device})
		}
	}
	for _, device := range want.Up {
		if !slices.Contains(have.Up, device) && !slices.Contains(up, Op(SetUp{device})) {
			up = append(up, SetUp{device})
		}
	}
	for i := range want.WireGuard {
		if op, differs := want.WireGuard[i].Diff(findWireGuard(have.WireGuard, want.WireGuard[i].Device)); differs {
			d.ops = append(d.ops, op)
		}
	}
	return up, unwanted
}
