package dhcp6

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/iana"
)

// maxEntries bounds what is held: each prefix costs the router rules and routes, and a Reply has room for
// two thousand.
const maxEntries = 32

// minTimes floors T1 where the client chooses it: never "at once" (RFC 9915 section 18.2.4).
const minTimes = time.Second

// lackRetry bounds T1 while something that is wanted was not given: T1 can be days away, and a Renew may ask
// for it any time (section 18.2.4).
const lackRetry = 10 * time.Minute

// entry is a prefix, or an address as a prefix of 128 bits, held until moments of the monotonic clock.
type entry struct {
	ia               iaKey
	prefix, exclude  netip.Prefix
	preferred, valid time.Duration
}

// binding is what we hold.
type binding struct {
	server  DUID
	heard   time.Duration
	t1, t2  time.Duration
	entries []entry // sorted
	dns     []netip.Addr
	domains []string
}

// iaResult is what a message means for one association.
type iaResult struct {
	ia
	live []grant // usable
	gone []grant // valid lifetime 0
	code iana.StatusCode
}

// results returns what a message means for each wanted association that it has. A status may stand at the
// top, in the association or in the prefix, whatever the RFC says about which belongs where.
func (m *message) results(wanted []iaKey) []iaResult {
	var out []iaResult
	for _, a := range m.ias {
		if !slices.Contains(wanted, a.iaKey) {
			continue
		}
		o := iaResult{ia: a, code: a.status.code}
		for _, g := range a.grants {
			switch {
			case g.valid == 0:
				o.gone = append(o.gone, g)
			case g.status.code != iana.StatusSuccess:
				o.code = cmp.Or(o.code, g.status.code)
			case a.status.code == iana.StatusSuccess && !m.failed():
				o.live = append(o.live, g)
			}
		}
		if len(o.live) == 0 {
			o.code = cmp.Or(o.code, m.status.code)
		}
		out = append(out, o)
	}
	return out
}

// failed reports whether the status at the top speaks of the whole message. Servers of RFC 3315's days say
// there that they have no addresses, and delegate prefixes below (RFC 7550 section 4.1).
func (m *message) failed() bool {
	switch m.status.code {
	case iana.StatusSuccess, iana.StatusNoAddrsAvail, iana.StatusNoPrefixAvail, iana.StatusNoBinding:
		return false
	}
	return true
}

// explain returns the status that tells most about a message without a grant.
func (m *message) explain() string {
	if m.status.code != iana.StatusSuccess {
		return m.status.String()
	}
	for _, a := range m.ias {
		if a.status.code != iana.StatusSuccess {
			return a.iaKey.String() + ": " + a.status.String()
		}
		for _, g := range a.grants {
			if g.status.code != iana.StatusSuccess {
				return g.prefix.String() + ": " + g.status.String()
			}
		}
	}
	return "nothing given"
}

// merge takes in a Reply (section 18.2.10.1): adds, updates, drops what has a valid lifetime of 0 and keeps
// what is not mentioned. A fresh Reply, to a Request, replaces what it does not mention of an association
// that it fills or refuses. Any other that gives an association something new deprecates what it does not mention
// there: the provider has renumbered, and mostly routes the old prefix no more.
func (b *binding) merge(m *message, results []iaResult, now time.Duration, fresh bool) []PrefixChange {
	outcomes, before := make(map[netip.Prefix]Outcome), make(map[netip.Prefix]bool)
	for _, e := range b.entries {
		before[e.prefix] = true
	}
	for _, o := range results {
		for _, g := range o.gone {
			b.drop(outcomes, Withdrawn, func(e entry) bool { return e.ia == o.iaKey && e.prefix == g.prefix })
		}
		for _, g := range o.live {
			if !b.put(entry{o.iaKey, g.prefix, g.exclude, after(now, g.preferred), after(now, g.valid)}) {
				continue
			}
			outcomes[g.prefix] = Added
			if before[g.prefix] {
				outcomes[g.prefix] = Extended
			}
		}
	}
	for _, o := range results {
		outcome := Replaced
		if len(o.live) == 0 {
			outcome = Refused
		}
		if fresh && (len(o.live) > 0 || refusal(o.code)) {
			b.drop(outcomes, outcome, func(e entry) bool { return e.ia == o.iaKey && !o.has(e.prefix) })
		} else if slices.ContainsFunc(o.live, func(g grant) bool { return !before[g.prefix] }) {
			b.deprecate(outcomes, now, func(e entry) bool { return e.ia == o.iaKey && !o.has(e.prefix) })
		}
	}
	// An association that comes twice may take away what it has just given.
	maps.DeleteFunc(outcomes, func(p netip.Prefix, f Outcome) bool { return f.Gone() && !before[p] })
	b.server, b.heard = m.server, now
	// A malformed option is no word about name servers; a missing one is.
	if !m.badDNS {
		b.dns = m.dns
	}
	if !m.badDomains {
		b.domains = m.domains
	}
	return changesOf(outcomes)
}

func (o *iaResult) has(p netip.Prefix) bool {
	return slices.ContainsFunc(o.live, func(g grant) bool { return g.prefix == p })
}

// refusal reports whether a status says that the server has and gives nothing, not that it failed.
func refusal(c iana.StatusCode) bool {
	switch c {
	case iana.StatusNoAddrsAvail, iana.StatusNoPrefixAvail, iana.StatusNoBinding, iana.StatusNotOnLink:
		return true
	}
	return false
}

