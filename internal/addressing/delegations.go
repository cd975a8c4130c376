package addressing

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

// releaseTimeout is how long a server is told that we give a prefix back (RFC 9915 section 18.2.7 tries for
// some 15 s; whoever changed the configuration does not want to wait so long for the next client).
const releaseTimeout = 3 * time.Second

// delegations runs a DHCPv6 client for each uplink that asks for a prefix, or for an address.
type delegations struct {
	supervisor[*dhcp6.Client]
	log     *slog.Logger
	save    saver
	changed func(uplink string, c dhcp6.Change)

	mu          sync.Mutex
	held        map[string]dhcp6.Lease // by uplink name
	delegatedBy map[string]netip.Addr  // likewise, the router that was in use when the prefixes were given
	undelegated map[string]bool        // likewise, those without any
}

func newDelegations(log *slog.Logger, save saver, changed func(string, dhcp6.Change)) *delegations {
	return &delegations{log: log, save: save, changed: changed, held: make(map[string]dhcp6.Lease), delegatedBy: make(map[string]netip.Addr), undelegated: make(map[string]bool)}
}

// restore drops what no server can have given. It is used before a client looks at it.
func (l *delegations) restore() {
	for name, lease := range l.held {
		l.held[name] = lease.Usable()
	}
}

// request is what a client is configured to ask for.
type request struct {
	duid       string // "": this router's own
	id         uint32 // the IAID: that of the uplink is kept for life, and is no other uplink's
	vendor     string
	user       string // a line for each class
	delegation bool
	hint       netip.Prefix
	address    bool
}

// configure starts and stops clients so that each uplink that asks for something has one. The DUIDs are this router's own and, nil if there is none,
// that of a pair.
func (l *delegations) configure(c *config.Config, ids map[string]int, duid, pair dhcp6.DUID) {
	specs := make(map[string]spec[*dhcp6.Client])
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		r := request{u.IPv6.DUID, uint32(ids[u.Name]), u.IPv6.VendorClass, strings.Join(u.IPv6.UserClass, "\n"), u.IPv6.Delegation, u.IPv6.PrefixHint, u.IPv6.RequestAddress}
		if u.IPv6.IAID != nil {
			r.id = *u.IPv6.IAID
		}
		if u.Moves() && pair != nil && r.duid == "" {
			r.duid = pair.String()
		}
		if r.delegation || r.address {
			specs[u.Name] = spec[*dhcp6.Client]{device: u.Device, hardware: u.HardwareAddress, key: r, onRemove: release,
				make: func(current func() bool) *dhcp6.Client { return l.client(u.Name, u.Device, r, duid, current) }}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.held, func(name string, _ dhcp6.Lease) bool { return !l.sameLink(name, specs) })
	maps.DeleteFunc(l.delegatedBy, func(name string, _ netip.Addr) bool { _, holds := l.held[name]; return !holds })
	maps.DeleteFunc(l.undelegated, func(name string, _ bool) bool { return !l.sameLink(name, specs) })
	for i := range c.Waiting {
		l.leave(c.Waiting[i].Name, nil) // the other router goes on with it
	}
	l.apply(specs)
}

func (r *request) class() dhcp6.Class {
	var c dhcp6.Class
	c.Enterprise, c.Vendor = config.VendorClass(r.vendor)
	if r.user != "" {
		c.User = strings.Split(r.user, "\n")
	}
	return c
}

// release gives back what the configuration no longer asks for. A restart does not: the prefix shall be there
// afterwards.
func release(ctx context.Context, c *dhcp6.Client) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	_ = c.Release(ctx) // a server that does not answer keeps it until it expires
}

// client makes the client of an uplink. The lock is held.
func (l *delegations) client(name, device string, r request, duid dhcp6.DUID, current func() bool) *dhcp6.Client {
	if r.duid != "" {
		if err := duid.UnmarshalText([]byte(r.duid)); err != nil {
			l.log.Error("a DUID that was checked cannot be read", "uplink", name, "err", err)
		}
	}
	cfg := dhcp6.Config{Device: device, DUID: duid, Class: r.class(), Log: l.log.With("uplink", name), OnChange: func(c dhcp6.Change) { l.update(name, c, current) }}
	if r.delegation {
		cfg.IAPD = []dhcp6.IAPD{{ID: r.id, Hint: r.hint}}
	}
	if r.address {
		cfg.IANA = []uint32{r.id}
	}
	if held, ok := l.held[name]; ok {
		cfg.Last = &held
	}
	return dhcp6.New(cfg)
}

