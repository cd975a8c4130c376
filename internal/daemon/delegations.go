package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// docLeases6 is the document of DHCPv6 leases, by uplink name.
const docLeases6 = "leases6"

// releasePatience is how long a server is told that we give a prefix back (RFC 9915 section 18.2.7 tries for
// some 15 s; whoever changed the configuration does not want to wait so long for the next client).
const releasePatience = 3 * time.Second

// delegations runs a DHCPv6 client for each uplink that asks for a prefix, or for an address.
type delegations struct {
	crew[*dhcp6.Client]
	log     *slog.Logger
	save    func(document string, read func() any)
	changed func(uplink string, c dhcp6.Change)

	holding     sync.Mutex
	held        map[string]dhcp6.Lease // by uplink name
	delegatedBy map[string]netip.Addr  // likewise, the router that was in use when the prefixes were given
}

func newDelegations(log *slog.Logger, save func(document string, read func() any), changed func(string, dhcp6.Change)) *delegations {
	return &delegations{log: log, save: save, changed: changed, held: make(map[string]dhcp6.Lease), delegatedBy: make(map[string]netip.Addr)}
}

// wish is what a client is configured to ask for.
type wish struct {
	id         int // of the uplink, which is the IAID: kept for life, and no other uplink's
	delegation bool
	hint       netip.Prefix
	address    bool
}

// configure starts and stops clients so that each uplink that asks for something has one.
func (l *delegations) configure(c *config.Config, ids map[string]int, duid dhcp6.DUID) {
	posts := make(map[string]post[*dhcp6.Client])
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		w := wish{ids[u.Name], u.IPv6.Delegation, u.IPv6.PrefixHint, u.IPv6.RequestAddress}
		if w.delegation || w.address {
			posts[u.Name] = post[*dhcp6.Client]{device: u.Device, terms: w, goodbye: release,
				make: func(current func() bool) *dhcp6.Client { return l.client(u.Name, u.Device, w, duid, current) }}
		}
	}
	l.holding.Lock()
	// A lease belongs to the network behind a device.
	members := l.all()
	maps.DeleteFunc(l.held, func(name string, _ dhcp6.Lease) bool {
		m, p := members[name], posts[name]
		return p.make == nil || m != nil && m.device != p.device
	})
	maps.DeleteFunc(l.delegatedBy, func(name string, _ netip.Addr) bool { _, holds := l.held[name]; return !holds })
	l.holding.Unlock()
	l.staff(posts)
}

// release gives back what the configuration no longer asks for. A restart does not: the prefix shall be there
// afterwards.
func release(ctx context.Context, c *dhcp6.Client) {
	ctx, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	_ = c.Release(ctx) // a server that does not answer keeps it until it expires
}

func (l *delegations) client(name, device string, w wish, duid dhcp6.DUID, current func() bool) *dhcp6.Client {
	cfg := dhcp6.Config{Device: device, DUID: duid, Log: l.log.With("uplink", name), OnChange: func(c dhcp6.Change) {
		if current() {
			l.update(name, c)
		}
	}}
	if w.delegation {
		cfg.IAPD = []dhcp6.IAPD{{ID: uint32(w.id), Hint: w.hint}}
	}
	if w.address {
		cfg.IANA = []uint32{uint32(w.id)}
	}
	l.holding.Lock()
	defer l.holding.Unlock()
	if held, ok := l.held[name]; ok {
		cfg.Last = &held
	}
	return dhcp6.New(cfg)
}

// update takes a change of a lease, from a client's goroutine.
func (l *delegations) update(name string, c dhcp6.Change) {
	l.holding.Lock()
	switch {
	case c.Lease != nil:
		l.held[name] = *c.Lease
	case c.Reason == dhcp6.Restored:
		// It seems to have expired, and the server is being asked for it all the same: the document must
		// outlast another restart before the answer. Nothing uses it meanwhile.
	default:
		delete(l.held, name)
	}
	l.holding.Unlock()
	l.save(docLeases6, func() any {
		l.holding.Lock()
		defer l.holding.Unlock()
		return maps.Clone(l.held)
	})
	l.changed(name, c)
}

// lease returns what an uplink holds.
func (l *delegations) lease(name string) (dhcp6.Lease, bool) {
	l.holding.Lock()
	defer l.holding.Unlock()
	lease, ok := l.held[name]
	return lease, ok
}

// delegating returns the router by way of which the prefixes of an uplink were given; zero: not known.
func (l *delegations) delegating(name string) netip.Addr {
	l.holding.Lock()
	defer l.holding.Unlock()
	return l.delegatedBy[name]
}

// setDelegating notes the router by way of which the prefixes of an uplink were given.
func (l *delegations) setDelegating(name string, router netip.Addr) {
	l.holding.Lock()
	defer l.holding.Unlock()
	if _, holds := l.held[name]; holds {
		l.delegatedBy[name] = router
	}
}

// verify has the server asked whether what is held still belongs to the link.
func (l *delegations) verify(name string) {
	if m := l.current(name); m != nil {
		m.worker.Verify()
	}
}