// put adds or updates an entry, unless there is no room. A prefix is held once, in the association that a
// server named last.
func (b *binding) put(e entry) bool {
	b.entries = slices.DeleteFunc(slices.Clone(b.entries), func(have entry) bool { return have.prefix == e.prefix })
	if len(b.entries) == maxEntries {
		return false
	}
	i, _ := slices.BinarySearchFunc(b.entries, e, order)
	b.entries = slices.Insert(b.entries, i, e)
	return true
}

func order(a, b entry) int {
	pd := 0
	if a.ia.pd != b.ia.pd {
		pd = 1
		if a.ia.pd {
			pd = -1
		}
	}
	return cmp.Or(pd, cmp.Compare(a.ia.id, b.ia.id), a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
}

// drop removes entries and notes their outcome.
func (b *binding) drop(outcomes map[netip.Prefix]Outcome, outcome Outcome, which func(entry) bool) {
	b.entries = slices.DeleteFunc(slices.Clone(b.entries), func(e entry) bool {
		if which(e) {
			outcomes[e.prefix] = outcome
			return true
		}
		return false
	})
}

// deprecate ends the preferred lifetimes of entries and notes their outcome.
func (b *binding) deprecate(outcomes map[netip.Prefix]Outcome, now time.Duration, which func(entry) bool) {
	b.entries = slices.Clone(b.entries)
	for i := range b.entries {
		if e := &b.entries[i]; which(*e) && e.preferred > now {
			e.preferred = now
			outcomes[e.prefix] = Deprecated
		}
	}
}

// expire removes what is over.
func (b *binding) expire(now time.Duration) []PrefixChange {
	outcomes := make(map[netip.Prefix]Outcome)
	b.drop(outcomes, Expired, func(e entry) bool { return e.valid <= now })
	return changesOf(outcomes)
}

func changesOf(outcomes map[netip.Prefix]Outcome) []PrefixChange {
	var changes []PrefixChange
	for p, f := range outcomes {
		changes = append(changes, PrefixChange{p, f})
	}
	slices.SortFunc(changes, func(a, b PrefixChange) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return changes
}

// schedule sets T1 and T2: the earliest over the associations (section 18.2.4), and soon for what the Reply
// left out, so that it is not lost.
func (b *binding) schedule(results []iaResult, wanted []iaKey, now time.Duration) {
	b.t1, b.t2 = never, never
	for _, key := range wanted {
		t1, t2 := never, never
		if i := slices.IndexFunc(results, func(o iaResult) bool { return o.iaKey == key && len(o.live) > 0 }); i >= 0 {
			t1, t2 = results[i].times()
		} else if left := b.remaining(key, now); left > 0 {
			t1, t2 = choose(left)
		} else {
			t1 = lackRetry
		}
		b.t1, b.t2 = min(b.t1, after(now, t1)), min(b.t2, after(now, t2))
	}
	b.t1 = min(b.t1, b.t2)
}

// remaining returns the shortest valid lifetime that is left in an association; 0 if it holds nothing.
func (b *binding) remaining(key iaKey, now time.Duration) time.Duration {
	left := time.Duration(0)
	for _, e := range b.entries {
		if e.ia == key && (left == 0 || e.valid-now < left) {
			left = e.valid - now
			if e.valid == never {
				left = never
			}
		}
	}
	return left
}

// times returns T1 and T2 of an association that grants something, as spans. Zero is our choice. What lies
// behind the end of the lease is ours too, for following it would lose the lease; only "for ever" is taken at
// its word.
func (o *iaResult) times() (t1, t2 time.Duration) {
	preferred, valid := never, never
	for _, g := range o.live {
		valid = min(valid, g.valid)
		if g.preferred > 0 { // 0 is deprecated, and no reason to hurry
			preferred = min(preferred, g.preferred)
		}
	}
	t1, t2 = o.t1, o.t2
	ours1, ours2 := choose(min(preferred, valid))
	if t2 == 0 || t2 != never && t2 >= valid {
		t2 = max(ours2, t1)
		if t1 != never && t2 >= valid {
			t2 = ours2
		}
	}
	if t1 == 0 || t1 != never && t1 >= valid {
		t1 = ours1
	}
	return min(t1, t2), t2
}

// choose returns T1 and T2 for a lifetime: half of it, and four fifths (section 21.4).
func choose(life time.Duration) (t1, t2 time.Duration) {
	if life == never {
		return never, never
	}
	t1 = max(life/2, minTimes)
	return t1, t1 / 5 * 8
}

// end returns when the first and the last entry expire; never for none.
func (b *binding) end() (first, last time.Duration) {
	if len(b.entries) == 0 {
		return never, never
	}
	first = never
	for _, e := range b.entries {
		first, last = min(first, e.valid), max(last, e.valid)
	}
	return first, last
}

// lease returns the binding in times of the wall clock; nil when nothing is held.
func (b *binding) lease(now instant) *Lease {
	if len(b.entries) == 0 {
		return nil
	}
	l := &Lease{Server: b.server, Heard: now.at(b.heard), Renew: now.at(b.t1), Rebind: now.at(b.t2),
		DNS: slices.Clone(b.dns), Domains: slices.Clone(b.domains)}
	for _, e := range b.entries {
		preferred, valid := now.at(e.preferred), now.at(e.valid)
		if e.ia.pd {
			l.Prefixes = append(l.Prefixes, Delegation{e.ia.id, e.prefix, e.exclude, preferred, valid})
		} else {
			l.Addresses = append(l.Addresses, Address{e.ia.id, e.prefix.Addr(), preferred, valid})
		}
	}
	return l
}
