package pair

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

const (
	// programTimeout is how long the owner's program may take before a handover, and planTimeout how long the kernel.
	programTimeout = 4 * time.Second
	planTimeout    = 2 * time.Second
	// arriveTimeout is how long keepalived may take for the rest, when the first address has come.
	arriveTimeout = 2 * time.Second
	// lingerTime is for how long a router that has yielded sends on what still comes: until keepalived has told everybody.
	lingerTime = 1500 * time.Millisecond
	// leaveTimeout is how long keepalived may take from the first address or route of a line that it takes away until the role has gone with the others.
	leaveTimeout = time.Second
	// heldFor is how long the other router is told of a line that has gone. What has gone with the role is to come there.
	heldFor = 10 * time.Second
	// protocolKeepalived is on routes of keepalived (RTPROT_KEEPALIVED, linux/rtnetlink.h).
	protocolKeepalived = 18
	// connectedMetric6 is that of IPv6 routes that the kernel makes with addresses (IP6_RT_PRIO_ADDRCONF).
	connectedMetric6 = 256
)

// docLines is the document of the lines that the primary has, by uplink and family.
const docLines = "lines"

// SuccessorOptions are what a Successor is made of. None of the functions may call a method of it, but Replan.
type SuccessorOptions struct {
	Log     *slog.Logger
	Primary func() bool
	// Config returns the whole configuration in force, and a copy of its ids.
	Config func() (*config.Config, map[string]int)
	// Replan has it planned anew, at once; Planned reports whether the kernel has what was planned with what Plans returns.
	Replan  func()
	Planned func() bool
}

// Successor knows what keepalived is about to bring to this router of a pair, or has just taken away. All is planned as if it were here: keepalived
// moves one thing after the other, and hosts and providers hear of it one after the other. Make one with [NewSuccessor]; all methods may be called by any goroutine.
type Successor struct {
	o SuccessorOptions

	mu      sync.Mutex           // guards what follows
	awaited *Awaited             // nil: nothing
	held    map[string]*heldLine // by uplink and family
}

// heldLine is a line that the primary has, or had a moment ago.
type heldLine struct {
	Line
	all   *Awaited  // what of it is in the kernel
	seen  time.Time // when something of it was
	whole time.Time // when all of it was; zero: never
	going bool      // something of it is missing
}

// NewSuccessor returns a Successor that awaits nothing.
func NewSuccessor(o SuccessorOptions) *Successor { return &Successor{o: o} }

// Awaited is what is to come, or has just gone.
type Awaited struct {
	Config *config.Config // that the backup plans for
	IDs    map[string]int
	phase  phase
	addrs  []rules.Addr
	routes []netcfg.Route
	paths  map[rules.Path]bool
	// delegations are those of lines, by name.
	delegations map[string][]rules.Delegation
}

type phase uint8

const (
	comes    phase = iota // this router is the backup, and has what it will need
	arrives               // it has become primary, and the rest follows
	yields                // it is the primary, and yields
	lingered              // it is the backup, and what is still sent here goes on
	leaves                // it is the primary, and keepalived takes away what it has
)

// Awaits returns what is awaited, nil for nothing.
func (s *Successor) Awaits() *Awaited {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.awaited
}

// swap puts something in the place of what is awaited, unless that is something else by now.
func (s *Successor) swap(a, next *Awaited) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.awaited != a {
		return false
	}
	s.awaited = next
	return true
}

// Yielding awaits that lines go, where this router is the primary, until done is called or the role changes.
func (s *Successor) Yielding(lines []Line) (done func(), err error) {
	c, ids := s.o.Config()
	if !c.Pair.On() || !s.o.Primary() {
		return func() {}, nil
	}
	a, err := newAwaited(c, ids, lines, yields)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.awaited = a // in place of what has just arrived
	s.mu.Unlock()
	return func() { s.swap(a, nil) }, nil
}

// Held returns the document of the lines that the primary has, of those that it sees now.
func (s *Successor) Held(lines []Line, now time.Time) (document string, held map[string]Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(map[string]*heldLine)
	}
	for _, line := range lines {
		key := line.Uplink + "/" + line.family().String()
		if have := s.held[key]; have != nil && have.same(&line) {
			have.seen = now
			continue
		}
		c, ids := s.o.Config()
		all, err := newAwaited(c, ids, []Line{line}, leaves)
		if err != nil || len(all.addrs) == 0 {
			continue // nor could the other router plan for it
		}
		s.held[key] = &heldLine{Line: line, all: all, seen: now}
	}
	held = make(map[string]Line, len(s.held))
	for key, line := range s.held {
		if now.Sub(line.seen) > heldFor {
			delete(s.held, key)
			continue
		}
		held[key] = line.Line
	}
	return docLines, held
}

