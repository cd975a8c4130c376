package api

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// fill appends n events.
func fill(l *EventLog, n int) {
	for range n {
		l.Append(status.Event{Kind: status.EventRepair})
	}
}

// brief lists ids, and gaps as "-N".
func brief(events []status.Event) []string {
	list := []string{}
	for _, e := range events {
		if e.Kind == status.EventGap {
			list = append(list, fmt.Sprintf("-%d", e.Lost))
		} else {
			list = append(list, fmt.Sprint(e.ID))
		}
	}
	return list
}

func TestSince(t *testing.T) {
	for _, test := range []struct {
		name   string
		events int
		id     uint64
		want   []string
	}{
		{"an empty log has nothing", 0, 0, []string{}},
		{"an empty log has nothing after an id of an earlier run", 0, 7, []string{}},
		{"zero asks for all", 2, 0, []string{"101", "102"}},
		{"zero asks for all that are kept and misses none", 6, 0, []string{"103", "104", "105", "106"}},
		{"an id asks for what came later", 3, 102, []string{"103"}},
		{"the last id asks for nothing", 3, 103, []string{}},
		{"an id just before the oldest has lost nothing", 6, 102, []string{"103", "104", "105", "106"}},
		{"an id that is not kept has lost some", 8, 102, []string{"-2", "105", "106", "107", "108"}},
		{"an id of an earlier run gets all of this one", 2, 50, []string{"101", "102"}},
		{"an id of an earlier run has lost what this one dropped", 6, 50, []string{"-2", "103", "104", "105", "106"}},
		{"an id of the future is of a run with a wrong clock", 2, 900, []string{"101", "102"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := NewEventLog(4, 101)
			fill(l, test.events)
			got := l.Since(test.id)
			if diff := cmp.Diff(test.want, brief(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGapResumesWhereItEnds(t *testing.T) {
	l := NewEventLog(4, 1)
	fill(l, 10)
	events := l.Since(1)
	if diff := cmp.Diff([]string{"-5", "7", "8", "9", "10"}, brief(events)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"7", "8", "9", "10"}, brief(l.Since(events[0].ID))); diff != "" {
		t.Error(diff)
	}
}

func TestAppendGivesIDTimeAndItsOwnEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog(0, 0)
		evidence := []string{"192.0.2.1: 4 sent, 0 answered"}
		l.Append(status.Event{Kind: status.EventVerdict, Evidence: evidence})
		evidence[0] = "changed later"
		l.Append(status.Event{Time: status.At(noon)})
		first, second := l.Since(0)[0], l.Since(0)[1]
		if first.ID != 1 || second.ID != 2 || !first.Time.Equal(time.Now()) || !second.Time.Equal(noon) {
			t.Errorf("got %+v and %+v", first, second)
		}
		if first.Evidence[0] == evidence[0] {
			t.Error("the log shares memory with its writer")
		}
	})
}

func TestIDsGrowOverARestart(t *testing.T) {
	before := NewEventLog(4, FirstID(noon))
	fill(before, 4)
	last := before.Since(0)[3].ID
	after := NewEventLog(4, FirstID(noon.Add(time.Second)))
	after.Append(status.Event{})
	if id := after.Since(0)[0].ID; id <= last || id > 1<<53 {
		t.Errorf("id %d follows %d", id, last)
	}
	if FirstID(time.Time{}) != 1 {
		t.Error("a clock before 1970 gives no id")
	}
}

// replayed is a log of four with two events of each of two earlier runs.
func replayed() *EventLog {
	l := NewEventLog(4, 901)
	l.Replay([]status.Event{{ID: 101, Kind: status.EventRepair}, {ID: 102, Kind: status.EventRepair}, {ID: 501, Kind: status.EventRepair}, {ID: 502, Kind: status.EventRepair}})
	return l
}

func TestWhatWasBeforeARestartIsThereToo(t *testing.T) {
	for _, test := range []struct {
		name   string
		events int
		id     uint64
		want   []string
	}{
		{"all of it", 0, 0, []string{"101", "102", "501", "502"}},
		{"with what came later", 2, 0, []string{"501", "502", "901", "902"}},
		{"from an event of an earlier run on", 1, 102, []string{"501", "502", "901"}},
		{"from an event between two runs on", 1, 300, []string{"501", "502", "901"}},
		{"from an event that was dropped on", 2, 101, []string{"-1", "501", "502", "901", "902"}},
		{"from before everything", 1, 5, []string{"-1", "102", "501", "502", "901"}},
		{"from before everything, nothing dropped", 0, 5, []string{"101", "102", "501", "502"}},
		{"from the last on", 1, 901, []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := replayed()
			fill(l, test.events)
			if diff := cmp.Diff(test.want, brief(l.Since(test.id))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFloodPushesOutNothingButItself(t *testing.T) {
	l := NewEventLog(20, 1)
	for range 5 {
		l.Append(status.Event{Kind: status.EventVerdict})
		l.Append(status.Event{Kind: status.EventSwitch})
	}
	for range 1000 {
		l.Append(status.Event{Kind: status.EventLease})
	}
	l.Append(status.Event{Kind: status.EventVerdict}) // 1011
	fill(l, 1000)
	kinds := make(map[status.EventKind]int)
	var last uint64
	for _, e := range l.Since(0) {
		kinds[e.Kind]++
		if e.ID < last || e.Kind != status.EventGap && e.ID == last {
			t.Errorf("%d after %d", e.ID, last)
		}
		last = e.ID
	}
	if kinds[status.EventVerdict] < 5 || kinds[status.EventSwitch] != 5 || kinds[status.EventLease] < 3 || kinds[status.EventRepair] < 3 {
		t.Errorf("%v", kinds)
	}
	// Whoever was there before the flood hears how much it has missed, once, and all that is kept.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []status.Event
	lost := uint64(0)
	for e := range l.Subscribe(ctx, 10) {
		lost += e.Lost
		if e.Kind != status.EventGap {
			got = append(got, e)
		}
		if e.ID == 2011 {
			break
		}
	}
	if all := uint64(len(got)) + lost; all != 2001 || got[0].ID <= 10 {
		t.Errorf("%d and %d lost, of 2001: %v", len(got), lost, brief(got))
	}
}

func TestReplayTakesWhatIsInOrderAndOutrunsAClockThatWentBack(t *testing.T) {
	l := NewEventLog(3, 7)
	l.Replay([]status.Event{{ID: 100}, {ID: 0}, {ID: 99}, {ID: 101}, {ID: 101}, {ID: 1 << 60}, {ID: 102, Kind: status.EventGap}, {ID: 103}, {ID: 104}})
	fill(l, 1)
	if diff := cmp.Diff([]string{"103", "104", "105"}, brief(l.Since(0))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSubscribeGetsOldAndNewUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog(200, 1)
		fill(l, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var got []status.Event
		var reader sync.WaitGroup
		reader.Go(func() {
			for e := range l.Subscribe(ctx, 1) {
				got = append(got, e)
			}
		})
		synctest.Wait()
		if diff := cmp.Diff([]string{"2"}, brief(got)); diff != "" {
			t.Error(diff)
		}
		fill(l, 150) // more than one batch
		synctest.Wait()
		if len(got) != 151 || got[150].ID != 152 {
			t.Errorf("got %d events", len(got))
		}
		cancel()
		reader.Wait()
	})
}

func TestSlowReaderIsToldAndStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog(4, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		release := make(chan struct{})
		var slow, quick []status.Event
		var readers sync.WaitGroup
		readers.Go(func() {
			for e := range l.Subscribe(ctx, 0) {
				slow = append(slow, e)
				<-release
			}
		})
		readers.Go(func() {
			for e := range l.Subscribe(ctx, 0) {
				quick = append(quick, e)
			}
		})
		for range 10 {
			fill(l, 1) // would never return if it waited for the slow reader
			synctest.Wait()
		}
		close(release)
		synctest.Wait()
		cancel()
		readers.Wait()
		if diff := cmp.Diff([]string{"1", "-5", "7", "8", "9", "10"}, brief(slow)); diff != "" {
			t.Errorf("slow (-want +got):\n%s", diff)
		}
		if len(quick) != 10 {
			t.Errorf("the quick reader got %v", brief(quick))
		}
	})
}

// A reader of an empty log is at its beginning, not at "whatever is kept".
func TestReaderOfAnEmptyLogIsToldWhatItLoses(t *testing.T) {
	l := NewEventLog(4, 1)
	events := l.Subscribe(t.Context(), 0)
	fill(l, 6)
	for e := range events {
		if e.Kind != status.EventGap || e.Lost != 2 {
			t.Errorf("got %+v", e)
		}
		break
	}
}

func TestManyWritersAndReadersSeeOneOrder(t *testing.T) {
	l := NewEventLog(4096, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers, readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			last := uint64(0)
			for e := range l.Subscribe(ctx, 0) {
				if e.ID != last+1 {
					t.Errorf("%d follows %d", e.ID, last)
				}
				if last = e.ID; last == 1600 {
					return
				}
			}
		})
	}
	for range 8 {
		writers.Go(func() { fill(l, 200) })
	}
	writers.Wait()
	readers.Wait()
}

func TestVerdictEvent(t *testing.T) {
	got := status.VerdictEvent(uplink.Transition{
		Uplink: "fiber", Family: rules.IPv6, From: uplink.Up, To: uplink.Suspect,
		Reason: uplink.Reason{Code: uplink.CodeSilence, Text: "4 of 4 probes"}, Evidence: []string{"a"}, At: noon,
	})
	want := status.Event{
		Time: status.At(noon), Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv6", From: "up", To: "suspect",
		Code: "silence", Reason: "4 of 4 probes", Evidence: []string{"a"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
