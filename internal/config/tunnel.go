package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/uplinkd/uplinkd/rules/encap"
)

// maxTunnels is how many [[tunnel]] sections there may be.
const maxTunnels = 64

// Encap is a tunnel to one other end: [uplink.KIND], or what a [[tunnel]] says of it.
type Encap struct {
	encap.Params     // local, remote: addresses of one family, local is this machine's; ttl: 1..255; and the settings of the kind
	MTU          int // mtu: of what is inside; 0 is what fits
}

// Tunnel is one [[tunnel]] section: the far end of somebody else's uplink, joined with a bridge of this machine.
type Tunnel struct {
	Device string // device: unique, and no uplink's
	Bridge string // bridge: exists already, made by others
	Encap         // kind: one that carries frames
}

const (
	titleTunnel   = "[[tunnel]]"
	exampleLocal  = "198.51.100.2"
	exampleRemote = "203.0.113.2"
	minMTU        = 1280 // what IPv6 needs (RFC 8200 section 5)
	maxMTU        = 65535
	defaultTTL    = 64
)

// kindNames lists kinds, of those alone that fit.
func kindNames(fits func(*encap.Kind) bool) (names []string) {
	for _, k := range encap.Kinds() {
		if fits(k) {
			names = append(names, k.Name)
		}
	}
	return names
}

func carriesFrames(k *encap.Kind) bool { return k.Carries == encap.Frames }

// encapTables are the sections of an uplink of which each makes a tunnel to one other end.
func encapTables(u *Uplink) (fields []field) {
	for _, name := range kindNames((*encap.Kind).Remote) {
		fields = append(fields, subtable(name, encapTitle(name), func(r *reader, t *table) {
			u.Encap = &Encap{Params: encap.Params{Kind: name, TTL: defaultTTL}}
			r.section(t, encapSection(u.Encap))
		}))
	}
	return fields
}

func encapSection(e *Encap) section {
	return section{encapTitle(e.Kind), encapFields(e, e.Spec().Settings)}
}

func encapSections() (list []section) {
	for _, name := range kindNames((*encap.Kind).Remote) {
		list = append(list, encapSection(&Encap{Params: encap.Params{Kind: name}}))
	}
	return list
}

func encapTitle(kind string) string { return "[uplink." + kind + "]" }

func encapFields(e *Encap, settings []encap.Setting) []field {
	fields := []field{
		parsed("local", &e.Local, exampleLocal, parseEnd),
		parsed("remote", &e.Remote, exampleRemote, parseEnd),
		integer("ttl", &e.TTL, 1, 255, nil),
		integer("mtu", &e.MTU, minMTU, maxMTU, nil),
	}
	for _, s := range settings {
		fields = append(fields, field{name: s.Key, takes: fmt.Sprintf("%d to %d", s.Min, s.Max), read: func(r *reader, v *value) {
			var n uint32
			integer(s.Key, &n, int64(s.Min), int64(s.Max), nil).read(r, v)
			s.Set(&e.Params, n)
		}})
	}
	return fields
}

func tunnelSection(t *Tunnel) section {
	var settings []encap.Setting
	for _, s := range frameSettings() {
		settings = append(settings, s.Setting)
	}
	return section{titleTunnel, append(encapFields(&t.Encap, settings),
		text("device", &t.Device, "op2-gre1", checkDevice),
		text("bridge", &t.Bridge, "br-wan", checkDevice),
		choice("kind", &t.Kind, kindNames(carriesFrames), nil))}
}

// kindSetting is a setting with the kind that it is for.
type kindSetting struct {
	encap.Setting
	kind *encap.Kind
}

// frameSettings lists the settings of all kinds that carry frames.
func frameSettings() (list []kindSetting) {
	for _, k := range encap.Kinds() {
		for _, s := range k.Settings {
			if carriesFrames(k) {
				list = append(list, kindSetting{s, k})
			}
		}
	}
	return list
}

// parseEnd reads the address of one end of a tunnel.
func parseEnd(name, s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Sprintf("%s must be an IPv4 or IPv6 address without a zone, not %s: write it as in %q", name, quote(s), exampleRemote)
	}
	if why := unusable(a); why != "" {
		return netip.Addr{}, fmt.Sprintf("%s %s %s", name, a, why)
	}
	return a, ""
}

