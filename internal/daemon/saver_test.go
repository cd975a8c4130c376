package daemon

import (
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
)

func TestWhatCannotBeWrittenIsAProblemUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSaver(store.View(t.TempDir()), time.Now(), slog.New(slog.DiscardHandler))
		full := errors.New("no space left on device")
		var written atomic.Int32
		var room atomic.Bool
		s.write("ids", func() error {
			if written.Add(1); room.Load() {
				return nil
			}
			return full
		})
		s.write("leases", func() error { return nil })
		if p := s.problems(); len(p) != 1 || p[0].Code != "state-not-saved" || p[0].Message != full.Error() {
			t.Errorf("%+v", p)
		}
		go func() { _ = s.run(t.Context()) }()
		time.Sleep(time.Minute)
		if tries := written.Load(); tries < 5 {
			t.Errorf("tried %d times in a minute", tries)
		}
		room.Store(true)
		time.Sleep(time.Minute)
		tries := written.Load()
		time.Sleep(time.Minute)
		if p := s.problems(); len(p) != 0 || written.Load() != tries {
			t.Errorf("%+v; written %d times since", p, written.Load()-tries)
		}
	})
}

func TestTheDecisionLogOutlivesTheDaemon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	ids := func(l *decisionLog) (list []uint64) {
		for _, e := range l.Since(0) {
			list = append(list, e.ID)
		}
		return list
	}
	var want []uint64
	for run := range 3 {
		state := store.Open(dir)
		l, err := newDecisionLog(newSaver(state, time.Now(), slog.New(slog.DiscardHandler)), uint64(100*run))
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(l); !slices.Equal(got, want) {
			t.Errorf("run %d begins with %v, want %v", run, got, want)
		}
		for range 2 {
			l.Append(status.Event{Kind: status.EventStart})
			l.Append(status.Event{Kind: status.EventRepair, Message: "twice"})
			l.save()
		}
		l.save() // nothing new
		want = ids(l)
	}
	if len(want) != 12 {
		t.Errorf("%v", want)
	}
}
