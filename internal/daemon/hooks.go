package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/status"
)

// notifier tells others of events, those after an id.
type notifier struct {
	events *decisionLog
	after  uint64
	log    *slog.Logger
}

// runPrograms runs the owner's programs in a directory, if there is to be one.
func (n notifier) runPrograms(ctx context.Context, dir string) error {
	if dir == "" {
		<-ctx.Done()
		return nil
	}
	p := hooks.Programs{Dir: dir, Log: n.log}
	return p.Run(ctx, n.hookEvents(ctx))
}

// runWebhook posts to the owner's web service, if there is one.
func (n notifier) runWebhook(ctx context.Context, url string) error {
	if url == "" {
		<-ctx.Done()
		return nil
	}
	w := hooks.Webhook{URL: url, Log: n.log}
	return w.Run(ctx, n.hookEvents(ctx))
}

func (n notifier) hookEvents(ctx context.Context) iter.Seq[hooks.Event] {
	return func(yield func(hooks.Event) bool) {
		for e := range n.events.Subscribe(ctx, n.after) {
			if !yield(hookEvent(e)) {
				return
			}
		}
	}
}

func hookEvent(e status.Event) hooks.Event {
	text, err := json.Marshal(e)
	if err != nil { // an event holds nothing that JSON cannot say
		text = []byte("{}")
	}
	at, _ := e.Time.MarshalText()
	id := strconv.FormatUint(e.ID, 10)
	return hooks.Event{ID: id, JSON: append(bytes.Clone(text), '\n'), Vars: map[string]string{
		"ID": id, "TIME": string(at), "KIND": string(e.Kind), "UPLINK": e.Uplink, "FAMILY": e.Family, "FROM": e.From, "TO": e.To,
		"CODE": e.Code, "REASON": e.Reason, "MESSAGE": e.Message, "EVIDENCE": strings.Join(e.Evidence, "\n"),
	}}
}
