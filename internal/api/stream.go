package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

// events answers with server-sent events: what is kept after an id, and then
// what happens, until the client leaves or the daemon stops.
func (l *listenerHandler) events(w http.ResponseWriter, r *http.Request) {
	after, follow, err := eventQuery(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	out := stream{w: w, control: http.NewResponseController(w), timeout: l.limits.streamTimeout}
	if !follow {
		out.begin()
		// A client that is gone needs no error.
		_ = out.events(l.o.Events.Since(after))
		return
	}
	release, err := l.streams.take(clientOf(r.RemoteAddr))
	if err != nil {
		w.Header().Set("Retry-After", "30")
		writeError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer release()
	out.begin()
	if err := out.write([]byte("retry: 2000\n\n")); err != nil {
		return
	}
	l.follow(r, out, l.o.Events.start(after))
}

// follow sends what comes after pos until a write fails or the request ends.
func (l *listenerHandler) follow(r *http.Request, out stream, pos uint64) {
	heartbeat := time.NewTicker(l.limits.heartbeat)
	defer heartbeat.Stop()
	for r.Context().Err() == nil {
		events, grown := l.o.Events.read(pos)
		if len(events) > 0 {
			if out.events(events) != nil {
				return
			}
			pos = events[len(events)-1].ID
			continue
		}
		select {
		case <-r.Context().Done():
		case <-grown:
		case <-heartbeat.C:
			// Proxies drop silent connections, and a dead client shows itself only
			// when something is written.
			if out.write([]byte(": alive\n\n")) != nil {
				return
			}
		}
	}
}

// eventQuery reads where to begin and whether to go on. A browser that connects
// again repeats the query of the first time, so its Last-Event-ID counts more;
// one that is no number of ours cannot be repeated to it and counts as none.
func eventQuery(r *http.Request) (after uint64, follow bool, err error) {
	query := r.URL.Query()
	if text := query.Get("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, false, fmt.Errorf("after=%q is not the id of an event", text)
		}
	}
	if text := r.Header.Get("Last-Event-ID"); text != "" {
		if id, err := strconv.ParseUint(text, 10, 64); err == nil {
			after = id
		}
	}
	switch text := query.Get("follow"); text {
	case "", "1":
		return after, true, nil
	case "0":
		return after, false, nil
	default:
		return 0, false, fmt.Errorf("follow=%q is neither 0 nor 1", text)
	}
}

// stream writes server-sent events. The timeouts of the server are for whole
// requests and would end it; it has one for each write instead.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

func (s stream) begin() {
	h := s.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	// net/http takes the end of the read timeout for a client that is gone. A
	// connection without deadlines shows the client's end by itself.
	_ = s.control.SetReadDeadline(time.Time{})
}

func (s stream) events(events []status.Event) error {
	var b bytes.Buffer
	for _, e := range events {
		data, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encoding event %d: %w", e.ID, err)
		}
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, data)
	}
	return s.write(b.Bytes())
}

func (s stream) write(b []byte) error {
	err := s.control.SetWriteDeadline(time.Now().Add(s.timeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}
