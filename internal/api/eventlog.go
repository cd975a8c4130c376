package api

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/uplink"
)

// EventKind says what happened.
type EventKind string

// The kinds of event.
const (
	EventVerdict EventKind = "verdict" // an uplink is judged anew
	EventSwitch  EventKind = "switch"  // new flows take other uplinks
	EventRepair  EventKind = "repair"  // the kernel had lost something of ours
	EventReload  EventKind = "reload"
	EventDrain   EventKind = "drain"
	EventStart   EventKind = "start"
	EventStop    EventKind = "stop"
	EventLease   EventKind = "lease" // a delegated prefix came, changed or went
	EventCause   EventKind = "cause" // every uplink of a family is silent, or no longer
	EventGap     EventKind = "gap"   // this reader has lost events; made by EventLog only
)

// Event is one line of the decision log. Empty fields do not apply.
type Event struct {
	ID       uint64       `json:"id"`
	Time     Time         `json:"time"`
	Kind     EventKind    `json:"kind"`
	Uplink   string       `json:"uplink"`
	Family   string       `json:"family"` // "ipv4", "ipv6" or ""
	From     string       `json:"from"`
	To       string       `json:"to"`
	Reason   string       `json:"reason"`
	Evidence List[string] `json:"evidence"`
	Message  string       `json:"message"`
	Lost     uint64       `json:"lost,omitempty"` // gap: how many events
}

// VerdictEvent returns the event that reports t.
func VerdictEvent(t uplink.Transition) Event {
	return Event{
		Time: At(t.At), Kind: EventVerdict, Uplink: t.Uplink, Family: t.Family.String(),
		From: string(t.From), To: string(t.To), Reason: t.Reason, Evidence: t.Evidence,
	}
}

// DefaultEvents is how many events an EventLog keeps unless told otherwise.
const DefaultEvents = 1000

// readBatch is how many events a reader takes while it holds the lock.
const readBatch = 64

// EventLog keeps the latest events for any number of readers. Appending never
// waits for a reader: each has only a position, and one that falls behind what
// is kept gets an [EventGap] in place of what it lost. All methods may be called
// by any goroutine.
type EventLog struct {
	size  int
	first uint64 // the first id of this run

	mu    sync.Mutex
	next  uint64
	ring  []Event       // the event id is at (id-first) % size
	grown chan struct{} // closed by Append; nil while nobody waits
}

// NewEventLog returns a log that keeps size events, [DefaultEvents] if size is
// not positive, and counts from the id first on.
//
// Ids should go on growing when the daemon starts anew, so that a reader
// continues where it was: pass [FirstID] of the time. An id that was not given
// out yet is taken for one of another run by a wrong clock, and its reader gets
// everything.
func NewEventLog(size int, first uint64) *EventLog {
	if size <= 0 {
		size = DefaultEvents
	}
	first = max(first, 1)
	return &EventLog{size: size, first: first, next: first}
}

// FirstID returns the first id for a daemon that starts at t. Microseconds
// outrun any count of events, and remain exact in JavaScript until the year 2255.
func FirstID(t time.Time) uint64 { return uint64(max(t.UnixMicro(), 1)) }

// Append adds e, gives it an id, and the present time unless it has one. It
// returns the event as it is kept.
func (l *EventLog) Append(e Event) Event {
	e.Evidence = slices.Clone(e.Evidence)
	if e.Time.IsZero() {
		e.Time = At(time.Now())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ID = l.next
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.slot(e.ID)] = e
	}
	l.next++
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
	return e
}

// Since returns the kept events after id, the oldest first; all of them for 0.
// When some after id are not kept any more, an [EventGap] stands in for them.
func (l *EventLog) Since(id uint64) []Event {
	pos := l.start(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(pos, l.size)
}

// Subscribe yields the events after id, as Since does, and then every new one,
// until ctx ends or the loop is left. It keeps nothing of a reader that is gone.
func (l *EventLog) Subscribe(ctx context.Context, id uint64) iter.Seq[Event] {
	pos := l.start(id)
	return func(yield func(Event) bool) {
		pos := pos
		for ctx.Err() == nil {
			events, grown := l.read(pos)
			for _, e := range events {
				if !yield(e) {
					return
				}
				pos = e.ID
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
			case <-grown:
			}
		}
	}
}

// start returns the position of a reader that has seen the event id last.
func (l *EventLog) start(id uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case id == 0 || id >= l.next:
		return l.oldest() - 1
	case id < l.first: // of an earlier run: nothing of this one was seen
		return l.first - 1
	}
	return id
}

// read returns some events after pos, or what to wait for.
func (l *EventLog) read(pos uint64) ([]Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if events := l.after(pos, readBatch); len(events) > 0 {
		return events, nil
	}
	if l.grown == nil {
		l.grown = make(chan struct{})
	}
	return nil, l.grown
}

// after returns up to limit events after pos, and before them the gap, if any.
// The lock is held.
func (l *EventLog) after(pos uint64, limit int) []Event {
	var events []Event
	want, oldest := pos+1, l.oldest()
	if want < oldest {
		lost := oldest - want
		events = append(events, Event{
			ID: oldest - 1, Time: At(time.Now()), Kind: EventGap, Lost: lost,
			Message: fmt.Sprintf("%d older events are not kept any more", lost),
		})
		want = oldest
	}
	for ; want < l.next && limit > 0; limit-- {
		events = append(events, l.ring[l.slot(want)])
		want++
	}
	return events
}

func (l *EventLog) oldest() uint64 { return l.next - uint64(len(l.ring)) }

func (l *EventLog) slot(id uint64) int { return int((id - l.first) % uint64(l.size)) }
