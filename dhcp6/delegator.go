package dhcp6

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// Bounds of what a Delegator keeps, whatever is asked of it.
const (
	// maxHolders is how many associations hold something at one time, over all links.
	maxHolders = 256
	// maxOfRouter is how many of these one link-local address may have made.
	maxOfRouter = 8
	// maxKnown bounds those that are remembered besides, so that who comes back gets what it had.
	maxKnown = 512
	// maxParts bounds the prefixes of one, those that it is to leave included.
	maxParts = 16
	// shortestPart is the shortest prefix that a router is believed to have been given.
	shortestPart = 49
	// maxNumber bounds the search for a free part of a prefix.
	maxNumber = 4096
)

// Lifetimes that routers are given at most, those of router advertisements (RFC 9096 section 3.4): who goes without a word keeps
// nobody else waiting for long.
const (
	maxPreferred = 2700 * time.Second
	maxValid     = 5400 * time.Second
	// maxRenew bounds T1. A Renew is the only occasion to say that a prefix is to be left: Reconfigure needs keys (RFC 9915
	// section 20.4) that few clients want.
	maxRenew = time.Minute
	// keepAhead is by how much stored ends are later than those that were told, so that not each Renew is written to the disk.
	keepAhead = 30 * time.Minute
)

// Parent is a prefix of which routers on a link are given parts.
type Parent struct {
	Prefix           netip.Prefix
	Preferred, Valid time.Time // ends of its own lifetimes; zero: never
	Usable           bool      // for new connections; else routers are told that their parts are deprecated
	// Site is true for the router's own prefix (RFC 4193), which is no way to the Internet.
	Site bool
	// Taken are parts of it that are others' networks.
	Taken []netip.Prefix
}

// Terms are what routers on a link are given.
type Terms struct {
	Bits    int // the length of their prefixes
	Parents []Parent
	DNS     []netip.Addr
	Search  []string
	// Inform has hosts that ask for DNS alone answered (Information-request).
	Inform bool
}

// Part is what a router has of a parent.
type Part struct {
	Prefix netip.Prefix `json:"prefix"`
	Valid  time.Time    `json:"valid"` // until when it may use it, by what it was told
	// kept is the end that is stored.
	kept time.Time
}

// Holder is an association of a router on a link, with what it holds.
type Holder struct {
	Link   string     `json:"link"` // the device
	Client DUID       `json:"client"`
	IAID   uint32     `json:"iaid"`
	Router netip.Addr `json:"router"` // its link-local address
	// Number says which part of each parent is wanted for it, counted from the last: no two have the same.
	Number int `json:"number"`
	// Parts are empty when it has left, or its lifetimes are over. Then it is remembered for its number alone.
	Parts []Part    `json:"parts,omitempty"`
	Heard time.Time `json:"heard"`
}

// Delegator is a delegating router (RFC 9915 section 6.3) as far as it can be without clock, socket and disk. It is for one goroutine
// at a time.
type Delegator struct {
	duid    DUID
	holders []*Holder // in the order of their first message
	lacks   map[Lacking]time.Time
}

// Lacking is a parent of which a router on a link had nothing, because no part was left; without a Parent, there were too many routers.
type Lacking struct {
	Link   string
	Parent netip.Prefix
}

// lackFor is how long it is told that something was lacking. Clients ask again at least twice within that time.
const lackFor = 10 * time.Minute

// NewDelegator makes one that knows nobody.
func NewDelegator(server DUID) *Delegator {
	return &Delegator{duid: server, lacks: make(map[Lacking]time.Time)}
}

// Lacks lists what was lacking of late.
func (d *Delegator) Lacks(now time.Time) []Lacking {
	maps.DeleteFunc(d.lacks, func(_ Lacking, at time.Time) bool { return now.Sub(at) > lackFor })
	return slices.SortedFunc(maps.Keys(d.lacks), func(a, b Lacking) int { return cmp.Or(cmp.Compare(a.Link, b.Link), a.Parent.Compare(b.Parent)) })
}

func (d *Delegator) lack(at Lacking, now time.Time) {
	if len(d.lacks) >= maxKnown { // a provider that renumbers all day
		clear(d.lacks)
	}
	d.lacks[at] = now
}

