package clat

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/inet"
)

// nat64Name has well-known IPv4 addresses alone: what a DNS server gives of IPv6 is made with the prefix of a NAT64 (RFC 7050 section 3).
const nat64Name = "ipv4only.arpa"

// How long an answer is believed, whatever its TTL, and how long silence is waited out.
const (
	shortestAnswer = 10 * time.Second
	longestAnswer  = time.Hour
	noPrefix       = 30 * time.Second // the answer that there is none: a provider may be about to turn its NAT64 on
	firstRetry     = time.Second
	longestRetry   = time.Minute
)

// question is when an uplink's DNS servers are asked next.
type question struct {
	at     time.Time
	asking bool
	failed int // times in a row that nobody has answered
}

// ask asks the DNS servers of those uplinks that are due.
func (e *Engine) ask(ctx context.Context, now time.Time, running *sync.WaitGroup) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lines {
		if l.named || l.told || l.question.asking || now.Before(l.question.at) || !l.binding.Source.IsValid() || len(l.servers) == 0 {
			continue
		}
		l.question.asking = true
		binding, servers := l.binding, l.servers
		running.Go(func() {
			answer := lookUp(ctx, binding, servers)
			if ctx.Err() == nil {
				e.answered(l, binding, answer, time.Now())
			}
		})
	}
}

// answer is what DNS servers say.
type answer struct {
	given    bool           // any has answered
	prefixes []netip.Prefix // none: they say that there is no NAT64
	holds    time.Duration
}

// lookUp asks servers until one names a prefix. Of several, one may be a public server, which names none.
func lookUp(ctx context.Context, b probe.Binding, servers []netip.Addr) (a answer) {
	for _, server := range servers {
		found, err := probe.LookUp(ctx, b, server, nat64Name)
		if err != nil {
			continue
		}
		a.given = true
		a.holds = longestAnswer
		var addresses []netip.Addr
		for address, ttl := range found {
			if address.Is6() {
				addresses, a.holds = append(addresses, address), min(a.holds, ttl)
			}
		}
		if a.prefixes = inet.NAT64Prefixes(addresses); len(a.prefixes) > 0 {
			break
		}
	}
	return a
}

// answered takes an answer. Silence says nothing of the prefix; one that another path has given neither.
func (e *Engine) answered(l *line, by probe.Binding, a answer, now time.Time) {
	e.mu.Lock()
	l.question.asking = false
	if l.binding != by || e.lines[l.name] != l {
		e.mu.Unlock()
		return
	}
	before := e.kept[l.name]
	is := l.question.take(a, before, now)
	if is.IsValid() {
		e.kept[l.name] = is
	} else {
		delete(e.kept, l.name)
	}
	e.mu.Unlock()
	if is == before {
		return
	}
	e.o.Save(docNAT64, func() any {
		e.mu.Lock()
		defer e.mu.Unlock()
		return maps.Clone(e.kept)
	})
	text := func(p netip.Prefix) string {
		if !p.IsValid() {
			return "none"
		}
		return p.String()
	}
	e.o.Log.Info("NAT64 prefix by DNS", "uplink", l.name, "from", text(before), "to", text(is))
	e.o.OnEvent(status.Event{Kind: status.EventDNS, Uplink: l.name, Family: rules.IPv4.String(), From: text(before), To: text(is),
		Message: "NAT64 prefix, by the DNS servers of the line: " + text(is)})
	e.o.Changed()
}

// take says which prefix holds now, and when to ask again.
func (q *question) take(a answer, before netip.Prefix, now time.Time) netip.Prefix {
	switch {
	case !a.given:
		q.at = now.Add(min(firstRetry<<min(q.failed, 10), longestRetry))
		q.failed++
		return before
	case len(a.prefixes) == 0:
		q.at, q.failed = now.Add(noPrefix), 0
		return netip.Prefix{}
	}
	q.at, q.failed = now.Add(min(max(a.holds, shortestAnswer), longestAnswer)), 0
	if slices.Contains(a.prefixes, before) {
		return before
	}
	return a.prefixes[0]
}
