package store

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatCannotBeWrittenIsAProblemUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSaver(View(t.TempDir()), time.Now(), slog.New(slog.DiscardHandler))
		full := errors.New("no space left on device")
		var written atomic.Int32
		var room atomic.Bool
		s.Write("ids", func() error {
			if written.Add(1); room.Load() {
				return nil
			}
			return full
		})
		s.Write("leases", func() error { return nil })
		if err := s.Failure(); !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
		go func() { _ = s.Run(t.Context()) }()
		time.Sleep(time.Minute)
		if tries := written.Load(); tries < 5 {
			t.Errorf("tried %d times in a minute", tries)
		}
		room.Store(true)
		time.Sleep(time.Minute)
		tries := written.Load()
		time.Sleep(time.Minute)
		if err := s.Failure(); err != nil || written.Load() != tries {
			t.Errorf("%v; written %d times since", err, written.Load()-tries)
		}
	})
}
