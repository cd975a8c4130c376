package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

// pipes is a listener whose connections are in memory, for synctest.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// inMemory runs the server inside a bubble. The returned function ends it.
func inMemory(t *testing.T, s *Server) (p *pipes, stop func()) {
	p = newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, &Listeners{unix: p}) }()
	return p, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// follow opens a stream of events and reads its first line.
func follow(t *testing.T, conn net.Conn, query string) *bufio.Reader {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /api/v1/events"+query+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	r := bufio.NewReader(resp.Body)
	if got := paragraph(t, r); got != "retry: 2000\n" {
		t.Fatalf("the stream begins with %q", got)
	}
	return r
}

// paragraph reads up to the next empty line.
func paragraph(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", b.String(), err)
		}
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

func TestEventsOnTheWire(t *testing.T) {
	s := newServer(newDaemon())
	s.o.Events.Append(status.Event{
		Time: status.At(noon), Kind: status.EventVerdict, Uplink: "fiber", Family: "ipv4", From: "up", To: "suspect",
		Code: "silence", Reason: "4 of 4 probes\nunanswered", Evidence: []string{"192.0.2.1: 4 sent"},
	})
	w := ask(s.handler(false), "GET", "/api/v1/events?follow=0")
	want := `id: 1
event: verdict
data: {"id":1,"time":"2026-11-20T12:00:00.000Z","kind":"verdict","uplink":"fiber","family":"ipv4","from":"up","to":"suspect","code":"silence","reason":"4 of 4 probes\nunanswered","evidence":["192.0.2.1: 4 sent"],"message":""}

`
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEventsThatAreKept(t *testing.T) {
	s := newServer(newDaemon())
	fill(s.o.Events, 12) // the log keeps 5..12
	h := s.handler(false)
	for _, test := range []struct {
		name, query, last string
		want              []string
	}{
		{"all", "", "", []string{"5", "6", "7", "8", "9", "10", "11", "12"}},
		{"after an id", "&after=10", "", []string{"11", "12"}},
		{"with a gap", "&after=2", "", []string{"-2", "5", "6", "7", "8", "9", "10", "11", "12"}},
		{"as a browser that comes back", "&after=2", "11", []string{"12"}},
		{"as a browser with an id of something else", "&after=11", "abc", []string{"12"}},
		{"nothing new", "&after=12", "", []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := ask(h, "GET", "/api/v1/events?follow=0"+test.query, "Last-Event-ID: "+test.last)
			wantCode(t, w, 200)
			var got []status.Event
			if err := readEvents(w.Body, func(e status.Event) error { got = append(got, e); return nil }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, brief(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	wantError(t, ask(h, "GET", "/api/v1/events?follow=0&after=x"), 400, `after="x"`)
	wantError(t, ask(h, "GET", "/api/v1/events?follow=0&after=-1"), 400, `after="-1"`)
	wantError(t, ask(h, "GET", "/api/v1/events?follow=maybe"), 400, `follow="maybe"`)
}

func TestFollowerGetsEventsAndHeartbeatsForHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newDaemon())
		fill(s.o.Events, 1)
		p, stop := inMemory(t, s)
		conn := p.dial()
		r := follow(t, conn, "")
		if got := paragraph(t, r); !strings.HasPrefix(got, "id: 1\nevent: repair\n") {
			t.Errorf("got %q", got)
		}
		began := time.Now()
		for range 4 * 60 * 2 { // two hours, far beyond every timeout
			if got := paragraph(t, r); got != ": alive\n" {
				t.Fatalf("got %q after %v", got, time.Since(began))
			}
		}
		if got := time.Since(began); got != 2*time.Hour {
			t.Errorf("the heartbeats took %v", got)
		}
		fill(s.o.Events, 1)
		if got := paragraph(t, r); !strings.HasPrefix(got, "id: 2\n") {
			t.Errorf("got %q", got)
		}
		stop() // ends the stream too
		if _, err := r.ReadByte(); err == nil {
			t.Error("the stream goes on after the server's end")
		}
		_ = conn.Close()
	})
}

func TestFollowerThatDoesNotReadIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newDaemon())
		p, stop := inMemory(t, s)
		conn := p.dial()
		r := follow(t, conn, "")
		began := time.Now()
		for range 100 {
			fill(s.o.Events, 1) // returns although nobody reads: a pipe holds nothing
		}
		synctest.Wait()
		if time.Since(began) != 0 {
			t.Errorf("the writer waited %v", time.Since(began))
		}
		time.Sleep(s.limits.streamTimeout + time.Second)
		synctest.Wait()
		if _, err := io.ReadAll(r); err == nil {
			t.Error("the stream ended as if it were complete")
		}
		_ = conn.Close()
		stop()
	})
}

func TestFollowerThatComesBackSlowlyIsToldOfTheGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newDaemon())
		p, stop := inMemory(t, s)
		conn := p.dial()
		r := follow(t, conn, "")
		fill(s.o.Events, 1)
		synctest.Wait()      // event 1 is on its way
		fill(s.o.Events, 20) // 14..21 are kept
		if got := paragraph(t, r); !strings.HasPrefix(got, "id: 1\n") {
			t.Errorf("got %q", got)
		}
		got := paragraph(t, r)
		if !strings.HasPrefix(got, "id: 13\nevent: gap\n") || !strings.Contains(got, `"lost":12`) {
			t.Errorf("got %q", got)
		}
		if got := paragraph(t, r); !strings.HasPrefix(got, "id: 14\n") {
			t.Errorf("got %q", got)
		}
		_ = conn.Close()
		stop()
	})
}

func TestFollowersAreBoundedAndTheirPlacesFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newDaemon())
		p, stop := inMemory(t, s)
		var conns []net.Conn
		for range s.limits.streams {
			conn := p.dial()
			follow(t, conn, "")
			conns = append(conns, conn)
		}
		refused := p.dial()
		if _, err := io.WriteString(refused, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(refused), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("one too many is answered %s", resp.Status)
		}
		_ = refused.Close()
		_ = conns[0].Close()
		synctest.Wait()
		again := p.dial()
		follow(t, again, "")
		for _, conn := range append(conns, again) {
			_ = conn.Close()
		}
		stop()
	})
}

func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(newDaemon())
		p, stop := inMemory(t, s)
		began := time.Now()
		silent, slow := p.dial(), p.dial()
		if _, err := io.WriteString(slow, "GET /api/v1/status HTTP/1.1\r\nHost: loc"); err != nil {
			t.Fatal(err)
		}
		for _, conn := range []net.Conn{silent, slow} {
			if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
			_ = conn.Close()
		}
		if got := time.Since(began); got != s.limits.headerTimeout {
			t.Errorf("it took %v to end them", got)
		}
		stop()
	})
}
