package api

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
)

func TestTheDecisionLogOutlivesTheDaemon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	ids := func(l *DecisionLog) (list []uint64) {
		for _, e := range l.Since(0) {
			list = append(list, e.ID)
		}
		return list
	}
	var want []uint64
	for run := range 3 {
		state := store.Open(dir)
		l, err := OpenDecisionLog(store.NewSaver(state, time.Now(), slog.New(slog.DiscardHandler)), uint64(100*run))
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(l); !slices.Equal(got, want) {
			t.Errorf("run %d begins with %v, want %v", run, got, want)
		}
		for range 2 {
			l.Append(status.Event{Kind: status.EventStart})
			l.Append(status.Event{Kind: status.EventRepair, Message: "twice"})
			l.Save()
		}
		l.Save() // nothing new
		want = ids(l)
	}
	if len(want) != 12 {
		t.Errorf("%v", want)
	}
}

func TestNoFloodPushesVerdictsOutOfTheFile(t *testing.T) {
	dir := t.TempDir()
	open := func() *DecisionLog {
		l, err := OpenDecisionLog(store.NewSaver(store.Open(dir), time.Now(), slog.New(slog.DiscardHandler)), 1)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	for range 7 {
		l.Append(status.Event{Kind: status.EventVerdict, Uplink: "fiber"})
	}
	for range 20 {
		for range 500 {
			l.Append(status.Event{Kind: status.EventLease, Message: "router advertisements: no router, 2001:db8:1:2:3:4:5:6"})
		}
		l.Save()
	}
	l.Append(status.Event{Kind: status.EventSwitch})
	l.Save()
	kinds := make(map[status.EventKind]int)
	for _, e := range open().Since(0) {
		kinds[e.Kind]++
	}
	if kinds[status.EventVerdict] != 7 || kinds[status.EventSwitch] != 1 || kinds[status.EventLease] < 900 {
		t.Errorf("%v", kinds)
	}
}

func TestEventsOfNoRunDoNotStopTheLog(t *testing.T) {
	dir := t.TempDir()
	for _, e := range []string{`{"id":18446744073709551615,"kind":"verdict"}`, `{"id":-1}`, `{"id":9007199254740993,"kind":"start"}`, `"x"`, `[]`, `{"id":5,"kind":"start","time":"9999-12-31T23:59:59Z"}`} {
		f, err := os.OpenFile(filepath.Join(dir, "events.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(e + "\n")
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for want := 1; want < 4; want++ {
		l, err := OpenDecisionLog(store.NewSaver(store.Open(dir), time.Now(), slog.New(slog.DiscardHandler)), 100)
		if err != nil {
			t.Fatal(err)
		}
		l.Append(status.Event{Kind: status.EventStop})
		l.Save()
		if all := l.Since(0); len(all) != want+1 {
			t.Errorf("%d events: %+v", len(all), all)
		}
	}
}
