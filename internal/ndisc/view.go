package ndisc

import (
	"net/netip"
	"slices"
	"time"
)

// Router is a router that was heard on the link. Times are absolute here and below, so that they survive a
// restart; the zero time never comes.
type Router struct {
	Addr        netip.Addr `json:"addr"` // link-local
	Preference  Preference `json:"preference"`
	Default     bool       `json:"default"`               // it offers a default route,
	Expires     time.Time  `json:"expires,omitzero"`      // until then
	MTU         int        `json:"mtu,omitempty"`         // bytes; 0: not said
	Heard       time.Time  `json:"heard"`                 // its latest advertisement
	Unreachable bool       `json:"unreachable,omitempty"` // it answers no neighbour solicitation
}

// Prefix is a prefix that a router announced for the link.
type Prefix struct {
	Prefix     netip.Prefix `json:"prefix"`
	OnLink     bool         `json:"on_link"`
	Autonomous bool         `json:"autonomous"`
	Preferred  time.Time    `json:"preferred,omitzero"` // end; may be past
	Valid      time.Time    `json:"valid,omitzero"`     // end
	Routers    []netip.Addr `json:"routers,omitempty"`  // that announce it; none: not known
}

// Address is an address that we form in an autonomous /64 (RFC 7217).
type Address struct {
	Address   netip.Prefix `json:"address"`             // with host bits
	Preferred time.Time    `json:"preferred,omitzero"`  // end; may be past
	Valid     time.Time    `json:"valid,omitzero"`      // end
	Conflicts int          `json:"conflicts,omitempty"` // the DAD counter: addresses before it that were taken
	Failed    bool         `json:"failed,omitempty"`    // this one too, and we have given up
	Heard     time.Time    `json:"heard,omitzero"`      // the latest advertisement of its prefix
	Routers   []netip.Addr `json:"routers,omitempty"`   // that announce its prefix, or did last; none: not known
}

// Route is a route that a router announced (RFC 4191). The default route is in Router.
type Route struct {
	Prefix     netip.Prefix `json:"prefix"`
	Router     netip.Addr   `json:"router"`
	Preference Preference   `json:"preference"`
	Expires    time.Time    `json:"expires,omitzero"`
}

// Server is a DNS server (RFC 8106).
type Server struct {
	Addr    netip.Addr `json:"addr"` // a link-local one is one of this link
	Expires time.Time  `json:"expires,omitzero"`
}

// Translator is the NAT64 of a provider (RFC 8781), by the prefix of the IPv6 addresses that stand for IPv4 (RFC 6052).
type Translator struct {
	Prefix  netip.Prefix `json:"prefix"`
	Router  netip.Addr   `json:"router"` // that announces it
	Expires time.Time    `json:"expires,omitzero"`
}

// Domain is a domain of the DNS search list (RFC 8106).
type Domain struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires,omitzero"`
}

// State is all that was learned, as it is kept over a restart.
type State struct {
	Routers   []Router  `json:"routers,omitempty"` // in the order in which they were first heard
	Prefixes  []Prefix  `json:"prefixes,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
	Routes    []Route   `json:"routes,omitempty"`
	DNS       []Server  `json:"dns,omitempty"`
	Search    []Domain  `json:"search,omitempty"`

	NAT64 []Translator `json:"nat64,omitempty"`
	// Chosen is the router in use.
	Chosen netip.Addr `json:"chosen,omitzero"`
}

// View is what holds now.
type View struct {
	Routers   []Router  // that offer a default route, the one to be used first
	Prefixes  []Prefix  // not expired
	Addresses []Address // not expired, not failed, and of a prefix of the router to be used
	// Foreign are the prefixes that only other routers of the link announce: what has such a source goes by them alone
	// (RFC 8028 section 3).
	Foreign []netip.Prefix
	// Unreachable are the routers, and other gateways that SetGateways told of, that answer no neighbour solicitation.
	Unreachable []netip.Addr
	// Unanswered counts how often the router in use did not answer though the uplink works, by what is known: it is time to
	// probe it.
	Unanswered int
	Routes     []Route // not expired; of several to one prefix the better is first
	DNS        []Server
	NAT64      []Translator // of the router in use
	Search     []Domain
	MTU        int // bytes: the smallest that a router has named; 0: none has
	State      State
}

// view makes the View of a state from which what is over has been removed.
func (s State) view() View {
	s = s.clone()
	v := View{Prefixes: s.Prefixes, DNS: s.DNS, Search: s.Search, State: s.clone()}
	for _, r := range s.Routers {
		if r.Default {
			v.Routers = append(v.Routers, r)
		}
		if r.MTU > 0 && (v.MTU == 0 || r.MTU < v.MTU) {
			v.MTU = r.MTU
		}
	}
	// The sort is stable: among equals the one that was heard first stays the choice.
	slices.SortStableFunc(v.Routers, func(a, b Router) int {
		if (a.Addr == s.Chosen) != (b.Addr == s.Chosen) {
			return ordered(b.Addr == s.Chosen)
		}
		return a.compare(&b)
	})
	for _, a := range s.Addresses {
		if !a.Failed && s.fits(a.Routers) {
			v.Addresses = append(v.Addresses, a)
		}
	}
	for _, p := range s.Prefixes {
		if !s.fits(p.Routers) {
			v.Foreign = append(v.Foreign, p.Prefix)
		}
	}
	for _, t := range s.NAT64 {
		if t.Router == s.Chosen || !s.Chosen.IsValid() {
			v.NAT64 = append(v.NAT64, t)
		}
	}
	v.Routes = s.Routes
	unreachable := func(router netip.Addr) bool {
		return slices.ContainsFunc(s.Routers, func(r Router) bool { return r.Addr == router && r.Unreachable })
	}
	slices.SortStableFunc(v.Routes, func(a, b Route) int {
		if c := a.Prefix.Compare(b.Prefix); c != 0 {
			return c
		}
		if ua, ub := unreachable(a.Router), unreachable(b.Router); ua != ub {
			return ordered(ua)
		}
		return int(b.Preference - a.Preference)
	})
	return v
}

// ordered puts true last.
func ordered(last bool) int {
	if last {
		return 1
	}
	return -1
}

func (s State) clone() State {
	return State{
		Routers: slices.Clone(s.Routers), Prefixes: slices.Clone(s.Prefixes), Addresses: slices.Clone(s.Addresses),
		Routes: slices.Clone(s.Routes), DNS: slices.Clone(s.DNS), Search: slices.Clone(s.Search), Chosen: s.Chosen, NAT64: slices.Clone(s.NAT64),
	}
}

// until is the end of a lifetime.
func until(now time.Time, lifetime time.Duration) time.Time {
	if lifetime == forever {
		return time.Time{}
	}
	return now.Add(lifetime)
}

// over reports whether an end has come.
func over(end, now time.Time) bool { return !end.IsZero() && !now.Before(end) }

// remaining is the time until an end; forever when it never comes, and not below zero.
func remaining(end, now time.Time) time.Duration {
	if end.IsZero() {
		return forever
	}
	return max(end.Sub(now), 0)
}

// earlier returns the earlier of two deadlines; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
