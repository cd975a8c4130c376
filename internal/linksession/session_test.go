package linksession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken")

// device is a device in memory, and what a client on it notes.
type device struct {
	*Session[string, *socket]

	mu       sync.Mutex
	log      strings.Builder
	missing  error // of Open
	attempts int   // to open
	noted    []string
	current  *socket
}

type socket struct {
	in     chan string
	broken chan error
	closed chan struct{}
}

func (s *socket) Receive() (string, error) {
	select {
	case m := <-s.in:
		return m, nil
	case err := <-s.broken:
		return "", err
	case <-s.closed:
		return "", net.ErrClosed
	}
}

func (s *socket) Close() error { close(s.closed); return nil }

func (d *device) open(string) (*socket, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attempts++
	if d.missing != nil {
		return nil, d.missing
	}
	d.current = &socket{make(chan string), make(chan error), make(chan struct{})}
	return d.current, nil
}

// start runs a client on a device until the test ends.
func start(t *testing.T) *device {
	d := &device{}
	d.Session = New[string](Config[*socket]{Device: "wan", Protocol: "test", Log: slog.New(slog.NewTextHandler(d, nil)), Open: d.open, MaxWait: 4 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer d.Session.Close()
		for e := (Event[string]{}); !e.Ended; e = d.Next(ctx, time.Time{}) {
			opened, closed := d.Follow(time.Now())
			d.mu.Lock()
			for word, is := range map[string]bool{"opened": opened, "closed": closed, e.Message: e.Received} {
				if is {
					d.noted = append(d.noted, word)
				}
			}
			slices.Sort(d.noted)
			d.mu.Unlock()
			if e.Message == "send" {
				d.Sent(errBroken)
				d.Sent(errBroken)
				d.Sent(nil)
			}
			if e.Message == "gone" {
				d.Sent(fmt.Errorf("sending: %w", syscall.ENODEV))
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return d
}

// Write takes lines of the log.
func (d *device) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

// logged counts a text in the log.
func (d *device) logged(text string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Count(d.log.String(), text)
}

// looks counts the attempts to open, once some time is over.
func (d *device) looks(after time.Duration) int {
	time.Sleep(after)
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attempts
}

// set changes how the device behaves.
func (d *device) set(missing error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.missing = missing
}

// want compares what was noted since the last call, sorted.
func (d *device) want(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.noted, want) {
		t.Errorf("%s: %q, want %q", when, d.noted, want)
	}
	d.noted = nil
}

func TestASocketIsOpenWhileTheLinkIsUpAndAnewWhenItIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.want(t, "before there is a link")
		d.SetLink(2, true)
		d.want(t, "the link is up", "opened")
		d.SetLink(2, true)
		d.want(t, "it still is")
		d.current.in <- "hello"
		d.want(t, "a message", "hello")
		d.SetLink(7, true)
		d.want(t, "the device was made anew", "closed", "opened")
		d.SetHardware([6]byte{2, 0, 0, 0, 0, 1})
		d.want(t, "it has another address", "closed", "opened")
		d.SetLink(7, false)
		d.SetLink(7, true)
		d.want(t, "a loss that nobody has seen", "closed", "opened")
		d.Restart()
		d.want(t, "the client wants it", "closed", "opened")
		d.SetLink(7, false)
		d.want(t, "the link is down", "closed")
		if d.logged("\n") > 0 {
			t.Errorf("logged:\n%s", d.log.String())
		}
	})
}

func TestAFailedSocketIsOpenedAgainAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.SetLink(2, true)
		d.want(t, "at first", "opened")
		for name, fail := range map[string]func(){
			"reading fails":        func() { d.current.broken <- errBroken },
			"the device went away": func() { d.current.in <- "gone" },
		} {
			before := d.looks(0)
			fail()
			if d.looks(reopenPause-time.Millisecond) != before || d.looks(time.Millisecond) != before+1 {
				t.Errorf("%s: not opened after the pause", name)
			}
		}
		d.want(t, "both", "closed", "closed", "gone", "opened", "opened")
		d.current.in <- "send"
		d.want(t, "an error that passes", "send")
		if n := d.logged("message not sent"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}
	})
}

func TestADeviceThatIsNotReadyIsLookedAtMoreAndMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.set(ErrNotReady)
		d.SetLink(2, true)
		if n := d.looks(readyGrace - time.Millisecond); n < 10 || d.logged("\n") > 0 {
			t.Errorf("%d looks while addresses are checked, %d lines", n, d.logged("\n"))
		}
		if n := d.looks(time.Hour); n > 3600/4+50 || d.logged("cannot be opened") != 1 {
			t.Errorf("%d looks in an hour, logged %d times", n, d.logged("cannot be opened"))
		}
		d.set(errBroken)
		before := d.looks(time.Minute)
		if n := d.logged("err=broken"); n != 1 {
			t.Errorf("another error is logged %d times", n)
		}
		d.SetLink(3, true)
		if d.looks(0) == before {
			t.Error("another device has to wait")
		}
		d.set(nil)
		d.looks(reopenPause)
		d.want(t, "it is ready", "opened")
	})
}
