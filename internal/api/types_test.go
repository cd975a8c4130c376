package api

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func jsonStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func TestStatusJSONIsTheContract(t *testing.T) {
	got, err := json.MarshalIndent(sampleStatus(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", append(got, '\n'))
}

func TestEmptyStatusHasEveryFieldAndNoNull(t *testing.T) {
	got, err := json.MarshalIndent(Status{Uplinks: []Uplink{{}}}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(got, []byte("null")) {
		t.Error("there is a null")
	}
	golden(t, "empty.json", append(got, '\n'))
}

func TestStatusSurvivesItsJSON(t *testing.T) {
	want := sampleStatus()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Status
	if err := jsonStrict(data, &got); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(again)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Uplinks[1].Mark != want.Uplinks[1].Mark {
		t.Errorf("the mark is %v, want %v", got.Uplinks[1].Mark, want.Uplinks[1].Mark)
	}
	if !got.Started.Equal(want.Started.Time) {
		t.Errorf("started is %v, want %v", got.Started, want.Started)
	}
}

func TestStatusOfANewerDaemonIsKept(t *testing.T) {
	const newer = `{"version":"9","started":"","converged":true,"generation":1,"config":{"file":"","loaded":"","error":"","confirm_until":""},"uplinks":[],"lans":[{"device":"br-lan"}],"policies":[],"problems":[]}`
	var s Status
	if err := json.Unmarshal([]byte(newer), &s); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newer, string(got)); diff != "" {
		t.Error(diff)
	}
}

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
	for d, want := range map[time.Duration]float64{
		0: 0, 11200 * time.Microsecond: 11.2, 1234567 * time.Nanosecond: 1.235, time.Minute: 60000,
	} {
		if got := Milliseconds(d); got != want {
			t.Errorf("%v is %v ms, want %v", d, got, want)
		}
	}
}
