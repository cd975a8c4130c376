package api

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestClientAndServer(t *testing.T) {
	d := newDaemon()
	_, socket, _ := serve(t, newServer(d))
	c := Dial(socket)
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Uplinks[0].Mark != 0x01000000 || !got.Started.Equal(noon.AddDate(0, 0, -2).Add(-2*60*60*1e9)) {
		t.Errorf("got %+v", got)
	}
	if err := errors.Join(c.Drain(t.Context(), "lte", status.DrainedNow), c.Drain(t.Context(), "fiber", status.Undrained), c.Reload(t.Context(), time.Minute), c.Confirm(t.Context()), c.Reload(t.Context(), 0)); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]status.Drain{"lte": status.DrainedNow, "fiber": status.Undrained}, d.drained); diff != "" || d.reloads != 2 {
		t.Errorf("%d reloads, %s", d.reloads, diff)
	}
}

func TestClientRepeatsTheDaemonsWords(t *testing.T) {
	d := newDaemon()
	_, socket, _ := serve(t, newServer(d))
	c := Dial(socket)
	for _, name := range []string{"adsl", "../../reload", "a/b", "ä ?#%2f"} {
		if err := c.Drain(t.Context(), name, status.Drained); !errors.Is(err, ErrUnknownUplink) {
			t.Errorf("draining %q: %v", name, err)
		}
	}
	if err := c.Drain(t.Context(), "broken", status.Drained); err == nil || err.Error() != "the state directory is read-only" {
		t.Errorf("got %v", err)
	}
	d.set(func(d *daemon) { d.reloadErr = errors.New("line 3: no") })
	if err := c.Reload(t.Context(), 0); !errors.Is(err, ErrBadConfig) || err.Error() != "line 3: no" {
		t.Errorf("got %v", err)
	}
	if err := c.Confirm(t.Context()); err == nil || err.Error() != "no configuration is waiting to be confirmed" {
		t.Errorf("got %v", err)
	}
	if d.reloads != 1 {
		t.Errorf("reloaded %d times", d.reloads)
	}
}

func TestClientWithoutADaemon(t *testing.T) {
	for name, socket := range map[string]string{
		"no file":              filepath.Join(t.TempDir(), "none.sock"),
		"a socket of the dead": staleSocket(t),
	} {
		for call, do := range map[string]func(*Client) error{
			"Status": func(c *Client) error { _, err := c.Status(t.Context()); return err },
			"Drain":  func(c *Client) error { return c.Drain(t.Context(), "lte", status.DrainedNow) },
			"Reload": func(c *Client) error { return c.Reload(t.Context(), 0) },
			"Yield":  func(c *Client) error { return c.Yield(t.Context()) },
			"Events": func(c *Client) error { return c.Events(t.Context(), 0, true, func(status.Event) error { return nil }) },
		} {
			err := do(Dial(socket))
			if want := "no uplinkd answers on " + socket + ": is it running? start it: systemctl start uplinkd"; !errors.Is(err, ErrNotRunning) || err.Error() != want {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
}

func TestClientWithoutPermission(t *testing.T) {
	// Root, who runs many tests, may use every socket, so the error is made up.
	denied := &url.Error{Op: "Get", URL: "http://localhost/", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}}
	err := Dial("/run/u.sock").unreachable(denied)
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrNotRunning) || !strings.HasSuffix(err.Error(), "/run/u.sock: use sudo") {
		t.Errorf("got %v", err)
	}
}

// stranger answers on a socket, and is no uplinkd.
func stranger(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(filepath.Dir(staleSocket(t)), "other.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return Dial(socket)
}

func TestClientOfAStranger(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"no JSON":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, "reading the status"},
		"no error text": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, "uplinkd answered 502 Bad Gateway"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "uplinkd answered 302 Found"},
		"a hasty good-bye": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "asking uplinkd on "},
	} {
		if _, err := stranger(t, test.answer).Status(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := stranger(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("data: {\"id\":1\n\n")) })
	if err := c.Events(t.Context(), 0, true, func(status.Event) error { return nil }); !errors.Is(err, errBadEvent) {
		t.Errorf("got %v", err)
	}
}

func TestClientReadsEvents(t *testing.T) {
	s := newServer(newDaemon())
	fill(s.o.Events, 3)
	_, socket, _ := serve(t, s)
	c := Dial(socket)

	var kept []status.Event
	if err := c.Events(t.Context(), 1, false, func(e status.Event) error { kept = append(kept, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2", "3"}, brief(kept)); diff != "" {
		t.Error(diff)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var followed []status.Event
	err := c.Events(ctx, 2, true, func(e status.Event) error {
		if followed = append(followed, e); e.ID < 6 {
			fill(s.o.Events, 1)
		} else {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Errorf("a cancelled follower got %v", err)
	}
	if diff := cmp.Diff([]string{"3", "4", "5", "6"}, brief(followed)); diff != "" {
		t.Error(diff)
	}

	enough := errors.New("enough")
	if err := c.Events(t.Context(), 0, true, func(status.Event) error { return enough }); err != enough {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := c.Events(ctx, 0, true, func(status.Event) error { return nil }); err != nil {
		t.Errorf("a follower that never began got %v", err)
	}
	if err := c.Events(ctx, 0, false, func(status.Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled reader got %v", err)
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("id: 1\nevent: drain\ndata: {\"id\":1,\"time\":\"2026-01-01T00:00:00.000Z\"}\n\n: alive\n\n"))
	f.Add([]byte("data:\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		events := 0
		err := readEvents(bytes.NewReader(data), func(status.Event) error { events++; return nil })
		if err == nil && events != strings.Count("\n"+string(data), "\ndata:") {
			t.Errorf("%d events", events)
		}
	})
}