// showLeaving shows lines whole of which keepalived has taken away something: the role goes next, and until then nothing moves to another line. The lock
// is held.
func (s *Successor) showLeaving(obs *rules.Observed, now time.Time) {
	for _, line := range s.held {
		addrs, routes := len(obs.Addrs), len(obs.Routes)
		if line.all.show(obs) {
			line.whole, line.going = now, false
			continue
		}
		up := slices.ContainsFunc(obs.Links, func(l rules.Link) bool { return l.Name == line.all.addrs[0].Device && l.Up }) // else the kernel has taken it
		if line.whole.IsZero() || !up || now.Sub(line.whole) > leaveTimeout && line.going {
			obs.Addrs, obs.Routes = obs.Addrs[:addrs], obs.Routes[:routes]
			continue
		}
		if !line.going {
			line.going, line.whole = true, now
			time.AfterFunc(leaveTimeout+time.Millisecond, s.o.Replan)
		}
	}
}

// Turned hears that this router has become primary, or backup, and what the other one has said. One that was not prepared awaits the lines that the
// other one had.
func (s *Successor) Turned(records map[string]map[string]json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = nil
	a := s.awaited
	if a == nil && s.o.Primary() {
		a = s.inherited(records[docLines])
	}
	if a == nil {
		return
	}
	next, lasts := *a, time.Duration(0)
	switch primary := s.o.Primary(); {
	case primary && a.phase == comes:
		next.phase, lasts = arrives, arriveTimeout
	case !primary && a.phase == yields:
		next.phase, lasts = lingered, lingerTime
	default:
		s.awaited = nil
		return
	}
	s.awaited = &next
	time.AfterFunc(lasts, func() { s.forget(&next) })
}

// inherited is what a router awaits that has become primary without a word; nil: nothing. The lock is held.
func (s *Successor) inherited(held map[string]json.RawMessage) *Awaited {
	var lines []Line
	for key, value := range held {
		var line Line
		if value == nil {
			continue
		}
		if err := json.Unmarshal(value, &line); err != nil {
			s.o.Log.Warn("pair: a line of the other router", "line", key, "err", err)
			continue
		}
		lines = append(lines, line)
	}
	c, ids := s.o.Config()
	a, err := newAwaited(c, ids, lines, comes)
	if err != nil || len(a.paths) == 0 {
		return nil // what comes is seen when it has
	}
	return a
}

// forget ends what is awaited, unless that is something else by now.
func (s *Successor) forget(a *Awaited) {
	if s.swap(a, nil) {
		s.o.Replan()
	}
}

// Prepare has all in force for lines that come with the role of the primary, before keepalived brings them: conntrackd's connections and our rules. With
// nil, they come no more. It is called again until they come: what has begun meanwhile is prepared for.
func (s *Successor) Prepare(ctx context.Context, lines []Line) error {
	a := s.Awaits()
	coming := a != nil && a.phase == comes
	if s.o.Primary() || lines == nil && !coming {
		return nil
	}
	if lines == nil {
		s.forget(a)
		err := s.runProgram(ctx, "abandoned")
		if err != nil {
			s.o.Log.Warn("pair", "err", err)
		}
		return err
	}
	if err := s.runProgram(ctx, "coming"); err != nil || coming { // what is planned is there since the first time
		return err
	}
	if err := s.await(lines); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !s.o.Planned() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("what the lines need is not in the kernel after %v: %w", planTimeout, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// runProgram runs the owner's program, which is told whether a handover is coming, or abandoned.
func (s *Successor) runProgram(ctx context.Context, handover string) error {
	c, _ := s.o.Config()
	run := c.Pair.Prepare
	if len(run) == 0 {
		return nil
	}
	if err := (hooks.Command{Program: run[0], Args: run[1:], Timeout: programTimeout, Vars: map[string]string{"HANDOVER": handover}}).Run(ctx); err != nil {
		return fmt.Errorf("[pair] prepare: %w", err)
	}
	return nil
}

// await plans for lines that are not here yet.
func (s *Successor) await(lines []Line) error {
	c, ids := s.o.Config()
	a, err := newAwaited(c, ids, lines, comes)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.o.Primary() { // it has turned meanwhile; from here on Turned waits
		s.mu.Unlock()
		return nil
	}
	s.awaited = a
	s.mu.Unlock()
	s.o.Replan()
	return nil
}

// newAwaited says what the kernel will hold. The ids are changed.
func newAwaited(whole *config.Config, ids map[string]int, lines []Line, now phase) (*Awaited, error) {
	c := whole.Prepared()
	if _, err := planinput.AssignIDs(c, ids); err != nil {
		return nil, err
	}
	a := &Awaited{phase: now, Config: c, IDs: ids, paths: make(map[rules.Path]bool), delegations: make(map[string][]rules.Delegation)}
	for _, line := range lines {
		at := slices.IndexFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == line.Uplink && u.Shared })
		if at < 0 || !line.usable() {
			continue
		}
		device, family, everywhere := c.Uplinks[at].Device, rules.IPv4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		scope, metric := netcfg.ScopeLink, uint32(0)
		if line.family() == rules.IPv6 {
			family, everywhere, scope, metric = rules.IPv6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), 0, connectedMetric6
		}
		if len(line.Delegations) > 0 {
			a.delegations[line.Uplink] = line.Delegations
		}
		a.paths[rules.Path{Uplink: ids[line.Uplink], Family: family}] = true
		for _, p := range line.Addresses {
			a.addrs = append(a.addrs, rules.Addr{Device: device, Prefix: p})
			if !p.IsSingleIP() {
				a.routes = append(a.routes, netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p.Masked(), Metric: metric, Protocol: protocolKeepalived,
					Scope: scope, Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}})
			}
		}
		a.routes = append(a.routes, netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: everywhere, Metric: 1, Protocol: protocolKeepalived,
			Nexthops: []netcfg.Nexthop{{Device: device, Gateway: line.Gateway, Weight: 1}}})
	}
	return a, nil
}

