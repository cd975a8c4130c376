package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The kinds of uplinks that are tunnels, and of [[tunnel]].
const (
	KindWireGuard = "wireguard"
	KindGRETAP    = "gretap" // Ethernet in GRE (RFC 2784), over IPv4 or IPv6
	KindVXLAN     = "vxlan"  // Ethernet in UDP (RFC 7348), between two ends
)

// MaxTunnels is how many [[tunnel]] sections there may be.
const MaxTunnels = 64

// Ethernet is a tunnel that carries Ethernet frames to one other end: [uplink.gretap], [uplink.vxlan], or what a
// [[tunnel]] says of it.
type Ethernet struct {
	Kind   string
	Local  netip.Addr // local: an address of this machine
	Remote netip.Addr // remote: that of the other end, of the same family
	TTL    int        // ttl: of the packets that carry frames; 1..255
	Key    int64      // key: gretap only, of both directions; -1 is none
	ID     int        // id: vxlan only, the network identifier; 1..16777215
	Port   int        // port: vxlan only, UDP
	MTU    int        // mtu: of the frames' content; 0 is what fits
}

// Tunnel is one [[tunnel]] section: the far end of somebody else's uplink, joined with a bridge of this machine.
type Tunnel struct {
	Device string // device: unique, and no uplink's
	Bridge string // bridge: exists already, made by others
	Ethernet
}

const (
	titleTunnel   = "[[tunnel]]"
	titleGRETAP   = "[uplink.gretap]"
	titleVXLAN    = "[uplink.vxlan]"
	exampleLocal  = "198.51.100.2"
	exampleRemote = "203.0.113.2"
	minMTU        = 1280 // what IPv6 needs (RFC 8200 section 5)
	maxMTU        = 65535
	vxlanPort     = 4789 // RFC 7348 section 5
	maxKey        = 1<<32 - 1
	maxVNI        = 1<<24 - 1
)

func defaultEthernet(kind string) Ethernet {
	e := Ethernet{Kind: kind, TTL: 64, Key: -1}
	if kind == KindVXLAN {
		e.Port = vxlanPort
	}
	return e
}

func gretapSection(e *Ethernet) section {
	return section{titleGRETAP, append(ethernetFields(e), keyField(e))}
}

func vxlanSection(e *Ethernet) section {
	return section{titleVXLAN, append(ethernetFields(e),
		integer("id", &e.ID, 1, maxVNI, nil),
		integer("port", &e.Port, 1, 65535, nil))}
}

// ethernetTable is the section of an uplink that makes such a tunnel.
func ethernetTable(u *Uplink, kind, title string, of func(*Ethernet) section) field {
	return subtable(kind, title, func(r *reader, t *table) {
		e := defaultEthernet(kind)
		u.Ethernet = &e
		r.section(t, of(&e))
	})
}

func ethernetFields(e *Ethernet) []field {
	return []field{
		parsed("local", &e.Local, exampleLocal, parseEnd),
		parsed("remote", &e.Remote, exampleRemote, parseEnd),
		integer("ttl", &e.TTL, 1, 255, nil),
		integer("mtu", &e.MTU, minMTU, maxMTU, nil),
	}
}

func keyField(e *Ethernet) field {
	return field{"key", func(r *reader, v *value) {
		var key uint32
		integer("key", &key, 0, maxKey, nil).read(r, v)
		e.Key = int64(key)
	}}
}

func tunnelSection(t *Tunnel) section {
	return section{titleTunnel, append(append(ethernetFields(&t.Ethernet),
		text("device", &t.Device, "op2-gre1", checkDevice),
		text("bridge", &t.Bridge, "br-wan", checkDevice),
		choice("kind", &t.Kind, []string{KindGRETAP, KindVXLAN}, nil),
		keyField(&t.Ethernet)),
		integer("id", &t.ID, 1, maxVNI, nil),
		integer("port", &t.Port, 1, 65535, nil))}
}

// parseEnd reads the address of one end of a tunnel.
func parseEnd(name, s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Sprintf("%s must be an IPv4 or IPv6 address without a zone, and %s is none: write it as in %q", name, quote(s), exampleRemote)
	}
	if why := unusable(a); why != "" {
		return netip.Addr{}, fmt.Sprintf("%s %s %s", name, a, why)
	}
	return a, ""
}

// ethernet checks what must fit together at the two ends of a tunnel; title is where it stands.
func (r *reader) ethernet(t *table, title string, e *Ethernet) {
	for _, end := range []struct{ key, example string }{{"local", exampleLocal}, {"remote", exampleRemote}} {
		if t.values[end.key] == nil && !t.misspelled[end.key] {
			r.errorf(t.off, "this %s has no %s: write %s = %q below, with your own", title, end.key, end.key, end.example)
		}
	}
	if t.values["id"] == nil && e.Kind == KindVXLAN && t.usable("kind") {
		r.errorf(t.off, "this %s has no id: write id = 42 below, the same at both ends", title)
	}
	if l, remote := t.values["local"], t.values["remote"]; l != nil && remote != nil && !l.bad && !remote.bad {
		switch {
		case e.Local == e.Remote:
			r.fail(remote, remote.off, "remote %s is local too: a tunnel has two ends", e.Remote)
		case e.Local.Is4() != e.Remote.Is4():
			r.fail(remote, remote.off, "remote %s and local %s are of different families", e.Remote, e.Local)
		}
	}
}

// tunnelsSeen are the values that only one [[tunnel]] may have, with their first offsets.
type tunnelsSeen struct{ devices map[string]int }