// Restore takes up what was stored, as far as it can have been. Times without a monotonic reading get one, and none is later than
// it can be.
func (d *Delegator) Restore(stored []Holder, now time.Time) {
	latest, numbers := now.Add(maxValid+keepAhead), d.numbers()
	for i := range stored {
		h := stored[i]
		if h.Link == "" || len(h.Client) < minDUID || len(h.Client) > maxDUID || !h.Router.IsLinkLocalUnicast() || h.Router.Zone() != "" ||
			h.Number < 0 || h.Number >= maxNumber || d.find(h.Link, h.Client, h.IAID) != nil || numbers[h.Number] || len(d.holders) >= maxKnown {
			continue
		}
		var parts []Part
		for _, p := range h.Parts {
			end := now.Add(p.Valid.Sub(now.Round(0)))
			if end.After(latest) {
				end = latest
			}
			if p.Prefix.IsValid() && p.Prefix == p.Prefix.Masked() && routable(p.Prefix.Addr()) && p.Prefix.Bits() >= shortestPart && p.Prefix.Bits() <= 64 &&
				now.Before(end) && len(parts) < maxParts && len(d.held(p.Prefix, nil)) == 0 {
				parts = append(parts, Part{Prefix: p.Prefix, Valid: end, kept: end})
			}
		}
		h.Parts = parts
		d.holders, numbers[h.Number] = append(d.holders, &h), true
	}
}

// Stored returns what Restore takes, in times of the clock as it is now.
func (d *Delegator) Stored(now time.Time) []Holder {
	list := d.Holders()
	for i := range list {
		list[i].Heard = list[i].Heard.Round(0)
		for j := range list[i].Parts {
			p := &list[i].Parts[j]
			p.Valid = now.Round(0).Add(p.kept.Sub(now))
		}
	}
	return list
}

// Holders lists who holds something, and who is remembered.
func (d *Delegator) Holders() []Holder {
	list := make([]Holder, len(d.holders))
	for i, h := range d.holders {
		list[i] = *h
		list[i].Parts = slices.Clone(h.Parts)
	}
	return list
}

// Expire takes from routers what they have not renewed in time, and from those on links that are not served. It reports whether
// anything was.
func (d *Delegator) Expire(now time.Time, served func(link string) bool) (changed bool) {
	for _, h := range d.holders {
		before := len(h.Parts)
		gone := !served(h.Link)
		h.Parts = slices.DeleteFunc(h.Parts, func(p Part) bool { return gone || !now.Before(p.Valid) })
		changed = changed || len(h.Parts) != before
	}
	return changed
}

func (d *Delegator) find(link string, client DUID, iaid uint32) *Holder {
	for _, h := range d.holders {
		if h.Link == link && h.IAID == iaid && slices.Equal(h.Client, client) {
			return h
		}
	}
	return nil
}

func (d *Delegator) numbers() map[int]bool {
	taken := make(map[int]bool, len(d.holders))
	for _, h := range d.holders {
		taken[h.Number] = true
	}
	return taken
}

// held lists what others than a holder have of a prefix.
func (d *Delegator) held(prefix netip.Prefix, but *Holder) (list []netip.Prefix) {
	for _, h := range d.holders {
		for _, p := range h.Parts {
			if h != but && p.Prefix.Overlaps(prefix) {
				list = append(list, p.Prefix)
			}
		}
	}
	return list
}

// holder returns the holder of an association, made if need be; nil: there is no room. It is among the known ones only after join.
func (d *Delegator) holder(link string, client DUID, iaid uint32, router netip.Addr, now time.Time) *Holder {
	if h := d.find(link, client, iaid); h != nil {
		return h
	}
	holding, own := 0, 0
	for _, h := range d.holders {
		if len(h.Parts) > 0 {
			holding++
			if h.Link == link && h.Router == router {
				own++
			}
		}
	}
	if holding >= maxHolders || own >= maxOfRouter {
		d.lack(Lacking{Link: link}, now)
		return nil
	}
	h := &Holder{Link: link, Client: slices.Clone(client), IAID: iaid, Router: router}
	for taken := d.numbers(); taken[h.Number]; {
		h.Number++
	}
	return h
}

// join has a holder known from now on. Whoever has been away the longest is forgotten if there is no room.
func (d *Delegator) join(h *Holder) {
	if slices.Contains(d.holders, h) {
		return
	}
	d.holders = append(d.holders, h)
	for len(d.holders) > maxKnown {
		oldest := -1
		for i, o := range d.holders {
			if len(o.Parts) == 0 && o != h && (oldest < 0 || o.Heard.Before(d.holders[oldest].Heard)) {
				oldest = i
			}
		}
		d.holders = slices.Delete(d.holders, oldest, oldest+1) // there is one, for holders are fewer
	}
}

