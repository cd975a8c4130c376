package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The kinds of devices, as the kernel calls them where the outer packets are of IPv4.
const (
	GRETAP    = "gretap"
	VXLAN     = "vxlan"
	WireGuard = "wireguard"
)

// tag begins the alias of each device that we have made.
const tag = "uplinkd: "

// Params are what makes one tunnel device another than the next. The kernel cannot change most of them in place.
type Params struct {
	Kind          string
	Local, Remote netip.Addr
	TTL           uint8
	Key           uint32 // GRETAP, of both directions
	HasKey        bool
	ID            uint32 // VXLAN
	Port          uint16 // VXLAN, UDP
	// Fragment lets outer packets be fragmented on their way, whatever the inner ones say: a bridge passes on frames of
	// its own MTU, and drops without a word what its port does not take. GRETAP over IPv4 only.
	Fragment bool
}

// Spec is a device that is wanted.
type Spec struct {
	Device string
	For    string // the uplink, or what else it is for; for people
	Params
	MTU    int    // bytes; 0 is what fits the carrier, or with a bridge the bridge's
	Bridge string // that the device shall be a port of; "" for none
}

// Link is a device that is there.
type Link struct {
	Device string
	Params        // of the kinds above; else only Kind
	MTU    int    // bytes
	Up     bool   // administratively
	Bridge string // the device that it is a port of
	Alias  string

	Multicast bool // the device takes multicast
	Floods    bool // and its bridge hands it on to it
}

// Ours reports whether we have made the device.
func (l *Link) Ours() bool { return strings.HasPrefix(l.Alias, tag) }

// Alias is how a device of ours is known.
func (s *Spec) Alias() string { return tag + s.For }

// Change is one step towards the wanted devices; exactly one field is set. Line writes it for people.
type Change struct {
	Make   *Made
	Remove string
	MTU    *SetMTU
	Up     string
	Join   *Join
}

// Made is a device with all that it is made of.
type Made struct {
	Spec
	MTU int // what was worked out
}

// SetMTU changes a device's MTU.
type SetMTU struct {
	Device string
	MTU    int
}

// Join makes a device a port of a bridge.
type Join struct{ Device, Bridge string }

// Line writes the change as a command.
func (c Change) Line() string {
	switch {
	case c.Make != nil:
		return c.Make.line()
	case c.Remove != "":
		return "ip link delete dev " + c.Remove
	case c.MTU != nil:
		return fmt.Sprintf("ip link set dev %s mtu %d", c.MTU.Device, c.MTU.MTU)
	case c.Up != "":
		return "ip link set dev " + c.Up + " up"
	case c.Join != nil:
		return fmt.Sprintf("ip link set dev %s master %s", c.Join.Device, c.Join.Bridge)
	}
	return ""
}

