package store

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/schedule"
)

// retryInterval is how often what could not be written is tried again.
const retryInterval = 5 * time.Second

// Saver writes to a directory. A full disk is reported, and keeps nothing from working; it is tried again. All methods may be called by any
// goroutine.
type Saver struct {
	*Dir
	phase time.Time // what has failed is tried again at whole intervals after it
	log   *slog.Logger

	writing sync.Mutex // one write at a time, so that the latest state is the one that stays

	mu      sync.Mutex
	unsaved map[string]func() error // writes that have failed, by document
	failure error                   // of the latest of those
}

// NewSaver returns what writes to a directory.
func NewSaver(dir *Dir, phase time.Time, log *slog.Logger) *Saver {
	return &Saver{Dir: dir, phase: phase, log: log, unsaved: make(map[string]func() error)}
}

// Keep writes a document that holds what read returns by then.
func (s *Saver) Keep(document string, read func() any) {
	s.Write(document, func() error { return s.Save(document, read()) })
}

// Write writes a document in a way of its own, and again until it succeeds.
func (s *Saver) Write(document string, write func() error) {
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

// Run tries now and then what has failed, and writes again what somebody has taken away, until the context ends.
func (s *Saver) Run(ctx context.Context) error {
	schedule.Every(ctx, s.phase, retryInterval, func(time.Time) {
		s.Write("", func() error {
			names, err := s.Restore()
			if len(names) > 0 {
				s.log.Warn("the state directory was removed: writing it again", "documents", names)
			}
			return err
		})
		s.mu.Lock()
		unsaved := maps.Clone(s.unsaved)
		s.mu.Unlock()
		for document, write := range unsaved {
			s.Write(document, write)
		}
	})
	return nil
}

// Failure is why the disk holds less than it should; nil when it holds all.
func (s *Saver) Failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) == 0 {
		return nil
	}
	return s.failure
}
