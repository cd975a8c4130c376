package config

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// maxForwards is how many [[forward]] sections there may be.
const maxForwards = 250

// Forward is one [[forward]] section: a port of the uplinks' addresses, whatever these are, that a host behind this router serves.
type Forward struct {
	Name      string  // name: unique among them; as an uplink's
	Protocols []uint8 // protocol: tcp, udp or both; never empty
	Ports     Range   // port: 1..65535; no other forward of the protocol, family and uplink has one of them
	ToPort    int     // to_port: of the host, 0 for the same; only where Ports is one
	To4       netip.Addr
	ID6       uint64   // to6, or mac as modified EUI-64: the interface identifier of the host; 0: no IPv6
	LAN       string   // lan: the device that the host is behind, no uplink's
	Uplinks   []string // uplinks: names; nil: all
}

const (
	titleForward = "[[forward]]"
	exampleTo4   = "192.168.7.10"
	exampleID    = "::10"
)

func forwardSection(f *Forward) section {
	return section{titleForward, []field{
		text("name", &f.Name, "web", checkLabel),
		numbers("protocol", &f.Protocols, `["tcp", "udp"]`, parseTCPOrUDP("forwarded")),
		{name: "port", takes: `a number or a range, such as 443 or "8000-8010"`, read: func(r *reader, v *value) { r.forwardedPort(v, &f.Ports) }},
		integer("to_port", &f.ToPort, 1, 65535, nil),
		parsed("to4", &f.To4, exampleTo4, parseTo4),
		parsed("to6", &f.ID6, exampleID, parseTo6),
		parsed("mac", &f.ID6, exampleMAC, parseEUI64),
		text("lan", &f.LAN, "br-lan", checkDevice),
		texts("uplinks", &f.Uplinks, "fiber", MaxUplinks, nil),
	}}
}

// parseTCPOrUDP parses a protocol that has ports; cannot says what is not done with another one.
func parseTCPOrUDP(cannot string) func(name, s string) (uint8, string) {
	return func(name, s string) (uint8, string) {
		switch s {
		case "tcp":
			return protocolTCP, ""
		case "udp":
			return protocolUDP, ""
		}
		return 0, name + " " + quote(s) + " cannot be " + cannot + `: write "tcp", "udp" or both in a list`
	}
}

func (r *reader) forwardedPort(v *value, dst *Range) {
	if v.kind != kindString && v.kind != kindInteger {
		r.wrongType(v, "port", "a number or a range", `443 or "8000-8010"`)
		return
	}
	ports, msg := parsePorts("port", v.text)
	if msg != "" {
		r.fail(v, v.off, "%s", msg)
		return
	}
	*dst = ports
}

func parseTo4(name, s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	switch {
	case err == nil && a.Is6():
		return netip.Addr{}, fmt.Sprintf("%s %s is an IPv6 address: the end of it goes into to6, as in %q", name, quote(s), exampleID)
	case err != nil || !a.IsGlobalUnicast():
		return netip.Addr{}, fmt.Sprintf("%s %s is not the IPv4 address of a host: write one as in %q", name, quote(s), exampleTo4)
	}
	return a, ""
}

// parseTo6 reads an interface identifier.
func parseTo6(name, s string) (uint64, string) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return 0, fmt.Sprintf("%s %s is not the end of an IPv6 address: write one as in %q", name, quote(s), exampleID)
	}
	b := a.As16()
	prefix, id := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	end := b
	clear(end[:8])
	switch {
	case id == 0:
		return 0, fmt.Sprintf("%s %s is no host: the last 64 bits are zero", name, quote(s))
	case prefix != 0:
		return 0, fmt.Sprintf("%s %s has a prefix, which changes with the provider: write its last 64 bits alone, %q", name, quote(s), netip.AddrFrom16(end))
	}
	return id, ""
}

// parseEUI64 reads the interface identifier that a host makes of its hardware address (RFC 4291 appendix A).
func parseEUI64(name, s string) (uint64, string) {
	mac, msg := parseMAC(name, s)
	if msg != "" {
		return 0, msg
	}
	return binary.BigEndian.Uint64([]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}), ""
}

// forwards reads them, and checks that no port leads to two hosts.
func (r *reader) forwards(v *value, c *Config) {
	seen := make(map[string]int)
	var offsets []int
	r.tableArray(v, "forward", "a forward", maxForwards, func(t *table) {
		f := r.forward(t, c, seen)
		for i := range c.Forwards {
			if o := &c.Forwards[i]; t.usable("port") && t.usable("protocol") && t.usable("uplinks") && f.overlaps(o) {
				r.errorf(t.offset("port"), "forward %s, at %s, has a port of this one already: a port of an uplink leads to one host", quote(o.Name), r.where(offsets[i]))
				break
			}
		}
		c.Forwards, offsets = append(c.Forwards, f), append(offsets, t.off)
	})
}

// overlaps reports whether a packet may belong to both.
func (f *Forward) overlaps(o *Forward) bool {
	shared := func(all bool, list, others []string) bool {
		return all || slices.ContainsFunc(list, func(name string) bool { return slices.Contains(others, name) })
	}
	return (f.To4.IsValid() && o.To4.IsValid() || f.ID6 != 0 && o.ID6 != 0) &&
		slices.ContainsFunc(f.Protocols, func(p uint8) bool { return slices.Contains(o.Protocols, p) }) &&
		f.Ports.First <= o.Ports.Last && o.Ports.First <= f.Ports.Last &&
		shared(f.Uplinks == nil || o.Uplinks == nil, f.Uplinks, o.Uplinks)
}

// forward reads one and what must fit together in it.
func (r *reader) forward(t *table, c *Config, seen map[string]int) Forward {
	f := Forward{Protocols: []uint8{protocolTCP}}
	r.section(t, forwardSection(&f))
	r.required(t, "forward", "name", "name", "web", f.Name, seen)
	given := func(key string) bool { return t.values[key] != nil || t.misspelled[key] }
	if !given("port") {
		r.errorf(t.off, "this forward has no port: write port = 443 below, with the one that the Internet asks for")
	}
	if !given("to4") && !given("to6") && !given("mac") {
		r.errorf(t.off, "this forward leads nowhere: write to4 = %q below, or to6 = %q, or both", exampleTo4, exampleID)
	}
	if v := t.values["mac"]; v != nil && t.values["to6"] != nil {
		r.fail(v, v.key, "to6 and mac both name the IPv6 host: remove one of them")
	}
	if v := t.values["to_port"]; v != nil && !v.bad && t.usable("port") && f.Ports.First != f.Ports.Last {
		r.fail(v, v.key, "to_port is for a single port, and port is a range: leave it out, or write a forward for each port")
	}
	switch v := t.values["lan"]; {
	case v == nil && !t.misspelled["lan"] && len(c.LANs) == 1:
		f.LAN = c.LANs[0].Device
	case v == nil && !t.misspelled["lan"]:
		r.errorf(t.off, `this forward has no lan: write lan = "br-lan" below, with the device that the host is behind`)
	case v != nil && !v.bad && slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == f.LAN }):
		r.fail(v, v.off, "lan %s is the device of an uplink: name the one that the host is behind", quote(f.LAN))
	}
	if v := t.values["uplinks"]; v != nil && !v.bad {
		r.knownUplinks(v, c)
		if len(f.Uplinks) == 0 {
			r.fail(v, v.off, "uplinks is empty: leave it out for all, or name some")
		}
	}
	return f
}
