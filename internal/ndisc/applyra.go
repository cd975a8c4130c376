package ndisc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// twoHours is what a valid lifetime cannot be cut below by a single, unauthenticated advertisement
	// (RFC 4862 section 5.5.3 e).
	twoHours = 2 * time.Hour
	// maxConflicts is how many addresses of a prefix may be found taken before it is left alone
	// (IDGEN_RETRIES, RFC 7217 section 6).
	maxConflicts = 3
)

// applyRA takes over the options of an advertisement.
func (m *machine) applyRA(a *advert, from netip.Addr, now time.Time) {
	full := func(format string, args ...any) {
		a.ignored = append(a.ignored, fmt.Sprintf(format, args...)+": too many are known already")
	}
	for _, o := range a.prefixes {
		if !m.applyPrefix(o, from, now) {
			full("prefix %v", o.prefix)
		}
		if o.autonomous && !m.applyAddress(o, from, now) {
			full("address in %v", o.prefix)
		}
	}
	for _, o := range a.routes {
		if o.prefix.Bits() > 0 && !m.applyRoute(o, from, now) {
			full("route to %v", o.prefix)
		}
	}
	for _, o := range a.servers {
		if !announced(&m.state.DNS, Server{o.server, until(now, o.lifetime)}, o.lifetime == 0, func(s Server) bool { return s.Addr == o.server }) {
			full("DNS server %v", o.server)
		}
	}
	for _, o := range a.translators {
		same := func(t Translator) bool { return t.Prefix == o.prefix && t.Router == from }
		if !announced(&m.state.NAT64, Translator{o.prefix, from, until(now, o.lifetime)}, o.lifetime == 0, same) {
			full("PREF64 %v", o.prefix)
		}
	}
	for _, o := range a.domains {
		if !announced(&m.state.Search, Domain{o.domain, until(now, o.lifetime)}, o.lifetime == 0, func(d Domain) bool { return d.Name == o.domain }) {
			full("search domain %v", o.domain)
		}
	}
}

// announced puts something in the place of what is the same, or takes that off the list when it is over. It reports whether there was room.
func announced[T any](list *[]T, v T, over bool, same func(T) bool) bool {
	if over {
		*list = slices.DeleteFunc(*list, same)
		return true
	}
	at := findOrAdd(list, maxNames, same)
	if at != nil {
		*at = v
	}
	return at != nil
}

// applyPrefix keeps the announcement as it is. A valid lifetime of 0 takes it off the link at once (RFC 4861
// section 6.3.4), whatever becomes of our address; but no router takes away what others announce. It reports whether there
// was room.
func (m *machine) applyPrefix(o prefixOption, from netip.Addr, now time.Time) bool {
	same := func(p Prefix) bool { return p.Prefix == o.prefix }
	if o.valid == 0 {
		m.state.Prefixes = slices.DeleteFunc(m.state.Prefixes, func(p Prefix) bool { return same(p) && !m.othersAnnounce(p.Routers, from) })
		for i := range m.state.Prefixes {
			if p := &m.state.Prefixes[i]; same(*p) {
				p.Routers = slices.DeleteFunc(slices.Clone(p.Routers), func(a netip.Addr) bool { return a == from })
			}
		}
		return true
	}
	p := findOrAdd(&m.state.Prefixes, maxPrefixes, same)
	if p == nil {
		return false
	}
	*p = Prefix{Prefix: o.prefix, OnLink: o.onLink, Autonomous: o.autonomous,
		Preferred: until(now, o.preferred), Valid: until(now, o.valid), Routers: including(p.Routers, from)}
	return true
}

// othersAnnounce reports whether a router other than from is among those that announce a prefix, and still offers itself.
func (m *machine) othersAnnounce(routers []netip.Addr, from netip.Addr) bool {
	return slices.ContainsFunc(routers, func(a netip.Addr) bool {
		r := m.state.router(a)
		return a != from && r != nil && !r.Unreachable
	})
}

// including returns a list with one more router, which it may hold already.
func including(routers []netip.Addr, router netip.Addr) []netip.Addr {
	if slices.Contains(routers, router) {
		return routers
	}
	return append(slices.Clone(routers), router)
}

// applyAddress forms or refreshes our address in an autonomous prefix (RFC 4862 section 5.5.3). It reports
// whether there was room.
func (m *machine) applyAddress(o prefixOption, from netip.Addr, now time.Time) bool {
	if o.prefix.Bits() != 64 {
		return true // no room for our identifier (section 5.5.3 d); the prefix itself is in the View
	}
	same := func(a Address) bool { return a.Address.Masked() == o.prefix }
	if i := slices.IndexFunc(m.state.Addresses, same); i >= 0 {
		a := &m.state.Addresses[i]
		if o.valid == 0 && m.othersAnnounce(a.Routers, from) {
			return true
		}
		if o.valid > 0 {
			a.Routers, a.Heard = including(a.Routers, from), now
		}
		a.Preferred = until(now, o.preferred)
		left := remaining(a.Valid, now)
		switch {
		case o.valid > twoHours || o.valid > left:
			a.Valid = until(now, o.valid)
		case left > twoHours:
			a.Valid = now.Add(twoHours)
		}
		return true
	}
	if o.valid == 0 {
		return true
	}
	a := findOrAdd(&m.state.Addresses, maxPrefixes, same)
	if a == nil {
		return false
	}
	*a = Address{Address: m.address(o.prefix, 0), Preferred: until(now, o.preferred), Valid: until(now, o.valid), Routers: []netip.Addr{from}, Heard: now}
	return true
}

func (m *machine) address(prefix netip.Prefix, conflicts int) netip.Prefix {
	return netip.PrefixFrom(stableAddress(prefix, m.device, conflicts, m.secret), 64)
}

// applyRoute keeps a route of one router: another's to the same prefix is another route (RFC 4191 section
// 3.1). It reports whether there was room.
func (m *machine) applyRoute(o routeOption, from netip.Addr, now time.Time) bool {
	same := func(r Route) bool { return r.Prefix == o.prefix && r.Router == from }
	if o.lifetime == 0 {
		m.state.Routes = slices.DeleteFunc(m.state.Routes, same)
		return true
	}
	r := findOrAdd(&m.state.Routes, maxRoutes, same)
	if r == nil {
		return false
	}
	*r = Route{Prefix: o.prefix, Router: from, Preference: o.preference, Expires: until(now, o.lifetime)}
	return true
}

// addressFailed is told that duplicate address detection found an address taken. The next one takes its
// place, with its lifetimes, until there have been too many (RFC 7217 section 6).
func (m *machine) addressFailed(addr netip.Addr) {
	for i := range m.state.Addresses {
		a := &m.state.Addresses[i]
		if a.Address.Addr() != addr || a.Failed {
			continue
		}
		m.changed = true
		if a.Conflicts >= maxConflicts {
			a.Failed = true
			return
		}
		a.Conflicts++
		a.Address = m.address(a.Address.Masked(), a.Conflicts)
		return
	}
}
