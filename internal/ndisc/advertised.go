package ndisc

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

const (
	// minWithdrawal is the least time for which a prefix that is gone is advertised with lifetimes 0, also when its lifetimes have run
	// out on the hosts: theirs is another clock. It is the time of a few advertisements.
	minWithdrawal = 3 * maxInterval
	// maxStale bounds the prefixes that are gone, against a provider that renumbers all day. The ones that
	// hosts forget first are left out first.
	maxStale = 32
)

// LivePrefix is a prefix of a LAN, cut from a delegation.
type LivePrefix struct {
	Prefix     netip.Prefix // the LAN's /64
	Uplink     string       // where it comes from
	Delegation netip.Prefix // the whole of it; zero: advertise no route to it
	Preferred  time.Time    // end of the delegation's preferred lifetime; zero: never
	Valid      time.Time    // end of the delegation's valid lifetime; zero: never
	Usable     bool         // the uplink carries new traffic now
	Brief      bool         // the provider never gives it for long; see Announcement
}

// Input is what an Advertised is told of a LAN.
type Input struct {
	// Prefixes are all that the uplinks' leases give this LAN, usable or not. One that is missing counts as
	// taken away, so the first Input after a restart has to hold what the stored leases give.
	Prefixes []LivePrefix
	// AnyUsable says that some uplink carries new IPv6 traffic of this LAN.
	AnyUsable bool
	ULA       netip.Prefix // the LAN's /64 of the site's own prefix; zero: none
	Site      netip.Prefix // the site's own prefix, usually a /48; zero: advertise no route to it
	DNS       []netip.Addr
	Search    []string
}

// Advertised knows what the hosts of one LAN have been told and what they are to be told next. It is kept as
// JSON, so that a prefix which changed while we were off is still withdrawn (RFC 9096 section 3.5).
type Advertised struct {
	Entries  []Entry         `json:"entries,omitempty"` // by prefix
	NoDNS    []WithdrawnName `json:"no_dns,omitempty"`
	NoSearch []WithdrawnName `json:"no_search,omitempty"`
	DNS      []string        `json:"dns,omitempty"`
	Search   []string        `json:"search,omitempty"`
	Default  bool            `json:"default,omitempty"`
	// ByOthers is true while another program advertises on the LAN: what is here hosts know from that one, if at all.
	ByOthers bool `json:"untold,omitempty"`
}

// Entry is a prefix that has been advertised.
type Entry struct {
	Announcement
	Uplink     string       `json:"uplink,omitempty"`
	Delegation netip.Prefix `json:"delegation,omitzero"`
	// Held is until when hosts may hold the prefix from what they were told before its present terms.
	Held time.Time `json:"held,omitzero"`
}

// WithdrawnName is a name that is not to be used any more.
type WithdrawnName struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"` // when no host remembers it
}

// Update takes the present situation in and returns what to advertise. The result stays right while time
// passes, until the situation changes; calling it more often does no harm. The caller adds what need not
// be remembered: HopLimit and MTU.
func (l *Advertised) Update(in Input, now time.Time) Content {
	live := in.live()
	var next []Entry
	for _, old := range l.Entries {
		p, back := live[old.Prefix]
		switch {
		case back:
			next = append(next, old.renew(p, in.AnyUsable, now))
			delete(live, old.Prefix)
		case !old.Stale:
			next = append(next, old.retire(now))
		case now.Before(old.Valid):
			next = append(next, old)
		}
	}
	for _, p := range live { // new ones: as if they came back after all had forgotten them
		next = append(next, (Entry{Announcement: Announcement{Prefix: p.Prefix, Stale: true}}).renew(p, in.AnyUsable, now))
	}
	slices.SortFunc(next, func(a, b Entry) int { return a.Prefix.Compare(b.Prefix) })
	l.Entries = bounded(next)
	l.Default = in.AnyUsable
	var servers []string
	for _, s := range in.DNS {
		servers = append(servers, s.String())
	}
	l.NoDNS, l.DNS = withdraw(l.NoDNS, l.DNS, servers, now), servers
	l.NoSearch, l.Search = withdraw(l.NoSearch, l.Search, in.Search, now), slices.Clone(in.Search)
	return l.Content()
}

// live lists the prefixes of an input. The site's own is like one of an uplink that never fails.
func (in Input) live() map[netip.Prefix]LivePrefix {
	live := make(map[netip.Prefix]LivePrefix)
	for _, p := range in.Prefixes {
		live[p.Prefix] = p
	}
	if in.ULA.IsValid() {
		live[in.ULA] = LivePrefix{Prefix: in.ULA, Delegation: in.Site, Usable: true}
	}
	return live
}

