package daemon

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
)

// saver writes to the state directory. A full disk is reported, and keeps nothing from working; it is tried again.
type saver struct {
	state *store.Dir
	phase time.Time // what has failed is tried again at whole intervals after it
	log   *slog.Logger

	writing sync.Mutex // one write at a time, so that the latest state is the one that stays

	mu      sync.Mutex
	unsaved map[string]func() error // writes that have failed, by document
	failure error                   // of the latest of those
}

func newSaver(state *store.Dir, phase time.Time, log *slog.Logger) *saver {
	return &saver{state: state, phase: phase, log: log, unsaved: make(map[string]func() error)}
}

// SaveRecorded saves what the engine is about to overwrite.
func (s *saver) SaveRecorded(r rules.Recorded) error { return s.state.Save(store.Recorded, r) }

// save writes a document that holds what read returns by then.
func (s *saver) save(document string, read func() any) {
	s.write(document, func() error { return s.state.Save(document, read()) })
}

func (s *saver) write(document string, write func() error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := write()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.log.Warn("saving state failed", "err", err)
		s.unsaved[document], s.failure = write, err
		return
	}
	delete(s.unsaved, document)
}

// run tries now and then what has failed, and writes again what somebody has taken away, until the context ends.
func (s *saver) run(ctx context.Context) error {
	schedule.Every(ctx, s.phase, reconcile.Resync, func(time.Time) {
		s.write("", func() error {
			names, err := s.state.Restore()
			if len(names) > 0 {
				s.log.Warn("the state directory was removed: writing it again", "documents", names)
			}
			return err
		})
		s.mu.Lock()
		unsaved := maps.Clone(s.unsaved)
		s.mu.Unlock()
		for document, write := range unsaved {
			s.write(document, write)
		}
	})
	return nil
}

// problems says that the disk holds less than it should.
func (s *saver) problems() []rules.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) == 0 {
		return nil
	}
	return []rules.Problem{{Code: "state-not-saved", Severity: "warning", Message: s.failure.Error(),
		Fix: "free space in the state directory, or let uplinkd write to it"}}
}
