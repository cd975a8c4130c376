package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// MaxLANs is how many [[lan]] sections there may be.
const MaxLANs = 62

// LAN is one [[lan]] section: a network of hosts that get IPv6 prefixes from us.
type LAN struct {
	Device   string // device: unique, and no uplink's
	SubnetID int    // subnet_id: which /64 of each delegation, counted from 0; 0..65535; unique
	// PrefixesFrom are names of uplinks with delegation; by default all of them, in the order of the file.
	PrefixesFrom []string // prefixes_from
	Advertise    bool     // advertise: send router advertisements; else the prefixes are only written down for others
	// DelegateLength is that of the prefixes which routers on the LAN get by DHCPv6; 0: none.
	DelegateLength int      // delegate_length
	DNS            DNS      // dns: resolvers that hosts are told of
	Search         []string // search: domains that hosts look names up in (RFC 8106); lower case, no dot at the end
}

// DNS says which resolvers the hosts of a LAN are told of.
type DNS struct {
	Uplinks bool         // "uplinks": those that the providers of the usable prefixes name
	Self    bool         // "self": this router
	Servers []netip.Addr // IPv6 addresses
}

const (
	titleLAN        = "[[lan]]"
	exampleHint     = "::/56"
	exampleRouted   = "2001:db8:4000::/48"
	exampleULA      = "fd12:3456:789a::/48"
	maxResolvers    = 8 // what fits in an advertisement beside everything else
	maxSearch       = 6
	maxDomain       = 230 // what fits into an option of an advertisement
	minDelegated    = 49  // longer than the router's own prefix
	wordUplinks     = "uplinks"
	wordSelf        = "self"
	wordOff         = "off"
	exampleResolver = "2001:db8::53"
)

func lanSection(l *LAN) section {
	return section{titleLAN, []field{
		text("device", &l.Device, "br-lan", checkDevice),
		integer("subnet_id", &l.SubnetID, 0, 65535, nil),
		texts("prefixes_from", &l.PrefixesFrom, "fiber", MaxUplinks, nil),
		boolean("advertise", &l.Advertise),
		integer("delegate_length", &l.DelegateLength, minDelegated, 64, nil),
		{name: "dns", takes: listSuchAs(exampleResolver), read: func(r *reader, v *value) { r.dns(v, &l.DNS) }},
		{name: "search", takes: listSuchAs("home.example"), read: func(r *reader, v *value) {
			texts("search", &l.Search, "home.example", maxSearch, checkDomain).read(r, v)
			for i := range l.Search {
				l.Search[i] = strings.ToLower(strings.TrimSuffix(l.Search[i], "."))
			}
		}},
	}}
}

// lansSeen are the values that only one LAN may have, with their first offsets.
type lansSeen struct {
	devices map[string]int
	subnets map[int]int
}

// lan reads one LAN and what must fit together in it.
func (r *reader) lan(t *table, c *Config, seen lansSeen) LAN {
	l := LAN{Advertise: true, DNS: DNS{Uplinks: true}}
	r.section(t, lanSection(&l))
	r.required(t, "LAN", "device", "device", "br-lan", l.Device, seen.devices)
	if v := t.values["device"]; v != nil && !v.bad && slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == l.Device }) {
		r.fail(v, v.off, "device %s belongs to an uplink: LAN hosts need a device of their own", quote(l.Device))
	}
	if t.usable("subnet_id") {
		at := t.offset("subnet_id")
		if first, taken := seen.subnets[l.SubnetID]; taken {
			r.errorf(at, "subnet_id %d is already used by another LAN, at %s: each needs its own", l.SubnetID, r.where(first))
		} else {
			seen.subnets[l.SubnetID] = at
		}
	}
	r.prefixesFrom(t, c, &l)
	r.delegateLength(t, c, &l)
	return l
}

// delegateLength checks that there is something to delegate, as far as the file knows: what providers give may be longer all the same.
func (r *reader) delegateLength(t *table, c *Config, l *LAN) {
	v := t.values["delegate_length"]
	if v == nil || v.bad || !t.usable("prefixes_from") {
		return
	}
	if len(l.PrefixesFrom) == 0 && c.Daemon.ULA.Off {
		r.fail(v, v.off, "delegate_length needs a prefix to delegate parts of: set delegation = true in an [uplink.ipv6], or leave ula at its default")
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; slices.Contains(l.PrefixesFrom, u.Name) && u.IPv6.Prefix.IsValid() && u.IPv6.Prefix.Bits() >= l.DelegateLength {
			r.fail(v, v.off, "delegate_length %d leaves routers nothing of the prefix of uplink %s, %v: it must be longer", l.DelegateLength, quote(u.Name), u.IPv6.Prefix)
		}
	}
}

// prefixesFrom checks that a LAN draws on uplinks that have something to give.
func (r *reader) prefixesFrom(t *table, c *Config, l *LAN) {
	v := t.values["prefixes_from"]
	if v == nil {
		for i := range c.Uplinks {
			if c.Uplinks[i].IPv6.Delegates() {
				l.PrefixesFrom = append(l.PrefixesFrom, c.Uplinks[i].Name)
			}
		}
		return
	}
	if v.bad {
		return
	}
	for i, name := range l.PrefixesFrom {
		at := v.elems[i].off
		n := slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.Name == name })
		switch {
		case n < 0:
			names := make([]string, len(c.Uplinks))
			for i := range c.Uplinks {
				names[i] = c.Uplinks[i].Name
			}
			hint := ""
			if near := nearest(name, names); near != "" {
				hint = fmt.Sprintf(", did you mean %q?", near)
			}
			r.fail(v, at, "there is no uplink %s%s", quote(name), hint)
		case !c.Uplinks[n].IPv6.Delegates():
			r.fail(v, at, "uplink %s gets no prefix: set delegation = true in its [uplink.ipv6], or prefix = with the one that is routed to it", quote(name))
		case slices.Index(l.PrefixesFrom, name) < i:
			r.fail(v, at, "uplink %s is given twice", quote(name))
		}
	}
}