// encap checks what must fit together at the two ends of a tunnel, and sets what is not said; title is where it stands.
func (r *reader) encap(t *table, title string, e *Encap) {
	for _, end := range []struct{ key, example string }{{"local", exampleLocal}, {"remote", exampleRemote}} {
		if t.values[end.key] == nil && !t.misspelled[end.key] {
			r.errorf(t.off, "this %s has no %s: write %s = %q below, with your own", title, end.key, end.key, end.example)
		}
	}
	for _, s := range e.Spec().Settings {
		switch {
		case t.values[s.Key] != nil:
		case s.Required != "" && t.usable("kind"):
			r.errorf(t.off, "this %s has no %s: write %s", title, s.Key, s.Required)
		case s.Default != 0:
			s.Set(&e.Params, s.Default)
		}
	}
	if l, remote := t.values["local"], t.values["remote"]; l != nil && remote != nil && !l.bad && !remote.bad {
		switch {
		case e.Local == e.Remote:
			r.fail(remote, remote.off, "remote %s equals local: a tunnel has two ends", e.Remote)
		case e.Local.Is4() != e.Remote.Is4():
			r.fail(remote, remote.off, "remote %s and local %s are of different families", e.Remote, e.Local)
		case e.Local.Is6() && e.Spec().Name6 == "":
			r.fail(l, l.off, "local %s is IPv6, but kind = %q runs over IPv4 only", e.Local, e.Kind)
		}
	}
}

// tunnelsSeen are the values that only one [[tunnel]] may have, with their first offsets.
type tunnelsSeen struct{ devices map[string]int }

// tunnel reads one [[tunnel]].
func (r *reader) tunnel(t *table, c *Config, seen tunnelsSeen) Tunnel {
	x := Tunnel{Encap: Encap{Params: encap.Params{TTL: defaultTTL}}}
	r.section(t, tunnelSection(&x))
	r.required(t, "tunnel", "device", "device", "op2-gre1", x.Device, seen.devices)
	if v := t.values["device"]; v != nil && !v.bad && slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == x.Device }) {
		r.fail(v, v.off, "device %s belongs to an uplink: the far end of a tunnel is not an uplink here", quote(x.Device))
	}
	for _, key := range []struct{ name, example string }{{"kind", encap.GRETAP}, {"bridge", "br-wan"}} {
		if t.values[key.name] == nil && !t.misspelled[key.name] {
			r.errorf(t.off, "this tunnel has no %s: write %s = %q below, with your own", key.name, key.name, key.example)
		}
	}
	if v := t.values["bridge"]; v != nil && !v.bad && x.Bridge == x.Device {
		r.fail(v, v.off, "bridge %s is the tunnel's own device", quote(x.Bridge))
	}
	for _, s := range frameSettings() {
		if v := t.values[s.Key]; v != nil && !v.bad && t.values["kind"] != nil && t.usable("kind") && x.Kind != s.kind.Name {
			r.fail(v, v.key, "%s needs kind = %q, and the kind here is %q", s.Key, s.kind.Name, x.Kind)
		}
	}
	r.encap(t, "tunnel", &x.Encap)
	return x
}

// kindsOf lists the kinds of uplink that alone may have a key, nil for a key of all.
func kindsOf(key string) []string {
	switch key {
	case "wireguard", "underlay", "peer_routes":
		return []string{KindWireGuard}
	case "hardware_address":
		return append([]string{KindISP}, kindNames(carriesFrames)...)
	case "over":
		return kindNames((*encap.Kind).Ends)
	}
	return kindNames(func(k *encap.Kind) bool { return k.Name == key })
}

// tunnelKeys checks that an uplink has the keys of its kind, and what its tunnel's section says.
func (r *reader) tunnelKeys(t *table, u *Uplink) {
	for _, key := range t.names {
		kinds := kindsOf(key)
		if v := t.values[key]; kinds != nil && !v.bad && t.usable("kind") && !slices.Contains(kinds, u.Kind) {
			words := make([]string, len(kinds))
			for i, k := range kinds {
				words[i] = strconv.Quote(k)
			}
			r.fail(v, v.key, "%s needs kind = %s, and the kind here is %q", key, orList(words), u.Kind)
		}
	}
	if u.Encap != nil && !t.values[u.Encap.Kind].bad {
		r.encap(t.values[u.Encap.Kind].table, encapTitle(u.Encap.Kind), u.Encap)
	}
	if u.WireGuard != nil && !t.values["wireguard"].bad {
		r.wireguard(t, u)
	}
	if k := encap.Find(u.Kind); k != nil && k.Carries == encap.Packets6 {
		if v := t.values["ipv4"]; v != nil && !v.bad && u.IPv4.Method != MethodOff {
			r.fail(v, v.key, "kind = %q carries IPv6 only: remove [uplink.ipv4]", u.Kind)
		}
		u.IPv4.Method = MethodOff
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
				r.fail(key, at(n), "uplink %s is itself carried by %s: packets would loop", quote(name), quote(u.Name))
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