func (m *Made) line() string {
	kind := m.Kind
	if kind == GRETAP && m.Local.Is6() {
		kind = "ip6gretap"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ip link add name %s alias %q mtu %d type %s", m.Device, m.Alias(), m.MTU, kind)
	switch m.Kind {
	case WireGuard:
		return b.String()
	case VXLAN:
		fmt.Fprintf(&b, " id %d dstport %d", m.ID, m.Port)
	}
	fmt.Fprintf(&b, " local %v remote %v ttl %d", m.Local, m.Remote, m.TTL)
	if m.HasKey {
		fmt.Fprintf(&b, " key %d", m.Key)
	}
	switch {
	case m.Fragment:
		b.WriteString(" nopmtudisc ignore-df")
	case kind == "ip6gretap":
		b.WriteString(" encaplimit none")
	}
	return b.String()
}

// Problem is what keeps a device from being as it is wanted.
type Problem struct {
	Device, Message, Fix string
	// Waiting is true when it passes as soon as something else is there.
	Waiting bool
}

// World is what Decide looks at besides the tunnels themselves.
type World struct {
	Links []Link
	// Carrier returns the MTU of the device that has an address; false when none has it.
	Carrier func(local netip.Addr) (mtu int, ok bool)
}

// find returns the device of a name, nil when there is none.
func (w *World) find(device string) *Link {
	if i := slices.IndexFunc(w.Links, func(l Link) bool { return l.Device == device }); i >= 0 {
		return &w.Links[i]
	}
	return nil
}

// Decide lists what must change for exactly the wanted devices to be there. Devices of ours that nobody wants any more
// go; those of others are never changed, except that one which is wanted may become a port of its bridge.
func Decide(wanted []Spec, w World) ([]Change, []Problem) {
	var changes []Change
	var problems []Problem
	for i := range w.Links {
		l := &w.Links[i]
		if l.Ours() && !slices.ContainsFunc(wanted, func(s Spec) bool { return s.Device == l.Device }) {
			changes = append(changes, Change{Remove: l.Device})
		}
	}
	for _, s := range wanted {
		more, problem := s.decide(&w)
		changes = append(changes, more...)
		if problem != nil {
			problems = append(problems, *problem)
		}
	}
	return changes, problems
}

func (s *Spec) decide(w *World) ([]Change, *Problem) {
	if s.Bridge != "" && w.find(s.Bridge) == nil {
		return nil, &Problem{Device: s.Device, Message: fmt.Sprintf("the bridge %s of tunnel %s is not there", s.Bridge, s.Device),
			Fix: "make it, or name another", Waiting: true}
	}
	mtu, ok := s.mtu(w)
	if !ok {
		return nil, &Problem{Device: s.Device, Message: fmt.Sprintf("no device has %v, where tunnel %s begins", s.Local, s.Device),
			Fix: "it is made as soon as a device has the address", Waiting: true}
	}
	have := w.find(s.Device)
	switch {
	case have == nil:
		return s.make(mtu), nil
	case have.Params == s.Params:
	case have.Ours():
		return append([]Change{{Remove: s.Device}}, s.make(mtu)...), nil
	default:
		return nil, &Problem{Device: s.Device, Message: fmt.Sprintf("%s is there already, made by others, and is not the %s that is wanted", s.Device, s.Kind),
			Fix: fmt.Sprintf("remove it (ip link delete dev %s), or take its section out of the configuration", s.Device)}
	}
	var changes []Change
	if have.Ours() && have.MTU != mtu {
		changes = append(changes, Change{MTU: &SetMTU{s.Device, mtu}})
	}
	if s.Bridge != "" && have.Bridge != s.Bridge {
		changes = append(changes, Change{Join: &Join{s.Device, s.Bridge}})
	}
	return changes, nil
}

// make makes the device and sets it up, last: nothing is sent before it is whole.
func (s *Spec) make(mtu int) []Change {
	changes := []Change{{Make: &Made{*s, mtu}}}
	if s.Bridge != "" {
		changes = append(changes, Change{Join: &Join{s.Device, s.Bridge}})
	}
	return append(changes, Change{Up: s.Device})
}

// Bytes of the headers around a frame's content, the frame's own included.
const (
	ethernetHeader = 14
	ipv4Header     = 20
	ipv6Header     = 40
	greHeader      = 4 // RFC 2784 section 2.1
	greKey         = 4 // RFC 2890 section 2.1
	vxlanHeaders   = 8 + 8
	// wireguardOverhead is what the kernel itself takes off: an IPv6 header, UDP, and 32 bytes of its own.
	wireguardOverhead = 80
	usualMTU          = 1500
	leastMTU          = 1280 // RFC 8200 section 5
)

// Overhead is how many bytes each packet grows by.
func (p *Params) Overhead() int {
	if p.Kind == WireGuard {
		return wireguardOverhead
	}
	n := ethernetHeader + ipv4Header
	if p.Local.Is6() {
		n = ethernetHeader + ipv6Header
	}
	switch {
	case p.Kind == VXLAN:
		n += vxlanHeaders
	case p.HasKey:
		n += greHeader + greKey
	default:
		n += greHeader
	}
	return n
}

// mtu works out a device's MTU; false when what carries it is not there. A bridge hands each port what the others take,
// so there the bridge's counts; the tunnel's packets are fragmented where they do not fit.
func (s *Spec) mtu(w *World) (int, bool) {
	carrier := usualMTU
	if s.Kind != WireGuard {
		var ok bool
		if carrier, ok = w.Carrier(s.Local); !ok {
			return 0, false
		}
	}
	switch {
	case s.MTU > 0:
		return s.MTU, true
	case s.Bridge != "" && s.Fragment:
		return w.find(s.Bridge).MTU, true
	}
	return max(carrier-s.Overhead(), leastMTU), true
}