// update takes a change of a lease, from a client's goroutine.
func (l *delegations) update(name string, c dhcp6.Change, current func() bool) {
	l.mu.Lock()
	if !current() {
		l.mu.Unlock()
		return
	}
	switch {
	case c.Lease != nil:
		l.held[name] = *c.Lease
	case c.Reason == dhcp6.Restored:
		// It seems to have expired, and the server is being asked for it all the same: the document must
		// outlast another restart before the answer. Nothing uses it meanwhile.
	default:
		delete(l.held, name)
	}
	l.mu.Unlock()
	l.keep()
	l.changed(name, c)
}

// keep saves the leases.
func (l *delegations) keep() {
	l.save(docLeases6, func() any {
		l.mu.Lock()
		defer l.mu.Unlock()
		return maps.Clone(l.held)
	})
}

// lease returns what an uplink holds.
func (l *delegations) lease(name string) (dhcp6.Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, ok := l.held[name]
	return lease, ok
}

// delegating returns the router by way of which the prefixes of an uplink were given; zero: not known.
func (l *delegations) delegating(name string) netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delegatedBy[name]
}

// setDelegating notes the router by way of which the prefixes of an uplink were given.
func (l *delegations) setDelegating(name string, router netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, holds := l.held[name]; holds {
		l.delegatedBy[name] = router
	}
}

// without reports whether it is known that no server delegates anything to an uplink. That outlasts a restart: the server is asked anew then,
// and hosts that have another network instead keep it meanwhile.
func (l *delegations) without(name string, now time.Time) bool {
	i := l.get(name)
	lacks := i != nil && lackReason(i.device, i.client.Lack(), now) != ""
	l.mu.Lock()
	holds := slices.ContainsFunc(l.held[name].Prefixes, func(p dhcp6.Delegation) bool { return now.Before(p.Valid) })
	without := !holds && (lacks || l.undelegated[name])
	changed := without != l.undelegated[name]
	if l.undelegated[name] = without; !without {
		delete(l.undelegated, name)
	}
	l.mu.Unlock()
	if changed {
		l.save(docUndelegated, func() any {
			l.mu.Lock()
			defer l.mu.Unlock()
			return maps.Clone(l.undelegated)
		})
	}
	return without
}

// verify has the server asked whether what is held still belongs to the link.
func (l *delegations) verify(name string) {
	if i := l.get(name); i != nil {
		i.client.Verify()
	}
}

// learned adds what the leases give now. An expired one is not used, even if the client has not been asked yet.
func (l *delegations) learned(out planinput.Learned, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, lease := range l.held {
		given := out.Of(name)
		for _, p := range lease.Prefixes {
			if now.Before(p.Valid) {
				given.Delegations = append(given.Delegations, rules.Delegation{Prefix: p.Prefix, Exclude: p.Exclude, Deprecated: !now.Before(p.Preferred)})
			}
		}
		holds := len(given.Delegations) > 0 || slices.ContainsFunc(lease.Addresses, func(a dhcp6.Address) bool { return now.Before(a.Valid) })
		for _, server := range lease.DNS {
			if !holds {
				break // a lease of an earlier run that has lapsed
			}
			given.Resolvers = append(given.Resolvers, planinput.Resolver{Addr: server, From: planinput.FromDHCPv6})
		}
		for _, a := range lease.Addresses {
			if now.Before(a.Valid) {
				if given.IPv6 == nil {
					given.IPv6 = &rules.Assignment{NoDefault: true}
				}
				given.IPv6.Addresses = append(given.IPv6.Addresses, rules.Address{Prefix: netip.PrefixFrom(a.Address, 128), Deprecated: !now.Before(a.Preferred)})
			}
		}
	}
}

// answerTimeout is how long no server need answer before that is worth a problem.
const answerTimeout = 20 * time.Second

