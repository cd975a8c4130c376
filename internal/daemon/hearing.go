package daemon

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// missSpan is how long the others that were asked because of a miss need not be asked again for another one.
const missSpan = 50 * time.Millisecond

// missed hears that a probe of a path went unanswered while all was well. Whoever can tell whether that
// is the path's fault or the target's is asked at once: the same family of every other uplink. The other
// family of this uplink looks too: both mostly die together.
func (j *judge) missed(path rules.Path) {
	j.mu.Lock()
	now := time.Now()
	j.missedAt[path.Family] = now
	asked := now.Sub(j.askedAt[path.Family]) < missSpan // when many fail together, once is enough
	if !asked {
		j.askedAt[path.Family] = now
		j.setPaces(now) // a hint comes through once in an interval
	}
	var ask []*watched
	for other, w := range j.watched {
		if other != path && (other.Family == path.Family && !asked || other.Uplink == path.Uplink) {
			ask = append(ask, w)
		}
	}
	j.mu.Unlock()
	for _, w := range ask {
		w.Hint()
	}
}

// answered hears of every answer: it may decide about a path that is silent.
func (j *judge) answered(path rules.Path, rtt time.Duration) {
	now := time.Now()
	j.mu.Lock()
	decides, ask := j.court.Answered(path, now.Add(-rtt), now)
	var again []*watched
	for _, other := range ask {
		if w := j.watched[other]; w != nil {
			again = append(again, w)
		}
	}
	j.mu.Unlock()
	for _, w := range again {
		w.Renew()
	}
	if decides {
		j.wake()
	}
}

// rule has the court judge the paths, and sees to it that it is asked again in time. The lock is held.
func (j *judge) rule(testimony map[rules.Path]uplink.Testimony) {
	now := time.Now()
	rulings, next := j.court.Rule(testimony, now)
	j.rulings = rulings
	switch {
	case j.ctx == nil || j.ctx.Err() != nil || next.IsZero():
	case j.alarm == nil:
		j.alarm = time.AfterFunc(next.Sub(now), j.wake)
	default:
		j.alarm.Reset(next.Sub(now))
	}
}

// newCauses returns the events of common causes that began or ended since the last time. The lock is held.
func (j *judge) newCauses() []status.Event {
	var events []status.Event
	causes := j.court.Causes()
	next := make(map[rules.Family]uplink.Cause, len(causes))
	for _, family := range rules.Families {
		cause, is := causes[family]
		_, was := j.causes[family]
		switch {
		case is && !was:
			events = append(events, status.Event{Kind: status.EventCause, Family: family.String(), Message: commonCause(family, cause)})
		case was && !is:
			events = append(events, status.Event{Kind: status.EventCause, Family: family.String(), Message: "the common cause is over"})
		}
		if is {
			next[family] = cause
		}
	}
	j.causes = next
	return events
}

func commonCause(family rules.Family, cause uplink.Cause) string {
	return fmt.Sprintf("common cause: no target answers by any of %s in %v; traffic is left where it is", strings.Join(cause.Names, ", "), family)
}

// standing is what people are told of a path.
type standing struct {
	uplink.Verdict      // with what planning makes of it in its reason
	suspended      bool // nobody who may carry it works
	awaits         bool // the operator's undrain
}

// standings returns those of all paths at once: who asks for many shall not have to wait for the lock with each.
func (j *judge) standings() map[rules.Path]standing {
	j.mu.Lock()
	watched, rulings, suspended, awaits := maps.Clone(j.watched), maps.Clone(j.rulings), maps.Clone(j.suspended), j.awaits
	j.mu.Unlock()
	found := make(map[rules.Path]standing, len(watched))
	for path, w := range watched {
		s := standing{Verdict: w.Verdict(), suspended: suspended[w.name] != "", awaits: awaits[verdictKey(w.name, path.Family)]}
		if s.suspended {
			s.Reason = suspended[w.name]
		} else if note := rulings[path].Note; note != "" {
			s.Reason += "; " + note
		}
		found[path] = s
	}
	return found
}
