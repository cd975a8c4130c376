package daemon

import (
	"fmt"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// missed hears that a probe of a path went unanswered while all was well. Whoever can tell whether that
// is the path's fault or the target's is asked at once: the same family of every other uplink. The other
// family of this uplink looks too: both mostly die together.
func (j *judge) missed(path rules.Path) {
	j.mu.Lock()
	j.missedAt[path.Family] = time.Now()
	j.setPaces(time.Now()) // a hint comes through once in an interval
	var ask []*watched
	for other, w := range j.watched {
		if other != path && (other.Family == path.Family || other.Uplink == path.Uplink) {
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
func (j *judge) newCauses() []api.Event {
	var events []api.Event
	causes := j.court.Causes()
	next := make(map[rules.Family]uplink.Cause, len(causes))
	for _, family := range rules.Families {
		cause, is := causes[family]
		_, was := j.causes[family]
		switch {
		case is && !was:
			events = append(events, api.Event{Kind: api.EventCause, Family: family.String(), Message: commonCause(family, cause)})
		case was && !is:
			events = append(events, api.Event{Kind: api.EventCause, Family: family.String(), Message: "the common cause is over"})
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

// explain adds to the reason of a verdict what planning makes of it.
func (j *judge) explain(path rules.Path, reason string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w := j.watched[path]; w != nil && j.suspended[w.name] != "" {
		return j.suspended[w.name]
	}
	if note := j.rulings[path].Note; note != "" {
		return reason + "; " + note
	}
	return reason
}