// problems names the uplinks to which no prefix is delegated though one is asked for: they work, and the LANs do not.
// Instead returns the network that a LAN may have in its place, zero for none.
func (l *delegations) problems(now time.Time, instead func(uplink string) netip.Prefix) []rules.Problem {
	var problems []rules.Problem
	clients := l.all()
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		i := clients[name]
		why := lackReason(i.device, i.client.Lack(), now)
		if why == "" {
			continue
		}
		p := rules.Problem{Code: "no-delegation", Severity: "warning", Message: fmt.Sprintf("%s has no delegated prefix, so LANs get no IPv6 from it: %s", name, why),
			Fix: "ask the provider whether your contract includes a prefix (DHCPv6-PD), put a routing modem into bridge mode, or check the VLAN; " +
				"if there is none, remove delegation = true"}
		if network := instead(name); network.IsValid() {
			p.Severity, p.Message = "notice", fmt.Sprintf("%s has no delegated prefix, so one LAN has the network of its own line, %v: %s", name, network, why)
			p.Fix += ", and set share = true"
		}
		problems = append(problems, p)
	}
	return problems
}

// lackReason says why an uplink has no delegation; "" as long as that may still come.
func lackReason(device string, lack *dhcp6.Lack, now time.Time) string {
	switch {
	case lack == nil || lack.Refusal == "" && now.Sub(lack.Since) < answerTimeout:
		return ""
	case lack.Refusal != "":
		return lack.Refusal
	}
	return fmt.Sprintf("no DHCPv6 server answers on %s, asked since %s", device, lack.Since.Format(time.TimeOnly))
}

// onDelegation hears of a changed lease.
func (e *Engine) onDelegation(name string, c dhcp6.Change) {
	if c.Lease != nil && e.routers.mayHaveDelegated(name, e.delegations.delegating(name)) {
		switch c.Reason {
		case dhcp6.Granted, dhcp6.Renewed, dhcp6.Rebound, dhcp6.Verified:
			e.delegations.setDelegating(name, e.routers.inUse(name))
		}
	}
	e.o.Changed()
	parts := make([]string, len(c.Prefixes))
	changed := false
	for i, p := range c.Prefixes {
		parts[i] = fmt.Sprintf("%v %s", p.Prefix, p.Outcome)
		changed = changed || p.Outcome != dhcp6.Extended
	}
	log := e.o.Log.Debug
	if changed {
		log = e.o.Log.Info
		var evidence []string
		if c.Note != "" {
			evidence = []string{c.Note}
		}
		e.o.OnEvent(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv6.String(), Reason: string(c.Reason), Evidence: evidence,
			Message: strings.Join(parts, ", ")})
	}
	log("delegation", "uplink", name, "reason", string(c.Reason), "parts", strings.Join(parts, ", "), "note", c.Note)
}

// Delegated lists the prefixes of an uplink with what remains of their lifetimes.
func (e *Engine) Delegated(u *config.Uplink, now time.Time) []status.Delegated {
	var list []status.Delegated
	if lease, ok := e.delegations.lease(u.Name); ok {
		list = delegated(lease, now)
	}
	if u.IPv6.Shares(e.delegations.without(u.Name, now)) {
		for _, own := range sharedNetworks(e.routers.view(u.Name)) {
			if unexpired(own.Valid, now) {
				list = append(list, status.Delegated{Prefix: own.Address.Masked(), PreferredS: remaining(own.Preferred, now), ValidS: remaining(own.Valid, now)})
			}
		}
	}
	if prefix := e.delegated6RD(u); prefix.IsValid() {
		list = append(list, status.Delegated{Prefix: prefix, PreferredS: infiniteSeconds, ValidS: infiniteSeconds})
	}
	if prefix := u.IPv6.Prefix; prefix.IsValid() {
		list = slices.DeleteFunc(list, func(have status.Delegated) bool { return have.Prefix == prefix })
		list = slices.Insert(list, 0, status.Delegated{Prefix: prefix, PreferredS: infiniteSeconds, ValidS: infiniteSeconds})
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

// infiniteSeconds is what an infinite lifetime looks like in seconds (RFC 9915 section 7.7).
const infiniteSeconds = 1<<32 - 1

func remaining(until, now time.Time) int64 {
	if until.Equal(dhcp6.Never()) || until.IsZero() {
		return infiniteSeconds
	}
	return max(0, int64(until.Sub(now)/time.Second))
}
