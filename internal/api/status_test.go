package api

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
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

// A list without elements is one, and only what was measured can be unknown.
func TestEmptyStatusHasEveryFieldAndNoNullButTimes(t *testing.T) {
	got, err := json.MarshalIndent(status.Status{Uplinks: []status.Uplink{{}}}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(got) {
		if bytes.Contains(line, []byte("null")) && !bytes.Contains(line, []byte("_ms\"")) && !bytes.Contains(line, []byte("\"load\"")) {
			t.Errorf("there is a null: %s", line)
		}
	}
	golden(t, "empty.json", append(got, '\n'))
}

func TestStatusSurvivesItsJSON(t *testing.T) {
	want := sampleStatus()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got status.Status
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
	const newer = `{"headline":"Online.","version":"9","started":"","converged":true,"generation":1,"config":{"file":"","loaded":"","error":"","confirm_until":""},"uplinks":[],"dns":{"resolvers":[],"outputs":[]},"sets":[],"forwards":[],"lans":[{"device":"br-lan"}],"policies":[],"problems":[]}`
	var s status.Status
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
