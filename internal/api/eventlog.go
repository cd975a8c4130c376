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

// DefaultEvents is how many events an EventLog keeps unless told otherwise.
const DefaultEvents = 1000

// readBatch is how many events a reader takes while it holds the lock.
const readBatch = 64

// EventLog keeps the latest events for any number of readers. Appending never
// waits for a reader: each has only a position, and one that falls behind what
// is kept gets an [EventGap] in place of what it lost. All methods may be called
// by any goroutine.
type EventLog struct {
	size int

	mu      sync.Mutex
	next    uint64
	events  []status.Event // what is kept, ids growing; those of one run without gaps
	floor   uint64         // just before the first id that was kept at the beginning
	dropped uint64         // how many were dropped since
	last    uint64         // the id that was dropped last
	grown   chan struct{}  // closed by Append; nil while nobody waits
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
	return &EventLog{size: size, next: first, floor: first - 1}
}

// Replay puts the events of earlier runs before those of this one, whose ids
// will be larger whatever the clock says now. It is called before any other
// method. What is out of order, or more than the log keeps, is left out.
func (l *EventLog) Replay(events []status.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if e.ID > 0 && e.ID < maxID && e.Kind != status.EventGap && (len(l.events) == 0 || e.ID > l.events[len(l.events)-1].ID) {
			l.events = append(l.events, e)
		}
	}
	l.events = l.events[max(0, len(l.events)-l.size):]
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

// Append adds e, gives it an id, and the present time unless it has one. It
// returns the event as it is kept.
func (l *EventLog) Append(e status.Event) status.Event {
	e.Evidence = slices.Clone(e.Evidence)
	if e.Time.IsZero() {
		e.Time = status.At(time.Now())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ID = l.next
	l.events = append(l.events, e)
	if len(l.events) > l.size {
		l.last = l.events[0].ID
		l.dropped++
		l.events[0] = status.Event{} // its memory goes when the array is replaced
		l.events = l.events[1:]
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
	var events []status.Event
	if pos < l.last {
		// Ids of different runs are far apart, so their difference may be too much.
		lost := min(l.last-pos, l.dropped)
		events = append(events, status.Event{
			ID: l.last, Time: status.At(time.Now()), Kind: status.EventGap, Lost: lost,
			Message: fmt.Sprintf("%d older events are not kept any more", lost),
		})
	}
	from, _ := slices.BinarySearchFunc(l.events, pos+1, func(e status.Event, id uint64) int { return cmp.Compare(e.ID, id) })
	return append(events, l.events[from:min(len(l.events), from+limit)]...)
}
