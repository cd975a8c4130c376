package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/status"
)

// tellPrograms runs the owner's programs on events, those after an id.
func (d *Daemon) tellPrograms(ctx context.Context, after uint64) error {
	dir := d.current().Daemon.Hooks
	if dir == "" {
		<-ctx.Done()
		return nil
	}
	p := hooks.Programs{Dir: dir, Log: d.log}
	return p.Run(ctx, d.notices(ctx, after))
}

// tellWebhook posts events to the owner's web service.
func (d *Daemon) tellWebhook(ctx context.Context, after uint64) error {
	url := d.current().Daemon.Webhook
	if url == "" {
		<-ctx.Done()
		return nil
	}
	w := hooks.Webhook{URL: url, Log: d.log}
	return w.Run(ctx, d.notices(ctx, after))
}

// notices are the events after an id, as hooks get them.
func (d *Daemon) notices(ctx context.Context, after uint64) iter.Seq[hooks.Notice] {
	return func(yield func(hooks.Notice) bool) {
		for e := range d.events.Subscribe(ctx, after) {
			if !yield(notice(e)) {
				return
			}
		}
	}
}

func notice(e status.Event) hooks.Notice {
	text, err := json.Marshal(e)
	if err != nil { // an event holds nothing that JSON cannot say
		text = []byte("{}")
	}
	at, _ := e.Time.MarshalText()
	id := strconv.FormatUint(e.ID, 10)
	return hooks.Notice{ID: id, JSON: append(bytes.Clone(text), '\n'), Vars: map[string]string{
		"ID": id, "TIME": string(at), "KIND": string(e.Kind), "UPLINK": e.Uplink, "FAMILY": e.Family, "FROM": e.From, "TO": e.To,
		"REASON": e.Reason, "MESSAGE": e.Message, "EVIDENCE": strings.Join(e.Evidence, "\n"),
	}}
}

// lastEvent is the id of the latest event that is kept, 0 for none.
func (d *Daemon) lastEvent() uint64 {
	if kept := d.events.Since(0); len(kept) > 0 {
		return kept[len(kept)-1].ID
	}
	return 0
}
