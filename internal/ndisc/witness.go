package ndisc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Other is another router that advertises on our LAN.
type Other struct {
	Router     netip.Addr // its link-local address
	Lifetime   time.Duration
	Preference Preference
	Prefixes   []netip.Prefix
	// Conflicts say where it contradicts us (RFC 4861 section 6.2.7).
	Conflicts []string
	// Expires is when it is forgotten unless it is heard again.
	Expires time.Time
}

const (
	maxOthers = 16
	// quietOther is the longest that a router is remembered which offers prefixes but no default route: no
	// router is silent for longer (MaxRtrAdvInterval, RFC 4861 section 6.2.1).
	quietOther = 1800 * time.Second
)

// witness remembers the other routers of a LAN.
type witness struct {
	others  []Other
	changed bool
}

// heard takes another router's advertisement in.
func (w *witness) heard(from netip.Addr, a advert, ours *Content, now time.Time) {
	o := Other{Router: from, Lifetime: a.lifetime, Preference: a.preference, Expires: now.Add(a.lifetime)}
	for _, p := range a.prefixes {
		o.Prefixes = append(o.Prefixes, p.prefix)
		if a.lifetime == 0 {
			o.Expires = latest(o.Expires, now.Add(min(p.valid, quietOther)))
		}
	}
	slices.SortFunc(o.Prefixes, netip.Prefix.Compare)
	if ours != nil {
		o.Conflicts = ours.conflicts(a, now)
	}
	i := slices.IndexFunc(w.others, func(known Other) bool { return known.Router == from })
	if over(o.Expires, now) { // it says goodbye
		if i >= 0 {
			w.others, w.changed = slices.Delete(w.others, i, i+1), true
		}
		return
	}
	if i < 0 {
		if len(w.others) >= maxOthers {
			return
		}
		w.others, w.changed = append(w.others, o), true
		slices.SortFunc(w.others, func(a, b Other) int { return a.Router.Compare(b.Router) })
		return
	}
	known := w.others[i]
	w.changed = w.changed || known.Lifetime != o.Lifetime || known.Preference != o.Preference ||
		!slices.Equal(known.Prefixes, o.Prefixes) || !slices.Equal(known.Conflicts, o.Conflicts)
	w.others[i] = o
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// forget drops those that have been silent for their lifetime.
func (w *witness) forget(now time.Time) {
	n := len(w.others)
	w.others = slices.DeleteFunc(w.others, func(o Other) bool { return over(o.Expires, now) })
	w.changed = w.changed || len(w.others) != n
}

func (w *witness) deadline() time.Time {
	var d time.Time
	for _, o := range w.others {
		d = earlier(d, o.Expires)
	}
	return d
}

// conflicts compares what two routers of one link should agree on (RFC 4861 section 6.2.7). Values that mean
// "unspecified" contradict nothing.
func (c *Content) conflicts(a advert, now time.Time) []string {
	var found []string
	differ := func(what string, theirs, ours any) {
		if theirs != ours {
			found = append(found, fmt.Sprintf("%s %v, ours is %v", what, theirs, ours))
		}
	}
	if a.hopLimit != 0 && c.HopLimit != 0 {
		differ("hop limit", a.hopLimit, c.HopLimit)
	}
	differ("managed flag", a.managed, c.Managed)
	differ("other flag", a.other, c.Other)
	if a.mtu != 0 && c.MTU != 0 {
		differ("MTU", a.mtu, c.MTU)
	}
	for _, theirs := range a.prefixes {
		for _, ours := range c.Prefixes {
			if theirs.prefix != ours.Prefix {
				continue
			}
			preferred, valid := ours.lifetimes(now)
			what := "prefix " + theirs.prefix.String() + ": "
			if (theirs.preferred - preferred).Abs() > clockTolerance {
				differ(what+"preferred lifetime", theirs.preferred, preferred)
			}
			if (theirs.valid - valid).Abs() > clockTolerance {
				differ(what+"valid lifetime", theirs.valid, valid)
			}
		}
	}
	return found
}
