package status

import (
	"encoding/json"
	"testing"
	"time"
)

func TestTimeIsUTCWhateverTheZone(t *testing.T) {
	zone := time.FixedZone("", 5*3600)
	got, err := json.Marshal(At(time.Date(2026, 1, 2, 3, 4, 5, 6e6, zone)))
	if err != nil || string(got) != `"2026-01-01T22:04:05.006Z"` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestWrongTextsAreErrors(t *testing.T) {
	for _, text := range []string{`{"started":"yesterday"}`, `{"started":5}`, `{"uplinks":[{"mark":"0x1ffffffff"}]}`, `{"uplinks":[{"mark":"red"}]}`} {
		var s Status
		if json.Unmarshal([]byte(text), &s) == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestMillisecondsAreRoundedToTheMicrosecond(t *testing.T) {
	for d, want := range map[time.Duration]Millis{
		0: 0, 11200 * time.Microsecond: 11.2, 1234567 * time.Nanosecond: 1.235, time.Minute: 60000,
	} {
		if got := Milliseconds(d); got != want {
			t.Errorf("%v is %v ms, want %v", d, got, want)
		}
	}
	if got, err := json.Marshal([]Millis{0, 11.2}); err != nil || string(got) != "[null,11.2]" {
		t.Errorf("%s, %v", got, err)
	}
}
