package config

import (
	"net/netip"
	"slices"
)

// Resolution is [dns]: who is told of the DNS servers of the uplinks that work. Every output is off unless it is named.
type Resolution struct {
	ResolvConf string // resolv_conf: absolute path of a file, written as a whole; "" is off
	Dnsmasq    string // dnsmasq: absolute path of a directory, for `servers` of dnsmasq's servers-file; "" is off
	Unbound    bool   // unbound: its forwarders, by unbound-control
	Resolved   bool   // resolved: the DNS servers of links of systemd-resolved, over D-Bus
}

// Any reports whether anybody is told.
func (d Resolution) Any() bool { return d != Resolution{} }

// Servers is [uplink.dns] servers: the DNS servers that are asked by an uplink.
type Servers struct {
	// Auto is true for those that the provider names, where this daemon or another program has learned them; they come first.
	Auto  bool         // "auto"
	Named []netip.Addr // without a zone
}

// The sections' titles in messages.
const (
	titleDNS       = "[dns]"
	titleUplinkDNS = "[uplink.dns]"
)

// maxServers bounds what is asked of one uplink. Planning has the same bound, with what is learned.
const maxServers = 8

const wordAuto = "auto"

func dnsSection(d *Resolution) section {
	return section{titleDNS, []field{
		text("resolv_conf", &d.ResolvConf, "/run/uplinkd/resolv.conf", checkOptionalPath),
		text("dnsmasq", &d.Dnsmasq, "/run/uplinkd/dnsmasq", checkOptionalDir),
		boolean("unbound", &d.Unbound),
		boolean("resolved", &d.Resolved),
	}}
}

func uplinkDNSSection(s *Servers) section {
	return section{titleUplinkDNS, []field{{name: "servers", takes: listSuchAs(wordAuto), read: func(r *reader, v *value) { r.servers(v, s) }}}}
}

// servers reads the DNS servers of an uplink: addresses, and the word for those that are learned.
func (r *reader) servers(v *value, dst *Servers) {
	var words []string
	texts("servers", &words, wordAuto, maxServers, nil).read(r, v)
	if v.bad || v.kind != kindList {
		return
	}
	*dst = Servers{}
	for i, w := range words {
		at := v.elems[i].off
		if w == wordAuto {
			dst.Auto = true
			continue
		}
		a, err := netip.ParseAddr(w)
		switch {
		case err != nil:
			r.fail(v, at, "servers: %s is not an address: write one, or %q for those that the provider names", quote(w), wordAuto)
		case a.Zone() != "":
			r.fail(v, at, "servers: %s needs no zone, for the device is known: write %q", quote(w), a.WithZone(""))
		case a.Is4In6():
			r.fail(v, at, "servers: %s is an IPv4 address in IPv6 form: write %q", quote(w), a.Unmap())
		case unusable(a) != "":
			r.fail(v, at, "servers: %s %s", quote(w), unusable(a))
		case slices.Contains(dst.Named, a):
			r.fail(v, at, "servers: %s is given twice", quote(w))
		default:
			dst.Named = append(dst.Named, a)
		}
	}
}
