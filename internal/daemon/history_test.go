package daemon

import (
	"strings"
	"testing"

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
