package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

// Pair is [pair]: another router with the same uplinks, of which one works at a time. Who has the virtual address is primary.
type Pair struct {
	// Virtual are addresses that keepalived moves: the first one says who is primary, and a link-local IPv6 one is the router that hosts are told of.
	Virtual []netip.Addr   // virtual
	Device  string         // device: where Virtual stands; no uplink's
	Peer    netip.AddrPort // peer: of the other daemon
	KeyFile string         // key_file: absolute path of the secret that both have
	// Prepare is run at the backup before it takes over in good order, with what the program is given; none: nothing is run.
	Prepare []string // prepare
}

// On reports whether there is another router.
func (p *Pair) On() bool { return len(p.Virtual) > 0 }

// Router returns the link-local address that hosts have as their router, whoever is primary; zero: none.
func (p *Pair) Router() netip.Addr {
	for _, a := range p.Virtual {
		if a.IsLinkLocalUnicast() && a.Is6() {
			return a
		}
	}
	return netip.Addr{}
}

// Moves reports whether the primary of a pair alone has the uplink.
func (u *Uplink) Moves() bool { return u.Shared || u.PrimaryOnly }

const (
	titlePair      = "[pair]"
	exampleVirtual = "192.168.7.1"
	examplePairKey = "/etc/uplinkd/pair.key"
	examplePrepare = "/etc/uplinkd/pair-flows"
	maxVirtual     = 8
	maxPrepareArgs = 32
)

func pairSection(p *Pair) section {
	return section{titlePair, []field{
		parsedList("virtual", &p.Virtual, exampleVirtual, maxVirtual, parseVirtual).scalarOrList(),
		text("device", &p.Device, "br-lan", checkDevice),
		parsed("peer", &p.Peer, "192.168.7.3:9276", parsePeer),
		text("key_file", &p.KeyFile, examplePairKey, checkPairKey),
		texts("prepare", &p.Prepare, examplePrepare, maxPrepareArgs, nil),
	}}
}

func parseVirtual(name, s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Sprintf("%s %s is not an address: write that of keepalived's virtual_ipaddress, without its length, such as %q", name, quote(s), exampleVirtual)
	case a.Zone() != "":
		return a, fmt.Sprintf("%s %s needs no zone: device says where it is, write %q", name, quote(s), a.WithZone(""))
	case a.Is4In6():
		return a, fmt.Sprintf("%s %s is an IPv4 address in IPv6 form: write %q", name, quote(s), a.Unmap())
	case a.IsLinkLocalUnicast() && a.Is6():
		return a, ""
	case !a.IsGlobalUnicast():
		return a, fmt.Sprintf("%s %s cannot be the address of a router", name, quote(s))
	}
	return a, ""
}

func parsePeer(name, s string) (netip.AddrPort, string) {
	a, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return a, fmt.Sprintf(`%s %s must be an address of the other router with a port: write "192.168.7.3:9276" or "[fd00::3]:9276"`, name, quote(s))
	case !a.Addr().IsGlobalUnicast() || a.Addr().Is4In6() || a.Port() == 0:
		return a, fmt.Sprintf("%s %s is not where another router can be", name, quote(s))
	}
	return a, ""
}

func checkPairKey(name, s string) string {
	if s == "" {
		return name + " is empty: write the path of the file with the secret"
	}
	return checkOptionalPath(name, s)
}

// pair reads the section, and what it asks of the uplinks.
func (r *reader) pair(t *table, c *Config) {
	r.section(t, pairSection(&c.Pair))
	for _, need := range []struct{ key, example string }{
		{"virtual", exampleVirtual}, {"device", "br-lan"}, {"peer", "192.168.7.3:9276"}, {"key_file", examplePairKey},
	} {
		if t.values[need.key] == nil && !t.misspelled[need.key] {
			r.errorf(t.off, "[pair] has no %s: write %s = %q below, with your own", need.key, need.key, need.example)
		}
	}
	if v := t.values["virtual"]; v != nil && !v.bad {
		routers := 0
		for _, a := range c.Pair.Virtual {
			if a.Is6() && a.IsLinkLocalUnicast() {
				routers++
			}
		}
		switch {
		case len(c.Pair.Virtual) == 0:
			r.fail(v, v.off, "virtual is empty: write keepalived's address, such as %q", exampleVirtual)
		case routers > 1:
			r.fail(v, v.off, "virtual has %d link-local addresses: hosts are told of one router", routers)
		}
	}
	if v := t.values["device"]; v != nil && !v.bad && slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == c.Pair.Device }) {
		r.fail(v, v.off, "device %s belongs to an uplink: name the one of the LAN, where hosts have the virtual address as their router", quote(c.Pair.Device))
	}
	if v := t.values["prepare"]; v != nil && !v.bad && len(c.Pair.Prepare) > 0 {
		if program := c.Pair.Prepare[0]; !filepath.IsAbs(program) || filepath.Clean(program) != program {
			r.fail(v, v.elems[0].off, "prepare begins with %s, which is no absolute path: no shell and no PATH looks for it", quote(program))
		}
	}
	if v := t.values["peer"]; v != nil && !v.bad && slices.Contains(c.Pair.Virtual, c.Pair.Peer.Addr()) {
		r.fail(v, v.off, "peer is the virtual address, which moves: write the other router's own")
	}
}