// renew gives a prefix its present terms. A prefix whose uplink fails is deprecated only when another can
// take over. With nowhere to go, all stay as they are: it would gain nothing to move hosts from one dead
// prefix to another, and router lifetime 0 says it (RFC 7084 G-5).
func (e Entry) renew(p LivePrefix, anyUsable bool, now time.Time) Entry {
	if e.Stale {
		e = Entry{Announcement: Announcement{Prefix: e.Prefix}, Held: e.Valid}
	} else if shorter(p.Valid, e.Valid) {
		e.Held = e.held(now)
	}
	if over(e.Held, now) {
		e.Held = time.Time{}
	}
	e.Uplink, e.Delegation, e.Preferred, e.Valid, e.Brief = p.Uplink, p.Delegation, p.Preferred, p.Valid, p.Brief
	if p.Usable || anyUsable {
		e.Deprecated = !p.Usable
	}
	return e
}

// held is until when hosts may hold the prefix by now: somebody may have heard its longest lifetime a moment
// ago. While terms only get longer it need not be kept, for then it only gets later.
func (e Entry) held(now time.Time) time.Time {
	end := now.Add(maxValid)
	if shorter(e.Valid, end) {
		end = e.Valid
	}
	if end.Before(e.Held) {
		return e.Held
	}
	return end
}

// shorter reports whether end a comes before end b.
func shorter(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || a.Before(b)) }

// retire withdraws a prefix from now on, for as long as hosts may hold it, and at least for minWithdrawal.
func (e Entry) retire(now time.Time) Entry {
	end := e.held(now)
	if least := now.Add(minWithdrawal); end.Before(least) {
		end = least
	}
	e.Stale, e.Deprecated, e.Held = true, false, time.Time{}
	e.Preferred, e.Valid = time.Time{}, end
	return e
}

// bounded leaves out the stale entries above the limit, those first that hosts forget first.
func bounded(entries []Entry) []Entry {
	var ends []time.Time
	for _, e := range entries {
		if e.Stale {
			ends = append(ends, e.Valid)
		}
	}
	if len(ends) <= maxStale {
		return entries
	}
	slices.SortFunc(ends, func(a, b time.Time) int { return b.Compare(a) })
	least, room := ends[maxStale-1], maxStale
	return slices.DeleteFunc(entries, func(e Entry) bool {
		if !e.Stale {
			return false
		}
		if e.Valid.Before(least) || room == 0 {
			return true
		}
		room--
		return false
	})
}

// withdraw adds what was in use and is no more, and drops what is in use again or forgotten by all.
func withdraw(names []WithdrawnName, before, after []string, now time.Time) []WithdrawnName {
	names = slices.Clone(names)
	for _, name := range before {
		names = slices.DeleteFunc(names, func(d WithdrawnName) bool { return d.Name == name })
		names = append(names, WithdrawnName{name, now.Add(nameLifetime)})
	}
	names = slices.DeleteFunc(names, func(d WithdrawnName) bool { return slices.Contains(after, d.Name) || over(d.Until, now) })
	slices.SortFunc(names, func(a, b WithdrawnName) int { return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.Name, b.Name)) })
	if len(names) > maxNames {
		names = names[len(names)-maxNames:]
	}
	return names
}

// Content is what the latest Update returned; with Withdrawn, it is the last word to a LAN that another
// process has advertised on.
func (l *Advertised) Content() Content {
	c := Content{Default: l.Default, Search: slices.Clone(l.Search)}
	routed := make(map[netip.Prefix]int) // index in c.Routes
	for _, e := range l.Entries {
		c.Prefixes = append(c.Prefixes, e.Announcement)
		if !e.Delegation.IsValid() {
			continue
		}
		r := AnnouncedRoute{Prefix: e.Delegation, Until: e.Valid, Withdrawn: e.Stale}
		i, known := routed[e.Delegation]
		switch {
		case !known:
			routed[e.Delegation] = len(c.Routes)
			c.Routes = append(c.Routes, r)
		case c.Routes[i].Withdrawn && !r.Withdrawn:
			c.Routes[i] = r
		}
	}
	for _, s := range l.DNS {
		if addr, err := netip.ParseAddr(s); err == nil {
			c.DNS = append(c.DNS, addr)
		}
	}
	for _, d := range l.NoDNS {
		if addr, err := netip.ParseAddr(d.Name); err == nil {
			c.NoDNS = append(c.NoDNS, addr)
		}
	}
	for _, d := range l.NoSearch {
		c.NoSearch = append(c.NoSearch, d.Name)
	}
	return c
}