// tunnel reads one [[tunnel]].
func (r *reader) tunnel(t *table, c *Config, seen tunnelsSeen) Tunnel {
	x := Tunnel{Ethernet: defaultEthernet("")}
	r.section(t, tunnelSection(&x))
	r.required(t, "tunnel", "device", "device", "op2-gre1", x.Device, seen.devices)
	if v := t.values["device"]; v != nil && !v.bad && slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == x.Device }) {
		r.fail(v, v.off, "device %s is an uplink's: the far end of a tunnel is no uplink here", quote(x.Device))
	}
	for _, key := range []struct{ name, example string }{{"kind", KindGRETAP}, {"bridge", "br-wan"}} {
		if t.values[key.name] == nil && !t.misspelled[key.name] {
			r.errorf(t.off, "this tunnel has no %s: write %s = %q below, with your own", key.name, key.name, key.example)
		}
	}
	if v := t.values["bridge"]; v != nil && !v.bad && x.Bridge == x.Device {
		r.fail(v, v.off, "bridge %s is the tunnel's own device", quote(x.Bridge))
	}
	if x.Kind == KindVXLAN && x.Port == 0 {
		x.Port = vxlanPort
	}
	for _, foreign := range []struct{ key, of string }{{"key", KindGRETAP}, {"id", KindVXLAN}, {"port", KindVXLAN}} {
		if v := t.values[foreign.key]; v != nil && !v.bad && t.values["kind"] != nil && t.usable("kind") && x.Kind != foreign.of {
			r.fail(v, v.key, "%s is for kind = %q only, and the kind here is %q", foreign.key, foreign.of, x.Kind)
		}
	}
	r.ethernet(t, "tunnel", &x.Ethernet)
	return x
}

// kindKeys are the keys that an uplink of some kind alone may have.
var kindKeys = map[string][]string{
	"wireguard": {KindWireGuard}, "underlay": {KindWireGuard}, "peer_routes": {KindWireGuard},
	"gretap": {KindGRETAP}, "vxlan": {KindVXLAN}, "over": {KindGRETAP, KindVXLAN},
}

// tunnelKeys checks that an uplink has the keys of its kind, and what its tunnel's section says.
func (r *reader) tunnelKeys(t *table, u *Uplink) {
	for _, key := range t.names {
		kinds, special := kindKeys[key]
		if v := t.values[key]; special && !v.bad && t.usable("kind") && !slices.Contains(kinds, u.Kind) {
			words := make([]string, len(kinds))
			for i, k := range kinds {
				words[i] = fmt.Sprintf("%q", k)
			}
			r.fail(v, v.key, "%s is for kind = %s only, and the kind here is %q", key, strings.Join(words, " or "), u.Kind)
		}
	}
	if u.Ethernet != nil && !t.values[u.Ethernet.Kind].bad {
		r.ethernet(t.values[u.Ethernet.Kind].table, "[uplink."+u.Ethernet.Kind+"]", u.Ethernet)
	}
	if u.WireGuard != nil && !t.values["wireguard"].bad {
		r.wireguard(t, u)
	}
}

// carriers checks the names of the uplinks that carry others, when all of them are known.
func (r *reader) carriers(root *table, c *Config) {
	v := root.values["uplink"]
	if v == nil {
		return
	}
	index := func(name string) int {
		return slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.Name == name })
	}
	elems := v.elems
	if v.kind == kindTable {
		elems = []*value{v}
	}
	for i, e := range elems {
		if e.table == nil || i >= len(c.Uplinks) {
			continue
		}
		u := &c.Uplinks[i]
		var names []string
		at := func(n int) int { return e.table.offset("over") }
		key := e.table.values["over"]
		if u.Over != "" {
			names = []string{u.Over}
		} else if key = e.table.values["underlay"]; key != nil && key.kind == kindList {
			names, at = u.Underlay, func(n int) int { return key.elems[n].off }
		}
		if key == nil || key.bad {
			continue
		}
		for n, name := range names {
			switch {
			case name == u.Name:
				r.fail(key, at(n), "%s cannot carry itself", quote(name))
			case index(name) < 0:
				r.fail(key, at(n), "there is no uplink %s%s", quote(name), r.likeUplink(c, name))
			case slices.Index(names, name) < n:
				r.fail(key, at(n), "uplink %s is given twice", quote(name))
			case slices.Contains(c.carriedBy(index(name), make(map[int]bool)), u.Name):
				r.fail(key, at(n), "uplink %s is itself carried by %s: packets would run in a circle", quote(name), quote(u.Name))
			}
		}
	}
}

func (r *reader) likeUplink(c *Config, name string) string {
	names := make([]string, len(c.Uplinks))
	for i := range c.Uplinks {
		names[i] = c.Uplinks[i].Name
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}

// Carriers are the names of the uplinks that may carry a tunnel, best first; none for others. A WireGuard tunnel that
// names none may be carried by every uplink that is no tunnel, in the order of their tiers.
func (c *Config) Carriers(u *Uplink) []string {
	switch {
	case u.Over != "":
		return []string{u.Over}
	case u.Kind != KindWireGuard || len(u.Underlay) > 0:
		return u.Underlay
	}
	var isps []*Uplink
	for i := range c.Uplinks {
		if c.Uplinks[i].Kind == KindISP {
			isps = append(isps, &c.Uplinks[i])
		}
	}
	slices.SortStableFunc(isps, func(a, b *Uplink) int { return a.Tier - b.Tier })
	names := make([]string, len(isps))
	for i, p := range isps {
		names[i] = p.Name
	}
	return names
}

// carriedBy lists all uplinks that the one at an index may be carried by, over whatever others.
func (c *Config) carriedBy(index int, seen map[int]bool) []string {
	if index < 0 || seen[index] {
		return nil
	}
	seen[index] = true
	var all []string
	for _, name := range c.Carriers(&c.Uplinks[index]) {
		all = append(all, name)
		all = append(all, c.carriedBy(slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.Name == name }), seen)...)
	}
	return all
}