// pairUplinks checks what [pair] and the uplinks want of each other. The carriers are known.
func (r *reader) pairUplinks(root *table, c *Config) {
	_, paired := root.values["pair"]
	moves := make(map[string]bool, len(c.Uplinks))
	for i := range c.Uplinks {
		moves[c.Uplinks[i].Name] = c.Uplinks[i].Moves()
	}
	seen := make(map[int]int)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		t := uplinkTable(root, i)
		if t == nil {
			return
		}
		if first, taken := seen[u.ID]; taken && t.usable("id") && u.ID != 0 {
			r.errorf(t.offset("id"), "id %d is already used by another uplink, at %s", u.ID, r.where(first))
		}
		seen[u.ID] = t.offset("id")
		if !paired {
			for _, key := range []string{"shared", "primary_only"} {
				if v := t.values[key]; v != nil && !v.bad && v.text == "true" {
					r.fail(v, v.key, "%s is about the other router of a pair, and there is no [pair]", key)
				}
			}
			continue
		}
		if t.values["id"] == nil && !t.misspelled["id"] {
			r.errorf(t.off, "uplink %s has no id, and connections that come from the other router have it in their marks: write id = %d, on both routers", quote(u.Name), i+1)
		}
		if u.Shared && u.PrimaryOnly {
			r.errorf(t.offset("primary_only"), "shared means that the primary alone has the uplink: remove primary_only")
		}
		if u.Shared {
			for i, ip := range []*IP{&u.IPv4, &u.IPv6} {
				if ip.Method != MethodAuto && ip.Method != MethodOff {
					r.errorf(t.offset("shared"), `shared needs method = "auto" or "off", and it is %q in %s: keepalived sets address and route (virtual_ipaddress, virtual_routes)`,
						ip.Method, []string{titleIPv4, titleIPv6}[i])
				}
			}
		}
		carriers := c.Carriers(u)
		if !u.Moves() && len(carriers) > 0 && !slices.ContainsFunc(carriers, func(name string) bool { return !moves[name] }) {
			r.errorf(t.offset("name"), "the backup cannot have uplink %s, for what carries it is the primary's alone: write primary_only = true here too", quote(u.Name))
		}
	}
}

// uplinkTable returns the section of an uplink, by its place in the file.
func uplinkTable(root *table, i int) *table {
	v := root.values["uplink"]
	switch {
	case v == nil:
		return nil
	case v.kind == kindTable && i == 0:
		return v.table
	case i < len(v.elems):
		return v.elems[i].table
	}
	return nil
}

// Standby returns what the backup of a pair works with: without the uplinks that the primary has, which are Waiting then, and without LANs, whose
// hosts hear of the primary alone.
func (c *Config) Standby() *Config { return c.backup((*Uplink).Moves, nil) }

// Prepared returns what the backup of a pair plans for when it is about to take over: as Standby, with the uplinks whose address moves, and with the LANs.
func (c *Config) Prepared() *Config {
	lans := slices.Clone(c.LANs)
	for i := range lans {
		lans[i].PrefixesFrom = slices.Clone(lans[i].PrefixesFrom)
	}
	return c.backup(func(u *Uplink) bool { return u.PrimaryOnly }, lans)
}

func (c *Config) backup(waits func(*Uplink) bool, lans []LAN) *Config {
	s := *c
	s.Backup, s.Uplinks, s.LANs = true, nil, lans
	waiting := make(map[string]bool)
	for i := range c.Uplinks {
		u := c.Uplinks[i]
		if waits(&u) {
			waiting[u.Name] = true
			s.Waiting = append(s.Waiting, u)
			continue
		}
		u.Underlay = slices.Clone(u.Underlay)
		s.Uplinks = append(s.Uplinks, u)
	}
	s.Forwards = slices.Clone(c.Forwards)
	for i := range s.Forwards {
		s.Forwards[i].Uplinks = slices.Clone(s.Forwards[i].Uplinks)
	}
	s.Policies = slices.Clone(c.Policies)
	for i := range s.Policies {
		tiers := slices.Clone(s.Policies[i].Uplinks)
		for j := range tiers {
			tiers[j] = slices.Clone(tiers[j])
		}
		s.Policies[i].Uplinks = tiers
	}
	s.without(waiting)
	return &s
}
