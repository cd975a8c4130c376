package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// The pace of checks: two small queries each.
const (
	checkInterval   = 30 * time.Second
	meteredInterval = 5 * time.Minute
	// badInterval is the pace for a server that is no good, which shall be found well again soon, and confirmInterval that in which a
	// first bad answer is confirmed.
	badInterval     = 10 * time.Second
	confirmInterval = time.Second
	checkTimeout    = 2 * time.Second
	// misses is how many checks in a row must fail before a server is no good.
	misses = 3
)

// existing is a name that is reserved for examples (RFC 2606 section 3), and exists for ever.
const existing = "example.net"

// health is what checks have said of a server.
type health struct {
	state  State
	since  time.Time
	rtt    time.Duration
	detail string // of a bad state, what was seen
	next   time.Time
	asking bool

	failed int // checks in a row that were bad and are not believed yet
}

// outcome is what one check has seen; Unasked: nothing, for a reason of this machine.
type outcome struct {
	state  State
	rtt    time.Duration
	detail string
}

// take takes in a check, and reports whether the state has changed.
func (h *health) take(o outcome, metered bool, now time.Time) (changed bool) {
	interval := checkInterval
	if metered {
		interval = meteredInterval
	}
	h.asking = false
	switch {
	case o.state == Unasked:
		h.next = now.Add(badInterval)
		return false
	case !o.state.bad():
		h.failed, h.rtt, h.detail, h.next = 0, o.rtt, "", now.Add(interval)
	case !h.state.bad() && h.failed+1 < misses:
		h.failed++
		h.next = now.Add(confirmInterval)
		return false
	default:
		h.failed, h.detail, h.next = 0, o.detail, now.Add(max(badInterval, interval/3))
	}
	if changed = h.state != o.state; changed {
		h.state, h.since = o.state, now
	}
	return changed
}

// check asks a server for a name that exists and for one that does not.
func check(ctx context.Context, p probe.Prober, b probe.Binding, a netip.Addr) outcome {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	rtt, err := ask(ctx, p, b, a, "name="+existing)
	if err == nil {
		// ".invalid" is nobody's (RFC 6761 section 6.4), and a name of it that was never asked for is in no cache.
		_, err = ask(ctx, p, b, a, "answer=none&name="+strings.ToLower(rand.Text()[:12])+".invalid")
		if !errors.Is(err, probe.ErrPortal) {
			err = nil // whatever else it says, or not, it has answered just now
		}
	}
	switch {
	case err == nil:
		return outcome{OK, rtt, ""}
	case errors.Is(err, probe.ErrPortal):
		return outcome{Lies, 0, err.Error()}
	case errors.Is(err, probe.ErrAnswer):
		return outcome{Refuses, 0, err.Error()}
	case errors.Is(err, probe.ErrTimeout), errors.Is(err, probe.ErrUnreachable):
		return outcome{Silent, 0, err.Error()}
	}
	return outcome{}
}

func ask(ctx context.Context, p probe.Prober, b probe.Binding, a netip.Addr, query string) (time.Duration, error) {
	host := a.WithZone("").String()
	if a.Is6() {
		host = "[" + host + "]"
	}
	target, err := probe.ParseTarget("dns://" + host + "?" + query)
	if err != nil {
		return 0, err
	}
	return p.Probe(ctx, b, target)
}
