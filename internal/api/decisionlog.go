package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
)

const (
	// The names of the decision log in the state directory, and logBytes the bound of each there. What others may cause as often as
	// they like has a file of its own: it pushes out no verdicts.
	docEvents, docFrequent = "events", "events-frequent"
	logBytes               = 1 << 20
	// logInterval is the least time between two writes of it: flash wears out.
	logInterval = time.Second
)

// frequent are the kinds of event that providers, peers and programs cause.
var frequent = map[status.EventKind]bool{status.EventLease: true, status.EventPeer: true, status.EventRepair: true}

// DecisionLog is the events of this run and earlier ones, in memory and on disk.
type DecisionLog struct {
	*EventLog
	disk  *store.Saver
	files [2]eventFile // guarded by the writes of disk
}

// eventFile holds some kinds of event.
type eventFile struct {
	log      *store.Log
	frequent bool
	written  uint64 // the latest event that is in there
}

// OpenDecisionLog takes over what the disk holds. With [store.ErrDamaged] it lacks what could not be read.
func OpenDecisionLog(disk *store.Saver, first uint64) (*DecisionLog, error) {
	l := &DecisionLog{EventLog: NewEventLog(defaultEvents, first), disk: disk,
		files: [2]eventFile{{log: disk.Log(docEvents, logBytes)}, {log: disk.Log(docFrequent, logBytes), frequent: true}}}
	var events []status.Event
	var failed error
	for i := range l.files {
		failed = errors.Join(failed, l.files[i].log.Load(func(line json.RawMessage) {
			var e status.Event
			if json.Unmarshal(line, &e) == nil { // else one of a version that is to come
				events = append(events, e)
			}
		}))
	}
	slices.SortStableFunc(events, func(a, b status.Event) int { return cmp.Compare(a.ID, b.ID) })
	l.Replay(events)
	for i := range l.files {
		l.files[i].written = l.Last()
	}
	return l, failed
}

// Last returns the id of the latest event, 0 for none.
func (l *DecisionLog) Last() uint64 {
	if kept := l.Since(0); len(kept) > 0 {
		return kept[len(kept)-1].ID
	}
	return 0
}

// Run appends to the file soon after the log has grown, until the context ends.
func (l *DecisionLog) Run(ctx context.Context) error {
	grown, following := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(following)
		for range l.Subscribe(ctx, 0) {
			select {
			case grown <- struct{}{}:
			default:
			}
		}
	}()
	defer func() { <-following }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-grown:
		}
		l.Save()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logInterval):
		}
	}
}

// Save appends what is new.
func (l *DecisionLog) Save() {
	for i := range l.files {
		f := &l.files[i]
		l.disk.Write(f.log.Name(), func() error { return f.append(l.EventLog) })
	}
}

func (f *eventFile) append(events *EventLog) error {
	var lines []any
	if f.log.Gone() {
		f.written = 0
	}
	written := f.written
	for _, e := range events.Since(written) {
		if e.Kind == status.EventGap {
			continue
		}
		if written = e.ID; frequent[e.Kind] == f.frequent {
			lines = append(lines, e)
		}
	}
	if len(lines) > 0 {
		if err := f.log.Append(lines...); err != nil {
			return err
		}
	}
	f.written = written
	return nil
}
