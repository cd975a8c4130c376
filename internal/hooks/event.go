package hooks

import (
	"bytes"
	"encoding/json"
	"iter"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/status"
)

// Event is one event as hooks get it.
type Event struct {
	ID   string
	Vars map[string]string // environment variables, without the prefix UPLINKD_
	JSON []byte            // the event, on standard input or as the body
}

// Events yields the events of the decision log as hooks get them.
func Events(log iter.Seq[status.Event]) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for e := range log {
			if !yield(eventOf(e)) {
				return
			}
		}
	}
}

func eventOf(e status.Event) Event {
	text, err := json.Marshal(e)
	if err != nil { // an event holds nothing that JSON cannot say
		text = []byte("{}")
	}
	at, _ := e.Time.MarshalText()
	id := strconv.FormatUint(e.ID, 10)
	return Event{ID: id, JSON: append(bytes.Clone(text), '\n'), Vars: map[string]string{
		"ID": id, "TIME": string(at), "KIND": string(e.Kind), "UPLINK": e.Uplink, "FAMILY": e.Family, "FROM": e.From, "TO": e.To,
		"CODE": e.Code, "REASON": e.Reason, "MESSAGE": e.Message, "EVIDENCE": strings.Join(e.Evidence, "\n"),
	}}
}