// supply adds what the leases give now. An expired one is not used, even if the client has not been asked yet.
func (l *delegations) supply(s planinput.Learned, now time.Time) {
	l.holding.Lock()
	defer l.holding.Unlock()
	for name, lease := range l.held {
		supply := s.Of(name)
		for _, p := range lease.Prefixes {
			if now.Before(p.Valid) {
				supply.Delegations = append(supply.Delegations, rules.Delegation{Prefix: p.Prefix, Exclude: p.Exclude, Deprecated: !now.Before(p.Preferred)})
			}
		}
		for _, a := range lease.Addresses {
			if now.Before(a.Valid) {
				if supply.IPv6 == nil {
					supply.IPv6 = &rules.Assignment{NoDefault: true}
				}
				supply.IPv6.Addresses = append(supply.IPv6.Addresses, rules.Address{Prefix: netip.PrefixFrom(a.Address, 128), Deprecated: !now.Before(a.Preferred)})
			}
		}
	}
}

// silencePatience is how long no server need answer before that is worth a problem.
const silencePatience = 20 * time.Second

// problems names the uplinks to which no prefix is delegated though one is asked for: they work, and the LANs do not.
func (l *delegations) problems(now time.Time) []rules.Problem {
	var problems []rules.Problem
	members := l.all()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		m := members[name]
		if p, ok := lackProblem(name, m.device, m.worker.Lack(), now); ok {
			problems = append(problems, p)
		}
	}
	return problems
}

// lackProblem says why an uplink has no delegation; false as long as that may still come.
func lackProblem(name, device string, lack *dhcp6.Lack, now time.Time) (rules.Problem, bool) {
	if lack == nil || lack.Refusal == "" && now.Sub(lack.Since) < silencePatience {
		return rules.Problem{}, false
	}
	what := lack.Refusal
	if what == "" {
		what = fmt.Sprintf("no DHCPv6 server answers on %s, asked since %s", device, lack.Since.Format(time.TimeOnly))
	}
	return rules.Problem{Code: "no-delegation", Severity: "warning",
		Message: fmt.Sprintf("no prefix is delegated to %s, so LANs have no IPv6 by it: %s", name, what),
		Fix: "ask the provider whether the contract has a prefix (DHCPv6-PD), set a modem that routes itself to bridge mode, or look for the right VLAN; " +
			"if there is none to be had, take delegation = true out"}, true
}

// onDelegation hears of a changed lease.
func (d *Daemon) onDelegation(name string, c dhcp6.Change) {
	if c.Lease != nil && d.routers.mayHaveDelegated(name, d.delegations.delegating(name)) {
		switch c.Reason {
		case dhcp6.Granted, dhcp6.Renewed, dhcp6.Rebound, dhcp6.Verified:
			d.delegations.setDelegating(name, d.routers.inUse(name))
		}
	}
	d.resupply()
	parts := make([]string, len(c.Parts))
	changed := false
	for i, p := range c.Parts {
		parts[i] = fmt.Sprintf("%v %s", p.Prefix, p.Fate)
		changed = changed || p.Fate != dhcp6.Extended
	}
	log := d.log.Debug
	if changed {
		log = d.log.Info
		d.event(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv6.String(), Reason: string(c.Reason), Evidence: noted(c.Note),
			Message: strings.Join(parts, ", ")})
	}
	log("delegation", "uplink", name, "reason", string(c.Reason), "parts", strings.Join(parts, ", "), "note", c.Note)
}

func noted(note string) []string {
	if note == "" {
		return nil
	}
	return []string{note}
}

// prefixes lists all delegations, for a scrape.
func (d *Daemon) prefixes() []status.UplinkPrefix {
	now, c := time.Now(), d.current()
	var list []status.UplinkPrefix
	for i := range c.Uplinks {
		for _, prefix := range d.delegated(&c.Uplinks[i], now) {
			list = append(list, status.UplinkPrefix{Uplink: c.Uplinks[i].Name, Delegated: prefix})
		}
	}
	slices.SortStableFunc(list, func(a, b status.UplinkPrefix) int { return strings.Compare(a.Uplink, b.Uplink) })
	return list
}

// delegated lists the prefixes of an uplink with what remains of their lifetimes.
func (d *Daemon) delegated(u *config.Uplink, now time.Time) []status.Delegated {
	var list []status.Delegated
	if lease, ok := d.delegations.lease(u.Name); ok {
		list = delegated(lease, now)
	}
	if prefix := u.IPv6.Prefix; prefix.IsValid() {
		list = slices.DeleteFunc(list, func(have status.Delegated) bool { return have.Prefix == prefix })
		list = slices.Insert(list, 0, status.Delegated{Prefix: prefix, PreferredS: forEver, ValidS: forEver})
	}
	return list
}

// delegated lists the prefixes of a lease with what remains of their lifetimes.
func delegated(lease dhcp6.Lease, now time.Time) []status.Delegated {
	var list []status.Delegated
	for _, p := range lease.Prefixes {
		if now.Before(p.Valid) {
			list = append(list, status.Delegated{Prefix: p.Prefix, PreferredS: remaining(p.Preferred, now), ValidS: remaining(p.Valid, now)})
		}
	}
	slices.SortFunc(list, func(a, b status.Delegated) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

// forEver is what an infinite lifetime looks like in seconds (RFC 9915 section 7.7).
const forEver = 1<<32 - 1

func remaining(until, now time.Time) int64 {
	if until.Equal(dhcp6.Never()) || until.IsZero() {
		return forEver
	}
	return max(0, int64(until.Sub(now)/time.Second))
}
