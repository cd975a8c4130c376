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
	Here       bool       // another program of this machine: the address is ours
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

// otherRouters remembers the other routers of a LAN.
type otherRouters struct {
	list    []Other
	changed bool
}

// receive takes an advertisement of another router in, of which nothing but who it is is known.
func (r *otherRouters) receive(o Other, a advert, ours *Content, now time.Time) {
	o.Lifetime, o.Preference, o.Expires = a.lifetime, a.preference, now.Add(a.lifetime)
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
	i := slices.IndexFunc(r.list, func(known Other) bool { return known.Router == o.Router })
	if over(o.Expires, now) { // it goes
		if i >= 0 {
			r.list, r.changed = slices.Delete(r.list, i, i+1), true
		}
		return
	}
	if i < 0 {
		if len(r.list) >= maxOthers {
			return
		}
		r.list, r.changed = append(r.list, o), true
		slices.SortFunc(r.list, func(a, b Other) int { return a.Router.Compare(b.Router) })
		return
	}
	known := r.list[i]
	r.changed = r.changed || known.Lifetime != o.Lifetime || known.Preference != o.Preference ||
		!slices.Equal(known.Prefixes, o.Prefixes) || !slices.Equal(known.Conflicts, o.Conflicts)
	r.list[i] = o
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// expire drops those that have been silent for their lifetime.
func (r *otherRouters) expire(now time.Time) {
	n := len(r.list)
	r.list = slices.DeleteFunc(r.list, func(o Other) bool { return over(o.Expires, now) })
	r.changed = r.changed || len(r.list) != n
}

func (r *otherRouters) deadline() time.Time {
	var d time.Time
	for _, o := range r.list {
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
	differ("managed flag", a.managed, false)
	differ("other flag", a.other, false)
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
