package api

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestStatusForPeople(t *testing.T) {
	for name, test := range map[string]struct {
		status status.Status
		color  bool
	}{
		"status.txt":       {sampleStatus(), false},
		"status-color.txt": {sampleStatus(), true},
		"empty.txt":        {status.Status{}, false},
	} {
		var b bytes.Buffer
		if err := WriteStatus(&b, test.status, RenderOptions{Color: test.color, Now: noon}); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
}

func TestStatusWithoutPrefixesHasNoColumnForThem(t *testing.T) {
	s := sampleStatus()
	s.Uplinks[0].IPv6.Delegated, s.Problems = nil, nil
	var b bytes.Buffer
	if err := WriteStatus(&b, s, RenderOptions{Now: noon}); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-no-prefix.txt", b.Bytes())
}

func TestEventsForPeople(t *testing.T) {
	var b bytes.Buffer
	for _, e := range []status.Event{
		{Time: status.At(noon), Kind: status.EventStart, Message: "uplinkd 1.2.3"},
		{Time: status.At(noon.Add(1500 * time.Millisecond)), Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv4", From: "up", To: "suspect",
			Reason: "4 of 4 probes to 2 targets unanswered for 400 ms", Evidence: []string{"192.0.2.1: 9 sent, 5 answered", "192.0.2.2: 9 sent, 5 answered"}},
		{Time: status.At(noon), Kind: status.EventSwitch, Family: "ipv4", From: "fiber", To: "lte", Reason: "fiber is suspect"},
		{Time: status.At(noon), Kind: status.EventSwitch, Family: "ipv6", From: "fiber"},
		{Time: status.At(noon), Kind: status.EventDrain, Uplink: "lte", Message: "drained by the operator"},
		{Time: status.At(noon), Kind: status.EventReload, Message: "line 1\nline 2 \x1b[31mred\x1b[0m \u202eesrever"},
		{Time: status.At(noon.In(time.FixedZone("", 3600))), Kind: status.EventGap, Lost: 12, Message: "12 older events are not kept any more"},
		{Time: status.At(noon), Kind: status.EventStop},
	} {
		if err := WriteEvent(&b, e); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "events.txt", b.Bytes())
}

type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestWriteErrorsAreReported(t *testing.T) {
	if err := WriteStatus(fullDisk{}, sampleStatus(), RenderOptions{}); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	if err := WriteEvent(fullDisk{}, status.Event{}); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", time.Hour: "1h0m",
		25*time.Hour + 59*time.Minute: "1d1h", 1000 * time.Hour: "41d16h",
	} {
		if got := age(noon, noon.Add(-d)); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestPercent(t *testing.T) {
	for ratio, want := range map[float64]string{0: "0%", 0.0001: "<1%", 0.01: "1%", 0.755: "76%", 0.9999: ">99%", 1: "100%"} {
		if got := percent(ratio); got != want {
			t.Errorf("%v is %s, want %s", ratio, got, want)
		}
	}
}
