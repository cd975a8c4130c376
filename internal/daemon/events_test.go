package daemon

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestTheDecisionLogOnDiskIsBoundedAndKeepsTheLatest(t *testing.T) {
	events := make([]status.Event, 100)
	for i := range events {
		events[i] = status.Event{ID: uint64(i + 1), Reason: strings.Repeat("x", 100), Evidence: []string{strings.Repeat("y", 680)}}
	}
	if kept := latest(events, 1<<20); len(kept) != 100 {
		t.Errorf("%d of 100 are kept although there is room", len(kept))
	}
	kept := latest(events, 10_500)
	if len(kept) != 10 || kept[9].ID != 100 {
		t.Errorf("%d are kept where 10 have room, up to id %d", len(kept), kept[len(kept)-1].ID)
	}
	if kept := latest(nil, 5); len(kept) != 0 {
		t.Errorf("%v", kept)
	}
}

func TestNoticesSayAllThatEventsDo(t *testing.T) {
	e := status.Event{ID: 7, Time: status.At(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)), Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv4", From: "up", To: "down",
		Reason: "no answer", Message: "m", Evidence: []string{"a", "b"}}
	got := notice(e)
	want := map[string]string{"ID": "7", "TIME": "2026-11-20T12:00:00.000Z", "KIND": "verdict", "UPLINK": "fiber", "FAMILY": "ipv4", "FROM": "up", "TO": "down",
		"REASON": "no answer", "MESSAGE": "m", "EVIDENCE": "a\nb"}
	if diff := cmp.Diff(want, got.Vars); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var back status.Event
	if err := json.Unmarshal(got.JSON, &back); err != nil || back.Reason != e.Reason || !strings.HasSuffix(string(got.JSON), "\n") {
		t.Errorf("%s: %v", got.JSON, err)
	}
}
