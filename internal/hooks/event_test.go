package hooks

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestHookEventsSayAllThatEventsDo(t *testing.T) {
	e := status.Event{ID: 7, Time: status.At(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)), Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv4", From: "up", To: "down",
		Code: "silence", Reason: "no answer", Message: "m", Evidence: []string{"a", "b"}}
	got := eventOf(e)
	want := map[string]string{"ID": "7", "TIME": "2026-11-20T12:00:00.000Z", "KIND": "verdict", "UPLINK": "fiber", "FAMILY": "ipv4", "FROM": "up", "TO": "down",
		"CODE": "silence", "REASON": "no answer", "MESSAGE": "m", "EVIDENCE": "a\nb"}
	if diff := cmp.Diff(want, got.Vars); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var back status.Event
	if err := json.Unmarshal(got.JSON, &back); err != nil || back.Reason != e.Reason || !strings.HasSuffix(string(got.JSON), "\n") {
		t.Errorf("%s: %v", got.JSON, err)
	}
}
