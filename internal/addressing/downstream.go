package addressing

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// downstream runs a DHCPv6 server on each LAN whose routers may have prefixes, and knows what they have.
type downstream struct {
	supervisor[*dhcp6.Server]
	log     *slog.Logger
	save    saver
	changed func()
	stored  []dhcp6.Holder // as read at start

	mu        sync.Mutex // guards what follows
	delegator *dhcp6.Delegator
	terms     map[string]*lanTerms // by device; nil before the first plan
	served    map[string]bool      // likewise
}

// lanTerms are what routers on a LAN are given.
type lanTerms struct {
	dhcp6.Terms
	uplinks []string // of the parents; "" for the router's own prefix
}

func newDownstream(log *slog.Logger, save saver, changed func()) *downstream {
	return &downstream{log: log, save: save, changed: changed, delegator: dhcp6.NewDelegator(nil)}
}

// restore takes up what the last run gave.
func (d *downstream) restore(duid dhcp6.DUID, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delegator = dhcp6.NewDelegator(duid)
	d.delegator.Restore(d.stored, now)
	d.stored = nil
}

// configure starts and stops servers so that each LAN that is to have one has one.
func (d *downstream) configure(c *config.Config) {
	specs := make(map[string]spec[*dhcp6.Server])
	served := make(map[string]bool)
	for i := range c.LANs {
		if device := c.LANs[i].Device; c.LANs[i].DelegateLength > 0 {
			served[device] = true
			specs[device] = spec[*dhcp6.Server]{device: device, make: func(func() bool) *dhcp6.Server {
				return dhcp6.NewServer(dhcp6.ServerConfig{Device: device, Log: d.log.With("lan", device), Answer: func(q dhcp6.Datagram, now time.Time) ([]byte, error) {
					return d.answer(device, q, now)
				}})
			}}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served = served
	maps.DeleteFunc(d.terms, func(device string, _ *lanTerms) bool { return !served[device] })
	d.apply(specs)
}

// answer answers a client. What it is given is on the disk before it hears of it.
func (d *downstream) answer(device string, q dhcp6.Datagram, now time.Time) ([]byte, error) {
	d.mu.Lock()
	terms := d.terms[device]
	if terms == nil {
		d.mu.Unlock()
		return nil, nil // what may be given is not known yet: it asks again
	}
	answer, changed, err := d.delegator.Answer(device, &terms.Terms, q.From, q.Data, now)
	d.mu.Unlock()
	if changed {
		d.keep(now)
		d.changed()
	}
	return answer, err
}

func (d *downstream) keep(now time.Time) {
	d.save(docDownstream, func() any {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.delegator.Stored(now)
	})
}

// expire takes from routers what they have not renewed in time.
func (d *downstream) expire(now time.Time) {
	d.mu.Lock()
	changed := d.delegator.Expire(now, func(device string) bool { return d.served[device] })
	d.mu.Unlock()
	if changed {
		d.keep(now)
		d.changed()
	}
}

// update takes up what the latest plan leaves for routers.
func (d *downstream) update(c *config.Config, report *rules.Report, names map[int]string, sources map[string]lanSource, resolvers map[string][]netip.Addr) {
	if report.Defaults == nil {
		return // nothing has been planned yet: routers would be told to leave what they have
	}
	all := make(map[string]*lanTerms)
	for i := range c.LANs {
		if lan := &c.LANs[i]; lan.DelegateLength > 0 {
			t := &lanTerms{Terms: dhcp6.Terms{Bits: lan.DelegateLength, DNS: resolvers[lan.Device], Search: lan.Search, Inform: lan.Advertise}}
			for _, from := range report.Delegable {
				if from.Device == lan.Device {
					t.add(&from, names[from.Uplink], sources)
				}
			}
			all[lan.Device] = t
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.terms = all
}

// add adds a parent. One that several uplinks have is that of the one which may be used.
func (t *lanTerms) add(from *rules.Delegable, uplink string, sources map[string]lanSource) {
	p := dhcp6.Parent{Prefix: from.Delegation.Prefix, Usable: from.Usable, Site: from.Uplink == 0, Taken: from.Taken}
	if !p.Site {
		source, ok := sources[uplink]
		if !ok {
			return // see input
		}
		if p.Preferred, p.Valid, _, ok = source.lifetimes(p.Prefix); !ok {
			return
		}
	}
	i := slices.IndexFunc(t.Parents, func(o dhcp6.Parent) bool { return o.Prefix == p.Prefix })
	switch {
	case i < 0:
		t.Parents, t.uplinks = append(t.Parents, p), append(t.uplinks, uplink)
	case p.Usable && !t.Parents[i].Usable:
		t.Parents[i], t.uplinks[i] = p, uplink
	}
}

// parent returns the index of the parent that a prefix is part of; -1: it is gone.
func (t *lanTerms) parent(prefix netip.Prefix) int {
	if t == nil {
		return -1
	}
	return slices.IndexFunc(t.Parents, func(p dhcp6.Parent) bool { return p.Prefix.Contains(prefix.Addr()) })
}

// addDownstream tells planning what the routers on LANs have been given.
func (e *Engine) addDownstream(out *rules.Config, now time.Time) {
	d := e.downstream
	d.mu.Lock()
	defer d.mu.Unlock()
	holders := d.delegator.Holders()
	for i := range out.LANs {
		lan := &out.LANs[i]
		for _, h := range holders {
			for _, p := range h.Parts {
				if h.Link == lan.Device && lan.DelegateLength > 0 && now.Before(p.Valid) {
					lan.Downstream = append(lan.Downstream, rules.Downstream{Prefix: p.Prefix, Router: h.Router, Number: h.Number})
				}
			}
		}
	}
}

// status lists what routers have, by device.
func (d *downstream) status(now time.Time) map[string][]status.Downstream {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make(map[string][]status.Downstream)
	for _, h := range d.delegator.Holders() {
		for _, p := range h.Parts {
			s := status.Downstream{Prefix: p.Prefix, Router: h.Router, Client: h.Client.String(), IAID: h.IAID, ValidS: remaining(p.Valid, now)}
			if t := d.terms[h.Link]; t.parent(p.Prefix) >= 0 {
				i := t.parent(p.Prefix)
				s.Uplink, s.Usable = t.uplinks[i], t.Parents[i].Usable
			}
			list[h.Link] = append(list[h.Link], s)
		}
	}
	return list
}

// problems names LANs on which routers get less than they could have.
func (d *downstream) problems(now time.Time) []rules.Problem {
	var problems []rules.Problem
	servers := d.all()
	for _, device := range slices.Sorted(maps.Keys(servers)) {
		if err := servers[device].client.Failure(); err != nil {
			problems = append(problems, rules.Problem{Code: "dhcpv6-server", Severity: "warning", Message: fmt.Sprintf("no router on %s gets a prefix: %v", device, err),
				Fix: fmt.Sprintf("stop the DHCPv6 server that has the port, or have it share the port (dnsmasq: bind-dynamic); or do without delegate_length for %s", device)})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.delegator.Lacks(now) {
		what := fmt.Sprintf("%v has no part left for a router on %s", l.Parent, l.Link)
		if !l.Parent.IsValid() {
			what = fmt.Sprintf("too many routers on %s ask for prefixes", l.Link)
		}
		problems = append(problems, rules.Problem{Code: "downstream-exhausted", Severity: "warning", Message: what,
			Fix: fmt.Sprintf("give routers on %s longer prefixes (delegate_length), or ask the provider for a shorter one (prefix_hint)", l.Link)})
	}
	return problems
}