// texts is a list of strings; check returns a message about one of them, "" if it is right, and may be nil.
func texts(name string, dst *[]string, example string, limit int, check func(name, s string) string) field {
	return field{name: name, takes: listSuchAs(example), read: func(r *reader, v *value) {
		if v.kind != kindList {
			r.wrongType(v, name, "a list of strings", "["+quote(example)+"]")
			return
		}
		if len(v.elems) > limit {
			r.fail(v, v.off, "%s has %d elements: there can be at most %d", name, len(v.elems), limit)
			return
		}
		list := make([]string, 0, len(v.elems))
		for i, e := range v.elems {
			if e.kind != kindString {
				r.fail(v, e.off, "element %d of %s must be a string, not %s", i+1, name, e.kind)
				return
			}
			if check != nil {
				if msg := check(name, e.text); msg != "" {
					r.fail(v, e.off, "%s", msg)
					return
				}
			}
			list = append(list, e.text)
		}
		*dst = list
	}}
}

// dns reads the resolvers: addresses, and the words that stand for some.
func (r *reader) dns(v *value, dst *DNS) {
	var words []string
	texts("dns", &words, exampleResolver, maxResolvers, nil).read(r, v)
	if v.bad || v.kind != kindList {
		return
	}
	*dst = DNS{}
	for i, w := range words {
		at := v.elems[i].off
		switch w {
		case wordUplinks:
			dst.Uplinks = true
			continue
		case wordSelf:
			dst.Self = true
			continue
		}
		a, err := netip.ParseAddr(w)
		switch {
		case err != nil:
			r.fail(v, at, "dns %s is not an IPv6 address: write one, or %q for those of the providers, or %q for this router", quote(w), wordUplinks, wordSelf)
		case !a.Is6() || a.Is4In6():
			r.fail(v, at, "dns %s is an IPv4 address: router advertisements carry IPv6 resolvers only", quote(w))
		case a.Zone() != "" || unusable(a) != "" || a.IsLinkLocalUnicast():
			r.fail(v, at, "dns %s cannot be reached by every host: write a global or unique-local address", quote(w))
		case slices.Contains(dst.Servers, a):
			r.fail(v, at, "dns %s is given twice", quote(w))
		default:
			dst.Servers = append(dst.Servers, a)
		}
	}
}

// parseHint reads the prefix that a provider is asked for: of a length, and at an address if that is wanted too.
func parseHint(name, s string) (netip.Prefix, string) {
	return parseDelegation(name, s, fmt.Sprintf("write the length that you want, as in %q", exampleHint))
}

// parseRouted reads a prefix that is routed to an uplink.
func parseRouted(name, s string) (netip.Prefix, string) {
	p, wrong := parseDelegation(name, s, fmt.Sprintf("write the one that is routed to the uplink, as in %q", exampleRouted))
	if wrong == "" && (!p.Addr().IsGlobalUnicast() || p.Addr().IsPrivate()) {
		return netip.Prefix{}, fmt.Sprintf("%s %s is not a global prefix: nobody can route it to you", name, quote(s))
	}
	return p, wrong
}

// parseDelegation reads an IPv6 prefix of which LANs can have a /64.
func parseDelegation(name, s, what string) (netip.Prefix, string) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is6() || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Sprintf("%s %s is not an IPv6 prefix: %s", name, quote(s), what)
	case p.Bits() == 0 || p.Bits() > 64:
		return netip.Prefix{}, fmt.Sprintf("%s %s has length %d: it must be 1 to 64, and each LAN needs a /64", name, quote(s), p.Bits())
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Sprintf("%s %s has host bits set: write %q", name, quote(s), p.Masked())
	}
	return p, ""
}

// parseULA reads the router's own prefix (RFC 4193); "" is none yet.
func parseULA(name, s string) (ULA, string) {
	if s == "" || s == wordOff {
		return ULA{Off: s == wordOff}, ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is6():
		return ULA{}, fmt.Sprintf("%s %s is not an IPv6 prefix: write one as in %q, or %q", name, quote(s), exampleULA, wordOff)
	case !netip.MustParsePrefix("fd00::/8").Contains(p.Addr()):
		return ULA{}, fmt.Sprintf("%s %s is not a unique-local prefix in fd00::/8 (RFC 4193)", name, quote(s))
	case p.Bits() != 48:
		return ULA{}, fmt.Sprintf("%s %s has length %d: it must be 48, which leaves each LAN a /64", name, quote(s), p.Bits())
	case p.Masked() != p:
		return ULA{}, fmt.Sprintf("%s %s has host bits set: write %q", name, quote(s), p.Masked())
	}
	return ULA{Prefix: p}, ""
}

var domainForm = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)

// checkDomain checks a domain name as RFC 8106 carries it: labels of letters, digits and hyphens.
func checkDomain(name, s string) string {
	if !domainForm.MatchString(s) || len(s) > maxDomain {
		return fmt.Sprintf("%s %s is not a domain name", name, quote(s))
	}
	return ""
}
