package ndisc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Lifetimes of what we advertise (RFC 9096 section 3.4, ND_PREFERRED_LIMIT and ND_VALID_LIMIT): long enough
// for hosts that sleep, short enough for a prefix that changed without a word.
const (
	maxPreferred   = 2700 * time.Second
	maxValid       = 5400 * time.Second
	routerLifetime = 2700 * time.Second
	routeLifetime  = 2700 * time.Second
	// nameLifetime is 3 * MaxRtrAdvInterval (RFC 8106 section 5.1).
	nameLifetime = 3 * maxInterval
	// shortest is the shortest lifetime that is ever sent, besides 0. Android ignores an option whose
	// lifetime is below 180 s, so that it would keep believing the one before.
	shortest = 180 * time.Second
)

// Announcement is a prefix to advertise. The lifetimes are made of it when an advertisement is sent, so that
// they shrink with what remains of the delegation.
type Announcement struct {
	Prefix     netip.Prefix `json:"prefix"`
	Preferred  time.Time    `json:"preferred,omitzero"` // end of the delegation's; zero: never
	Valid      time.Time    `json:"valid,omitzero"`     // end of the delegation's; zero: never
	Deprecated bool         `json:"deprecated,omitempty"`
	// Brief is a prefix that the provider never gives for as long as Android heeds. It is announced with what
	// remains, however little: to hide it would help nobody, and all other hosts can use it.
	Brief bool `json:"brief,omitempty"`
	// Stale prefixes are announced with lifetimes 0 until Valid, for hosts that may still hold them.
	Stale bool `json:"stale,omitempty"`
}

// lifetimes are what to advertise now. They are rounded down: an advertised lifetime never exceeds what
// remains of the delegation (RFC 9915 section 6.3), and one that is too short to send becomes 0, which for
// preferred moves hosts away a little early, and for valid leaves them what they have.
func (a Announcement) lifetimes(now time.Time) (preferred, valid time.Duration) {
	if a.Stale {
		return 0, 0
	}
	round := atLeastShortest
	if a.Brief {
		round = func(d time.Duration) time.Duration { return d.Truncate(time.Second) }
	}
	valid = round(min(maxValid, remaining(a.Valid, now)))
	if !a.Deprecated {
		preferred = round(min(maxPreferred, remaining(a.Preferred, now), valid))
	}
	return preferred, valid
}

// IsBrief reports whether a delegation that is given for a preferred lifetime is [Announcement.Brief].
func IsBrief(preferred time.Duration) bool { return preferred > 0 && preferred < 2*shortest }

func atLeastShortest(lifetime time.Duration) time.Duration {
	if lifetime < shortest {
		return 0
	}
	return lifetime.Truncate(time.Second)
}

// AnnouncedRoute is a route to advertise (RFC 4191). One with Withdrawn is announced with lifetime 0.
type AnnouncedRoute struct {
	Prefix    netip.Prefix `json:"prefix"`
	Until     time.Time    `json:"until,omitzero"` // end of the delegation; zero: never
	Withdrawn bool         `json:"withdrawn,omitempty"`
}

func (r AnnouncedRoute) lifetime(now time.Time) time.Duration {
	if r.Withdrawn {
		return 0
	}
	return atLeastShortest(min(routeLifetime, remaining(r.Until, now)))
}

// Content is what a router says on a LAN. An Advertised makes most of it.
type Content struct {
	Default  bool // be a default router
	HopLimit int  // for the hosts' packets; 0: unspecified
	MTU      int  // bytes, at least 1280; 0: not said
	Prefixes []Announcement
	Routes   []AnnouncedRoute
	DNS      []netip.Addr
	Search   []string // host names, lower case
	// NoDNS and NoSearch are announced with lifetime 0, for hosts that may still use them.
	NoDNS    []netip.Addr
	NoSearch []string
}

// check finds what cannot be advertised.
func (c Content) check() error {
	if c.MTU != 0 && c.MTU < minMTU {
		return fmt.Errorf("MTU %d is below the least of IPv6, %d", c.MTU, minMTU)
	}
	if c.HopLimit < 0 || c.HopLimit > 255 {
		return fmt.Errorf("hop limit %d is not in 0..255", c.HopLimit)
	}
	for _, a := range c.Prefixes {
		if !advertisable(a.Prefix) {
			return fmt.Errorf("prefix %v cannot be advertised", a.Prefix)
		}
	}
	for _, r := range c.Routes {
		if !advertisable(r.Prefix) {
			return fmt.Errorf("route to %v cannot be advertised", r.Prefix)
		}
	}
	for _, s := range slices.Concat(c.DNS, c.NoDNS) {
		if !s.Is6() || s.Is4In6() || s.Zone() != "" || s.IsUnspecified() || s.IsMulticast() || s.IsLoopback() {
			return fmt.Errorf("DNS server %v cannot be advertised", s)
		}
	}
	for _, d := range slices.Concat(c.Search, c.NoSearch) {
		if !validDomain(d) {
			return fmt.Errorf("search domain %q is not a host name in lower case of at most %d bytes", d, maxDomain)
		}
	}
	return nil
}

func advertisable(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && p.Addr().Is6() && !p.Addr().Is4In6() && p.Bits() > 0 &&
		!p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() && !p.Addr().IsLoopback()
}

func (c Content) clone() Content {
	c.Prefixes, c.Routes = slices.Clone(c.Prefixes), slices.Clone(c.Routes)
	c.DNS, c.Search = slices.Clone(c.DNS), slices.Clone(c.Search)
	c.NoDNS, c.NoSearch = slices.Clone(c.NoDNS), slices.Clone(c.NoSearch)
	return c
}

// Withdrawn is the last word of a router that goes for good: no default, no prefix, no route, no names.
func (c Content) Withdrawn() Content {
	c = c.clone()
	c.Default = false
	for i := range c.Prefixes {
		c.Prefixes[i].Stale = true
	}
	for i := range c.Routes {
		c.Routes[i].Withdrawn = true
	}
	c.NoDNS, c.DNS = append(c.NoDNS, c.DNS...), nil
	c.NoSearch, c.Search = append(c.NoSearch, c.Search...), nil
	return c
}

// least is the shortest lifetime above 0 that hosts are given, which the pace of repetition has to fit.
func (c Content) least(now time.Time) time.Duration {
	least := time.Duration(nameLifetime)
	for _, a := range c.Prefixes {
		preferred, valid := a.lifetimes(now)
		for _, d := range []time.Duration{preferred, valid} {
			if d > 0 {
				least = min(least, d)
			}
		}
	}
	for _, r := range c.Routes {
		if d := r.lifetime(now); d > 0 {
			least = min(least, d)
		}
	}
	return least
}
