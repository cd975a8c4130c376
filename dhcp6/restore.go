package dhcp6

import (
	"net/netip"
	"slices"
	"time"
)

// longAgo bounds how far back a stored time is told from others, so that arithmetic does not wrap.
const longAgo = 100 * 365 * 24 * time.Hour

// restore takes over the lease of an earlier run. What the wall clock says to be over comes back as former:
// it is not held, but asked for again. doc.go says why a lease from the future is believed.
func restore(l *Lease, wanted []iaKey, now instant) (held binding, former []entry, changes []PrefixChange) {
	held = binding{server: l.Server, t1: never, t2: never, dns: l.DNS, domains: l.Domains}
	if len(l.Server) < minDUID || len(l.Server) > maxDUID {
		held.server = nil
	}
	read := now.wall
	if l.Heard.After(read) {
		read = l.Heard
	}
	moment := func(t time.Time) time.Duration {
		if !t.Before(Never()) {
			return never
		}
		return after(now.mono, max(t.Sub(read), -longAgo))
	}
	held.heard = moment(l.Heard)
	outcomes := make(map[netip.Prefix]Outcome)
	take := func(e entry) {
		e.preferred = min(e.preferred, e.valid)
		switch {
		case !slices.Contains(wanted, e.ia):
			outcomes[e.prefix] = Unwanted
		case e.valid <= now.mono:
			outcomes[e.prefix] = Expired
			former = append(former, e)
		default:
			outcomes[e.prefix] = Kept
			held.put(e)
		}
	}
	usable := l.Usable()
	for _, d := range usable.Prefixes {
		take(entry{iaKey{true, d.IAID}, d.Prefix, d.Exclude, moment(d.Preferred), moment(d.Valid)})
	}
	for _, a := range usable.Addresses {
		take(entry{iaKey{false, a.IAID}, netip.PrefixFrom(a.Address, 128), netip.Prefix{}, moment(a.Preferred), moment(a.Valid)})
	}
	held.t1, held.t2 = moment(l.Renew), moment(l.Rebind)
	if held.server == nil {
		// There is nobody to renew with.
		held.t2 = min(held.t1, held.t2)
	}
	held.t1 = min(held.t1, held.t2)
	return held, former, changesOf(outcomes)
}

// Usable returns the lease without what no server can have given: the disk may be damaged.
func (l *Lease) Usable() Lease {
	u := *l
	u.Prefixes, u.Addresses = nil, nil
	for _, d := range l.Prefixes {
		if d.Prefix = d.Prefix.Masked(); !d.Prefix.IsValid() || d.Prefix.Bits() < shortestPrefix || !routable(d.Prefix.Addr()) {
			continue
		}
		if d.Exclude = d.Exclude.Masked(); d.Exclude.Bits() <= d.Prefix.Bits() || !d.Prefix.Contains(d.Exclude.Addr()) {
			d.Exclude = netip.Prefix{}
		}
		u.Prefixes = append(u.Prefixes, d)
	}
	for _, a := range l.Addresses {
		if routable(a.Address) {
			u.Addresses = append(u.Addresses, a)
		}
	}
	return u
}
