package uplink

import (
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

const (
	// CourtWait is how long a silent path is kept in use while others could
	// still answer. Asked at once, they need a burst and its longest timeouts.
	CourtWait = 3 * time.Second
	// CourtGrace is how long a silent path may still answer after another one,
	// silent as well, has answered again: what ends for one ends for all, in the
	// order in which they happen to ask.
	CourtGrace = 2 * time.Second
)

// Testimony is what a [Court] has to know about one path. See [Watcher.Testify].
type Testimony struct {
	Name  string // of the uplink
	State State
	// Whole: carrier, address and route are there. The loss of one is held
	// against the path at once, whatever others do.
	Whole bool
	// Unprobed: there are no targets, so the path vouches for nothing but itself.
	Unprobed bool
	// Suppressed: it fails so often that it shall carry nothing while another can.
	Suppressed bool
}

// Ruling is what planning is to believe of one path.
type Ruling struct {
	Health Health
	Held   bool   // believed to be better than its verdict, for want of proof
	Note   string // what to add to the verdict's reason; may be empty
}

// Cause is a silence of every path of a family, for which no uplink is to blame.
type Cause struct {
	Since time.Time
	Names []string // of the uplinks, sorted
}

// Court tells a dead uplink from dead targets. A path that falls silent is
// doubted only when another one has answered a probe that was sent after the
// silence was noticed: one that was sent a moment before it may have met targets
// that have died since. Until then planning goes on with what it believed. When
// all paths of a family are silent, that is a common cause, and nothing moves.
//
//	Testify ──> Rule ──> Ruling: what planning believes
//	               ^
//	answers ── Answered
//
// Court is pure: the times that it is told must not run backwards. It is not
// safe for concurrent use. Make one with [NewCourt].
type Court struct {
	stands map[rules.Path]*standing
	silent map[rules.Family]time.Time // since when every path is
	causes map[rules.Family]Cause
}

// standing is what is remembered of a path.
type standing struct {
	former    Health    // before it fell silent
	known     bool      // former is
	since     time.Time // when the present silence was noticed
	answered  time.Time // when the latest answered probe was sent
	silent    bool
	backAt    time.Time // its first answer after its latest silence
	heldAt    time.Time // zero: not held
	convicted bool      // proven silent, until it is trusted again
	acquitted bool      // answers again, and nothing was proven meanwhile
}

// NewCourt returns a Court that knows nobody.
func NewCourt() *Court {
	return &Court{stands: make(map[rules.Path]*standing), silent: make(map[rules.Family]time.Time),
		causes: make(map[rules.Family]Cause)}
}

// Answered tells that a path has answered a probe that was sent at the given
// time. It reports whether that may decide about another one, so that it is time
// to Rule, and which held paths should be asked again at once because the
// witness itself was silent until now.
func (c *Court) Answered(path rules.Path, sent, now time.Time) (decides bool, ask []rules.Path) {
	s := c.stands[path]
	if s == nil {
		return false, nil
	}
	if sent.After(s.answered) {
		s.answered = sent
	}
	back := s.silent && sent.After(s.since)
	if back {
		s.silent, s.backAt = false, now
	}
	for other, o := range c.stands {
		if other == path || other.Family != path.Family || o.heldAt.IsZero() || sent.Before(o.since) {
			continue
		}
		decides = true
		if back {
			ask = append(ask, other)
		}
	}
	return decides || back, ask
}

// Waiting reports since when the silence of a path of the family is to be
// judged, the latest if there are several; zero when none is. As long, and above
// all in the beginning, the others should be asked often.
func (c *Court) Waiting(family rules.Family) time.Time {
	var latest time.Time
	for path, s := range c.stands {
		if path.Family == family && s.heldAt.After(latest) {
			latest = s.heldAt
		}
	}
	return latest
}

// Causes returns the common causes that are there.
func (c *Court) Causes() map[rules.Family]Cause { return c.causes }

// Rule judges all paths, and returns when it has to be called again without
// any news; zero for never.
func (c *Court) Rule(paths map[rules.Path]Testimony, now time.Time) (rulings map[rules.Path]Ruling, next time.Time) {
	for path := range c.stands {
		if _, ok := paths[path]; !ok {
			delete(c.stands, path)
		}
	}
	for path, t := range paths {
		c.hear(path, t, now)
	}
	due := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, family := range rules.Families {
		c.lookForCause(family, paths, now, due)
	}
	rulings = make(map[rules.Path]Ruling, len(paths))
	for path, t := range paths {
		rulings[path] = c.rule(path, t, paths, now, due)
	}
	return rulings, next
}

// hear takes in what a path says of itself.
func (c *Court) hear(path rules.Path, t Testimony, now time.Time) {
	s := c.stands[path]
	if s == nil {
		s = new(standing)
		c.stands[path] = s
	}
	accused := t.State == Suspect || t.State == Down
	if t.Whole && t.State == Recovering && (!s.heldAt.IsZero() || s.acquitted) {
		// What was silent together is trusted together, at once: waiting for whoever has
		// had its ten answers first would move traffic back and forth.
		*s = standing{former: s.former, known: true, answered: s.answered, backAt: s.backAt, acquitted: true}
		return
	}
	if !t.Whole || !accused || t.Unprobed {
		*s = standing{former: t.State.Health(), known: true, answered: s.answered, backAt: s.backAt}
		if !t.Whole {
			s.answered = time.Time{} // by a way that is gone
		}
		return
	}
	s.acquitted = false
	if s.since.IsZero() {
		s.since = now
	}
	if !s.known { // a verdict of an earlier run, reached in its time
		s.former, s.known, s.convicted = t.State.Health(), true, true
	}
	s.silent = !s.answered.After(s.since)
}

func (c *Court) rule(path rules.Path, t Testimony, paths map[rules.Path]Testimony, now time.Time, due func(time.Time)) Ruling {
	s := c.stands[path]
	own := Ruling{Health: t.State.Health()}
	if s.acquitted && own.Health < s.former && t.State == Recovering {
		return Ruling{Health: s.former, Held: true, Note: "trusted at once, for nothing was proven against it"}
	}
	if s.since.IsZero() || s.convicted || own.Health >= s.former {
		s.heldAt = time.Time{}
		return own
	}
	others, mute := 0, false
	for other, o := range paths {
		if other == path || other.Family != path.Family || !o.Whole {
			continue
		}
		others++
		witness := c.stands[other]
		switch {
		case o.Unprobed, !witness.answered.IsZero() && !witness.answered.Before(s.since) && !witness.silent:
			ripe := witness.backAt.Add(CourtGrace)
			if witness.backAt.Before(s.since) || !now.Before(ripe) {
				return s.convict(own, o.Name+" answers meanwhile")
			}
			due(ripe)
		case !witness.silent:
			mute = true
		}
	}
	if others == 0 {
		s.heldAt = time.Time{}
		own.Note = "there is no other uplink to compare with, so it may be the targets"
		return own
	}
	if s.heldAt.IsZero() {
		s.heldAt = now
	}
	limit := s.heldAt.Add(CourtWait)
	if mute && !now.Before(limit) {
		return s.convict(own, "the others have neither answered nor failed")
	}
	due(limit)
	held := Ruling{Health: s.former, Held: true, Note: "nothing moves before another uplink has answered"}
	if _, common := c.causes[path.Family]; common {
		held.Note = "common cause: no uplink answers, so nothing moves"
	}
	return held
}

func (s *standing) convict(r Ruling, note string) Ruling {
	s.convicted, s.heldAt = true, time.Time{}
	r.Note = note
	return r
}

// lookForCause finds out whether every path of a family has been silent for so
// long that no answer can be on its way.
func (c *Court) lookForCause(family rules.Family, paths map[rules.Path]Testimony, now time.Time, due func(time.Time)) {
	var names []string
	for path, t := range paths {
		if path.Family != family || !t.Whole {
			continue
		}
		if !c.stands[path].silent {
			delete(c.silent, family)
			delete(c.causes, family)
			return
		}
		names = append(names, t.Name)
	}
	if len(names) < 2 {
		delete(c.silent, family)
		delete(c.causes, family)
		return
	}
	if c.silent[family].IsZero() {
		c.silent[family] = now
	}
	since := c.silent[family]
	if now.Sub(since) < CourtWait {
		due(since.Add(CourtWait))
		return
	}
	slices.Sort(names)
	if have, ok := c.causes[family]; !ok || strings.Join(have.Names, " ") != strings.Join(names, " ") {
		c.causes[family] = Cause{Since: since, Names: names}
	}
}
