package daemon

import (
	"context"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

const (
	// eventInterval is how often the decision log is written at most: flash wears out.
	eventInterval = time.Second
	// eventBytes bounds the decision log on disk, in bytes of text; what is older is left out.
	eventBytes = 1 << 20
)

// persistEvents writes the decision log soon after it has grown.
func (d *Daemon) persistEvents(ctx context.Context) error {
	grown, following := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(following)
		for range d.events.Subscribe(ctx, 0) {
			select {
			case grown <- struct{}{}:
			default:
			}
		}
	}()
	defer func() { <-following }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-grown:
		}
		d.saveEvents()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventInterval):
		}
	}
}

func (d *Daemon) saveEvents() {
	d.save(docEvents, func() any { return latest(d.events.Since(0), eventBytes) })
}

// latest returns the last events that have no more text than size.
func latest(events []status.Event, size int) []status.Event {
	first := len(events)
	for ; first > 0; first-- {
		e := &events[first-1]
		size -= 200 + len(e.Uplink) + len(e.From) + len(e.To) + len(e.Reason) + len(e.Message) // 200 for names and the rest
		for _, line := range e.Evidence {
			size -= 20 + len(line)
		}
		if size < 0 {
			break
		}
	}
	return events[first:]
}