// Tell adds what leases give to what this router has learned.
func (a *Awaited) Tell(learned planinput.Learned) {
	for name, list := range a.delegations {
		given := new(planinput.LearnedUplink)
		if learned[name] != nil {
			*given = *learned[name]
		}
		given.Delegations = list
		learned[name] = given
	}
}

// Show shows the kernel as it is with what is awaited, and what is leaving.
func (s *Successor) Show(obs *rules.Observed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a := s.awaited; {
	case a == nil:
		s.showLeaving(obs, time.Now())
	case a.show(obs) && a.phase == arrives:
		s.awaited = nil
	}
}

// show adds what is awaited to a snapshot, as far as it is not there, and reports whether all was there.
func (a *Awaited) show(obs *rules.Observed) (whole bool) {
	addrs, routes := len(obs.Addrs), len(obs.Routes)
	for _, add := range a.addrs {
		if !slices.ContainsFunc(obs.Addrs, func(have rules.Addr) bool { return have.Device == add.Device && have.Prefix == add.Prefix }) {
			obs.Addrs = append(obs.Addrs, add)
		}
	}
	for _, add := range a.routes {
		device := add.Nexthops[0].Device
		if !slices.ContainsFunc(obs.Routes, func(have netcfg.Route) bool {
			return have.Table == add.Table && have.Family == add.Family && have.Dst == add.Dst && len(have.Nexthops) == 1 && have.Nexthops[0].Device == device
		}) {
			obs.Routes = append(obs.Routes, add)
		}
	}
	return len(obs.Addrs) == addrs && len(obs.Routes) == routes
}

// Trust adds a verdict for each line that is awaited: the other router has judged it.
func (s *Successor) Trust(verdicts map[rules.Path]rules.Verdict) {
	a := s.Awaits()
	if a == nil {
		return
	}
	for path := range a.paths {
		if _, judged := verdicts[path]; !judged {
			verdicts[path] = rules.Verdict{Health: rules.Good, State: "up"}
		}
	}
}

// MovingLines lists the lines whose address moves, as far as they are here and alive; a nil function: all are alive.
func MovingLines(c *config.Config, ids map[string]int, paths map[rules.Path]rules.PathInfo, learned planinput.Learned, alive func(rules.Path) bool) (list []Line) {
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		for _, f := range rules.Families {
			path := rules.Path{Uplink: ids[u.Name], Family: f}
			info := paths[path]
			if !u.Shared || !info.HasDefault || len(info.Addresses) == 0 || info.Borrows || alive != nil && !alive(path) {
				continue
			}
			line := Line{Uplink: u.Name, Addresses: info.Addresses, Gateway: info.Gateway}
			if given := learned[u.Name]; given != nil && f == rules.IPv6 {
				line.Delegations = given.Delegations
			}
			list = append(list, line)
		}
	}
	return list
}