// choose returns the part of a parent that is a holder's; false: none is left. Wanted are what it asks for, if these are free.
func (d *Delegator) choose(h *Holder, parent *Parent, bits int, wanted []netip.Prefix) (netip.Prefix, bool) {
	fits := func(p netip.Prefix) bool {
		return p.Bits() == bits && bits > parent.Prefix.Bits() && bits <= 64 && parent.Prefix.Contains(p.Addr()) &&
			!slices.ContainsFunc(parent.Taken, p.Overlaps)
	}
	for _, listed := range []bool{true, false} { // an answer may have been lost
		for _, p := range h.Parts {
			if fits(p.Prefix) && slices.Contains(wanted, p.Prefix) == listed {
				return p.Prefix, true
			}
		}
	}
	others := d.held(parent.Prefix, h)
	free := func(p netip.Prefix) bool { return fits(p) && !slices.ContainsFunc(others, p.Overlaps) }
	if i := slices.IndexFunc(wanted, free); i >= 0 {
		return wanted[i], true
	}
	if p, ok := inet.LastPart(parent.Prefix, bits, h.Number); ok && free(p) {
		return p, true
	}
	// Its own is taken, or the parent has not so many: another one, that of somebody who is away the last.
	numbers := d.numbers()
	for _, absent := range []bool{false, true} {
		for number := range maxNumber {
			p, ok := inet.LastPart(parent.Prefix, bits, number)
			if !ok {
				break
			}
			if numbers[number] == absent && free(p) {
				return p, true
			}
		}
	}
	return netip.Prefix{}, false
}

// offers lists what a holder is given now, in whole seconds.
func (d *Delegator) offers(h *Holder, t *Terms, wanted []netip.Prefix, now time.Time) []grant {
	// With nowhere to go, all stay as they are: see Advertised.renew of internal/ndisc.
	some := slices.ContainsFunc(t.Parents, func(p Parent) bool { return p.Usable && !p.Site })
	var list []grant
	for i := range t.Parents {
		parent := &t.Parents[i]
		valid := min(maxValid, left(parent.Valid, now)).Truncate(time.Second)
		if valid <= 0 || len(list) == maxParts/2 {
			continue
		}
		prefix, ok := d.choose(h, parent, t.Bits, wanted)
		if !ok {
			d.lack(Lacking{h.Link, parent.Prefix}, now)
		}
		if !ok || slices.ContainsFunc(list, func(o grant) bool { return o.prefix.Overlaps(prefix) }) {
			continue
		}
		o := grant{prefix: prefix, valid: valid}
		if parent.Usable || !some {
			o.preferred = min(maxPreferred, valid, left(parent.Preferred, now).Truncate(time.Second))
		}
		list = append(list, o)
	}
	return list
}

func left(end, now time.Time) time.Duration {
	if end.IsZero() {
		return never
	}
	return max(0, end.Sub(now))
}

// take notes what a holder is told. What it had before, and is told to leave, stays in its name until it must have left. It reports
// whether that has to be stored: others, or later ends than those that are stored.
func (h *Holder) take(offers []grant, router netip.Addr, now time.Time) (changed bool) {
	changed = h.Router != router
	h.Router, h.Heard = router, now
	for _, o := range offers {
		i := slices.IndexFunc(h.Parts, func(p Part) bool { return p.Prefix == o.prefix })
		if i < 0 {
			h.Parts, i, changed = append(h.Parts, Part{Prefix: o.prefix}), len(h.Parts), true
		}
		// A lost answer leaves the router with the later end of two.
		if end := now.Add(o.valid); end.After(h.Parts[i].Valid) {
			h.Parts[i].Valid = end
		}
		if p := &h.Parts[i]; p.Valid.After(p.kept) {
			p.kept, changed = p.Valid.Add(keepAhead), true
		}
	}
	if len(h.Parts) > maxParts { // a provider that renumbers all day
		slices.SortStableFunc(h.Parts, func(a, b Part) int { return cmp.Compare(offered(offers, a), offered(offers, b)) })
		h.Parts = h.Parts[:maxParts]
	}
	return changed
}

func offered(offers []grant, p Part) int {
	if slices.ContainsFunc(offers, func(o grant) bool { return o.prefix == p.Prefix }) {
		return 0
	}
	return 1
}

// times returns T1 and T2 (RFC 9915 section 21.21).
func times(offers []grant) (t1, t2 time.Duration) {
	shortest := never
	for _, life := range []func(grant) time.Duration{func(o grant) time.Duration { return o.preferred }, func(o grant) time.Duration { return o.valid }} {
		for _, o := range offers {
			if l := life(o); l > 0 {
				shortest = min(shortest, l)
			}
		}
		if shortest != never {
			break
		}
	}
	if shortest == never {
		return 0, 0
	}
	t1 = min(maxRenew, shortest/2).Truncate(time.Second)
	return t1, max(t1, (shortest / 5 * 4).Truncate(time.Second))
}
