package sets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	// floor is how long an address stays at least after a DNS server has named it: programs go on using what they have looked up, and
	// large providers name others each time.
	floor = time.Hour
	// lookUpMin and lookUpMax bound the pause before names are looked up again, which is the shortest TTL else.
	lookUpMin, lookUpMax = 30 * time.Second, 30 * time.Minute
	lookUpFirst          = 3 * time.Second // while nothing is known of a name
	maxAddresses         = 4096            // of one name
)

// nameState is what is known of the names of a set.
type nameState struct {
	known   map[string]map[netip.Addr]time.Time // until when each address of a name holds
	running bool
	next    time.Time
}

func (n *nameState) clone() map[string]map[netip.Addr]time.Time {
	if n.known == nil {
		return nil
	}
	known := make(map[string]map[netip.Addr]time.Time, len(n.known))
	for name, addrs := range n.known {
		known[name] = maps.Clone(addrs)
	}
	return known
}

// addresses are those of all names.
func (n *nameState) addresses() *inet.Set {
	var ranges []inet.Range
	for _, addrs := range n.known {
		for a := range addrs {
			ranges = append(ranges, inet.Range{First: a, Last: a})
		}
	}
	return inet.NewSet(ranges)
}

// namesDue reports whether the names of a set are to be looked up, and then says that they are.
func (e *Engine) namesDue(s *set, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.names.running || now.Before(s.names.next) || e.o.Lookup == nil {
		return false
	}
	s.names.running = true
	return true
}

// lookUp asks for each name of a set, one after the other. An address goes when it has not been named for as long as its TTL says, and
// for the floor at least; while a name cannot be looked up its addresses stay.
func (e *Engine) lookUp(ctx context.Context, s *set) {
	e.mu.Lock()
	known := s.names.clone()
	e.mu.Unlock()
	if known == nil {
		known = make(map[string]map[netip.Addr]time.Time)
	}
	pause := lookUpMax
	var failed error
	asked, soon := 0, false
	for _, name := range s.Domains {
		if config.Wildcard(name) {
			continue
		}
		asked++
		found, err := e.o.Lookup(ctx, name)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed, pause = errors.Join(failed, fmt.Errorf("%s: %w", name, err)), lookUpMin
			if len(known[name]) == 0 { // as at the start, before an uplink works
				soon = true
			}
			continue
		}
		pause = min(pause, hold(known, name, found, time.Now()))
	}
	now := time.Now()
	e.mu.Lock()
	s.names.known, s.names.running, s.names.next = known, false, now.Add(max(pause, lookUpMin))
	if soon {
		s.names.next = now.Add(lookUpFirst)
	}
	content := s.names.addresses()
	e.mu.Unlock()
	if asked == 0 { // dnsmasq sees to all of them
		return
	}
	e.take(s, content, failed, now)
}

// hold takes an answer for a name, and returns when it is over.
func hold(known map[string]map[netip.Addr]time.Time, name string, found map[netip.Addr]time.Duration, now time.Time) time.Duration {
	addrs, pause := known[name], lookUpMax
	if addrs == nil {
		addrs = make(map[netip.Addr]time.Time)
		known[name] = addrs
	}
	maps.DeleteFunc(addrs, func(_ netip.Addr, until time.Time) bool { return until.Before(now) })
	for a, ttl := range found {
		pause = min(pause, ttl)
		if _, is := addrs[a]; is || len(addrs) < maxAddresses {
			addrs[a] = now.Add(max(ttl, floor))
		}
	}
	return pause
}
