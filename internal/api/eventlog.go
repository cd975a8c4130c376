package api

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

// defaultEvents is how many events an EventLog keeps unless told otherwise.
const defaultEvents = 1000

// readBatch is how many events a reader takes while it holds the lock.
const readBatch = 64

// EventLog keeps the latest events for any number of readers. When there are too
// many, the oldest of the most frequent kind goes, so that a flood of one kind
// pushes out nothing but itself. Appending never
// waits for a reader: each has only a position, and one that falls behind what
// is kept gets an [EventGap] in place of what it lost. All methods may be called
// by any goroutine.
type EventLog struct {
	size int

	mu     sync.Mutex
	next   uint64
	events []keptEvent              // what is kept, ids growing
	counts map[status.EventKind]int // of those
	floor  uint64                   // just before the first id that was kept at the beginning
	grown  chan struct{}            // closed by Append; nil while nobody waits
}

// keptEvent is an event, how many were dropped between it and the one before, and the id of the last of those.
type keptEvent struct {
	status.Event
	dropped, last uint64
}

// NewEventLog returns a log that keeps size events, [defaultEvents] if size is
// not positive, and counts from the id first on.
//
// Ids should go on growing when the daemon starts anew, so that a reader
// continues where it was: pass [FirstID] of the time. An id that was not given
// out yet is taken for one of another run by a wrong clock, and its reader gets
// everything.
func NewEventLog(size int, first uint64) *EventLog {
	if size <= 0 {
		size = defaultEvents
	}
	first = max(first, 1)
	return &EventLog{size: size, next: first, floor: first - 1, counts: make(map[status.EventKind]int)}
}

// Replay puts the events of earlier runs before those of this one, whose ids
// will be larger whatever the clock says now. It is called before any other
// method. What is out of order, or more than the log keeps, is left out.
func (l *EventLog) Replay(events []status.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if e.ID > 0 && e.ID < maxID && e.Kind != status.EventGap && (len(l.events) == 0 || e.ID > l.events[len(l.events)-1].ID) {
			l.keep(e)
		}
	}
	for i := range l.events {
		l.events[i].dropped, l.events[i].last = 0, 0 // by an earlier run
	}
	if n := len(l.events); n > 0 {
		l.floor = l.events[0].ID - 1
		l.next = max(l.next, l.events[n-1].ID+1)
	}
}

// maxID is where ids are not exact in JavaScript any more.
const maxID = 1 << 53

// FirstID returns the first id for a daemon that starts at t. Microseconds
// outrun any count of events, and remain exact in JavaScript until the year 2255.
func FirstID(t time.Time) uint64 { return uint64(max(t.UnixMicro(), 1)) }

// Append adds e, gives it an id, and the present time unless it has one.
func (l *EventLog) Append(e status.Event) {
	e.Evidence = slices.Clone(e.Evidence)
	if e.Time.IsZero() {
		e.Time = status.At(time.Now())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ID = l.next
	l.keep(e)
	l.next++
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// keep adds an event, and drops one where there are too many. The lock is held.
func (l *EventLog) keep(e status.Event) {
	l.events = append(l.events, keptEvent{Event: e})
	l.counts[e.Kind]++
	if len(l.events) <= l.size {
		return
	}
	most := e.Kind
	for kind, n := range l.counts {
		if n > l.counts[most] || n == l.counts[most] && kind < most {
			most = kind
		}
	}
	i := slices.IndexFunc(l.events, func(o keptEvent) bool { return o.Kind == most })
	if i+1 < len(l.events) {
		l.events[i+1].dropped += l.events[i].dropped + 1
		l.events[i+1].last = max(l.events[i+1].last, l.events[i].ID)
	}
	l.counts[most]--
	if i == 0 { // which costs nothing
		l.events[0] = keptEvent{} // its memory goes when the array is replaced
		l.events = l.events[1:]
		return
	}
	l.events = slices.Delete(l.events, i, i+1)
}

// Since returns the kept events after id, the oldest first; all of them for 0.
// When some after id are not kept any more, an [EventGap] stands in for them.
func (l *EventLog) Since(id uint64) []status.Event {
	pos := l.start(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(pos, l.size)
}

// Subscribe yields the events after id, as Since does, and then every new one,
// until ctx ends or the loop is left. It keeps nothing of a reader that is gone.
func (l *EventLog) Subscribe(ctx context.Context, id uint64) iter.Seq[status.Event] {
	pos := l.start(id)
	return func(yield func(status.Event) bool) {
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

// start returns the position of a reader that has seen the event id last. What
// is older than all that was kept at the beginning, or was never given out, is of
// another time: its reader gets everything.
func (l *EventLog) start(id uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == 0 || id >= l.next {
		if len(l.events) == 0 {
			return l.next - 1
		}
		return l.events[0].ID - 1
	}
	return max(id, l.floor)
}

// read returns some events after pos, or what to wait for.
func (l *EventLog) read(pos uint64) ([]status.Event, <-chan struct{}) {
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
func (l *EventLog) after(pos uint64, limit int) []status.Event {
	from, _ := slices.BinarySearchFunc(l.events, pos+1, func(e keptEvent, id uint64) int { return cmp.Compare(e.ID, id) })
	kept := l.events[from:min(len(l.events), from+limit)]
	if len(kept) == 0 {
		return nil
	}
	var lost uint64
	if first := &kept[0]; pos < first.last { // the reader may have had some of them
		lost = min(first.dropped, first.last-pos)
	}
	for i := range kept[1:] {
		lost += kept[1+i].dropped
	}
	var events []status.Event
	if lost > 0 {
		events = append(events, status.Event{
			ID: kept[0].ID - 1, Time: status.At(time.Now()), Kind: status.EventGap, Lost: lost,
			Message: fmt.Sprintf("%d older events are no longer kept", lost),
		})
	}
	for i := range kept {
		events = append(events, kept[i].Event)
	}
	return events
}
