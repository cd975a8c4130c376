package uplink

import (
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

const (
	// DecisionTimeout is how long a silent path is kept in use while others could
	// still answer. Probed at once, they need a burst and its longest timeouts.
	DecisionTimeout = 3 * time.Second
	// ReturnGrace is how long a silent path may still answer after another one,
	// silent as well, has answered again: what ends for one ends for all, in the
	// order in which they happen to be probed.
	ReturnGrace = 2 * time.Second
)

// PathReport is what a [Correlator] has to know about one path. See [Watcher.Report].
type PathReport struct {
	Name  string // of the uplink
	State State
	// Complete: carrier, address and route are there. The loss of one counts
	// against the path at once, whatever others do.
	Complete bool
	// Unprobed: there are no targets, so that carrier, address and route alone decide.
	Unprobed bool
	// Suppressed: it fails so often that it shall carry nothing while another can.
	Suppressed bool
}

// Decision is what planning is to believe of one path.
type Decision struct {
	Health   Health
	Deferred bool   // Health is better than the verdict, which is not confirmed yet
	Note     string // what to add to the verdict's reason; may be empty
}

// CommonOutage is a silence of every path of a family, for which no uplink is to blame.
type CommonOutage struct {
	Since time.Time
	Names []string // of the uplinks, sorted
}

// Correlator tells a dead uplink from dead targets. The silence of a path is
// confirmed only when another one has answered a probe that was sent after the
// silence was noticed: one that was sent a moment before it may have met targets
// that have died since. Until then planning goes on with what it believed. When
// all paths of a family are silent, that is a common outage, and nothing moves.
//
//	Watcher.Report ──> Decide ──> Decision: what planning believes
//	                      ^
//	answers ─────── Answered
//
// Correlator is pure: the times that it gets must not run backwards. It is not
// safe for concurrent use. Make one with [NewCorrelator].
type Correlator struct {
	tracked map[rules.Path]*trackedPath
	silent  map[rules.Family]time.Time // since when every path is
	outages map[rules.Family]CommonOutage
}

// trackedPath is what a Correlator knows of a path.
type trackedPath struct {
	trusted     Health    // what planning believed before it fell silent
	known       bool      // trusted is set
	silentSince time.Time // when the present silence was noticed
	answeredAt  time.Time // when the latest answered probe was sent
	silent      bool
	backAt      time.Time // its first answer after its latest silence
	deferredAt  time.Time // since when its silence waits for a decision; zero: it does not
	confirmed   bool      // another path has answered meanwhile; until it is trusted again
	cleared     bool      // answers again, and its silence was never confirmed
}

// NewCorrelator returns a Correlator without paths.
func NewCorrelator() *Correlator {
	return &Correlator{tracked: make(map[rules.Path]*trackedPath), silent: make(map[rules.Family]time.Time),
		outages: make(map[rules.Family]CommonOutage)}
}

// Answered notes that a path has answered a probe that was sent at the given
// time. It reports whether that may decide about another one, so that it is time
// to call Decide, and which deferred paths are to be probed again at once because
// this one was silent itself until now.
func (c *Correlator) Answered(path rules.Path, sent, now time.Time) (decides bool, renew []rules.Path) {
	s := c.tracked[path]
	if s == nil {
		return false, nil
	}
	if sent.After(s.answeredAt) {
		s.answeredAt = sent
	}
	back := s.silent && sent.After(s.silentSince)
	if back {
		s.silent, s.backAt = false, now
	}
	for other, o := range c.tracked {
		if other == path || other.Family != path.Family || o.deferredAt.IsZero() || sent.Before(o.silentSince) {
			continue
		}
		decides = true
		if back {
			renew = append(renew, other)
		}
	}
	return decides || back, renew
}

// DeferredSince returns since when the silence of a path of the family waits for
// a decision, the latest if there are several; zero when none does. Meanwhile, and
// above all in the beginning, the others are to be probed often.
func (c *Correlator) DeferredSince(family rules.Family) time.Time {
	var latest time.Time
	for path, s := range c.tracked {
		if path.Family == family && s.deferredAt.After(latest) {
			latest = s.deferredAt
		}
	}
	return latest
}

// Outages returns the common outages that last.
func (c *Correlator) Outages() map[rules.Family]CommonOutage { return c.outages }

// Decide says what to believe of each path, and when it has to be called again
// without any news; zero for never.
func (c *Correlator) Decide(paths map[rules.Path]PathReport, now time.Time) (decisions map[rules.Path]Decision, next time.Time) {
	for path := range c.tracked {
		if _, ok := paths[path]; !ok {
			delete(c.tracked, path)
		}
	}
	for path, r := range paths {
		c.update(path, r, now)
	}
	due := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, family := range rules.Families {
		c.findOutage(family, paths, now, due)
	}
	decisions = make(map[rules.Path]Decision, len(paths))
	for path, r := range paths {
		decisions[path] = c.decide(path, r, paths, now, due)
	}
	return decisions, next
}

// update takes in the report of a path.
func (c *Correlator) update(path rules.Path, r PathReport, now time.Time) {
	s := c.tracked[path]
	if s == nil {
		s = new(trackedPath)
		c.tracked[path] = s
	}
	failing := r.State == Suspect || r.State == Down
	if r.Complete && r.State == Recovering && (!s.deferredAt.IsZero() || s.cleared) {
		// What was silent together is trusted together, at once: waiting for whoever has
		// had its ten answers first would move traffic back and forth.
		*s = trackedPath{trusted: s.trusted, known: true, answeredAt: s.answeredAt, backAt: s.backAt, cleared: true}
		return
	}
	if !r.Complete || !failing || r.Unprobed {
		*s = trackedPath{trusted: r.State.Health(), known: true, answeredAt: s.answeredAt, backAt: s.backAt}
		if !r.Complete {
			s.answeredAt = time.Time{} // by a route that is gone
		}
		return
	}
	s.cleared = false
	if s.silentSince.IsZero() {
		s.silentSince = now
	}
	if !s.known { // a verdict of an earlier run, reached in its time
		s.trusted, s.known, s.confirmed = r.State.Health(), true, true
	}
	s.silent = !s.answeredAt.After(s.silentSince)
}

func (c *Correlator) decide(path rules.Path, r PathReport, paths map[rules.Path]PathReport, now time.Time, due func(time.Time)) Decision {
	s := c.tracked[path]
	own := Decision{Health: r.State.Health()}
	if s.cleared && own.Health < s.trusted && r.State == Recovering {
		return Decision{Health: s.trusted, Deferred: true, Note: "trusted at once: its failure was never confirmed"}
	}
	if s.silentSince.IsZero() || s.confirmed || own.Health >= s.trusted {
		s.deferredAt = time.Time{}
		return own
	}
	others, undecided := 0, false
	for other, o := range paths {
		if other == path || other.Family != path.Family || !o.Complete {
			continue
		}
		others++
		peer := c.tracked[other]
		switch {
		case o.Unprobed, !peer.answeredAt.IsZero() && !peer.answeredAt.Before(s.silentSince) && !peer.silent:
			settled := peer.backAt.Add(ReturnGrace)
			if peer.backAt.Before(s.silentSince) || !now.Before(settled) {
				return s.confirm(own, o.Name+" still answers")
			}
			due(settled)
		case !peer.silent:
			undecided = true
		}
	}
	if others == 0 {
		s.deferredAt = time.Time{}
		own.Note = "no other uplink to compare with, so the targets may be at fault"
		return own
	}
	if s.deferredAt.IsZero() {
		s.deferredAt = now
	}
	limit := s.deferredAt.Add(DecisionTimeout)
	if undecided && !now.Before(limit) {
		return s.confirm(own, "not confirmed by another uplink in time")
	}
	due(limit)
	deferred := Decision{Health: s.trusted, Deferred: true, Note: "traffic stays until another uplink has answered"}
	if _, common := c.outages[path.Family]; common {
		deferred.Note = "no uplink answers (common cause), so traffic stays where it is"
	}
	return deferred
}

func (s *trackedPath) confirm(d Decision, note string) Decision {
	s.confirmed, s.deferredAt = true, time.Time{}
	d.Note = note
	return d
}

// findOutage finds out whether every path of a family has been silent for so
// long that no answer can be under way.
func (c *Correlator) findOutage(family rules.Family, paths map[rules.Path]PathReport, now time.Time, due func(time.Time)) {
	var names []string
	for path, r := range paths {
		if path.Family != family || !r.Complete {
			continue
		}
		if !c.tracked[path].silent {
			delete(c.silent, family)
			delete(c.outages, family)
			return
		}
		names = append(names, r.Name)
	}
	if len(names) < 2 {
		delete(c.silent, family)
		delete(c.outages, family)
		return
	}
	if c.silent[family].IsZero() {
		c.silent[family] = now
	}
	since := c.silent[family]
	if now.Sub(since) < DecisionTimeout {
		due(since.Add(DecisionTimeout))
		return
	}
	slices.Sort(names)
	if have, ok := c.outages[family]; !ok || strings.Join(have.Names, " ") != strings.Join(names, " ") {
		c.outages[family] = CommonOutage{Since: since, Names: names}
	}
}
