package daemon

import (
	"context"
	"encoding/json"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
)

const (
	// docEvents is the name of the decision log in the state directory, and logBytes its bound there.
	docEvents = "events"
	logBytes  = 1 << 20
	// logInterval is the least time between two writes of it: flash wears out.
	logInterval = time.Second
)

// decisionLog is the events of this run and earlier ones, in memory and on disk.
type decisionLog struct {
	*api.EventLog
	disk    *saver
	file    *store.Log // guarded by disk.writing, as what follows
	written uint64     // the latest event that is in there
}

// newDecisionLog takes over what the disk holds. With [store.ErrDamaged] it lacks what could not be read.
func newDecisionLog(disk *saver, first uint64) (*decisionLog, error) {
	l := &decisionLog{EventLog: api.NewEventLog(api.DefaultEvents, first), disk: disk, file: disk.state.Log(docEvents, logBytes)}
	var events []status.Event
	err := l.file.Load(func(line json.RawMessage) {
		var e status.Event
		if json.Unmarshal(line, &e) == nil { // else one of a version that is to come
			events = append(events, e)
		}
	})
	l.Replay(events)
	if n := len(events); n > 0 {
		l.written = events[n-1].ID
	}
	return l, err
}

// last returns the id of the latest event, 0 for none.
func (l *decisionLog) last() uint64 {
	if kept := l.Since(0); len(kept) > 0 {
		return kept[len(kept)-1].ID
	}
	return 0
}

// run appends to the file soon after the log has grown, until the context ends.
func (l *decisionLog) run(ctx context.Context) error {
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
		l.save()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logInterval):
		}
	}
}

// save appends what is new.
func (l *decisionLog) save() {
	l.disk.write(docEvents, func() error {
		var lines []any
		if l.file.Gone() {
			l.written = 0
		}
		written := l.written
		for _, e := range l.Since(written) {
			if e.Kind != status.EventGap {
				lines, written = append(lines, e), e.ID
			}
		}
		if len(lines) == 0 {
			return nil
		}
		err := l.file.Append(lines...)
		if err == nil {
			l.written = written
		}
		return err
	})
}
