package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/notify/service"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// destination is a service of tests.
type destination struct {
	mu      sync.Mutex
	failure error // of each try
	tries   int
	titles  []string
	states  []service.State
	closed  int
}

func (d *destination) Send(_ context.Context, m service.Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	if d.failure == nil {
		d.titles = append(d.titles, m.Title)
	}
	return d.failure
}

func (d *destination) Publish(_ context.Context, s service.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure == nil {
		d.states = append(d.states, s)
	}
	return d.failure
}

func (d *destination) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
}

func (d *destination) fails(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failure = err
}

// bench is an engine with one destination, and a disk.
type bench struct {
	T *testing.T
	*Engine
	to      *destination
	secrets []string
	disk    json.RawMessage
	state   status.Status
	id      uint64
	stop    func()
}

func newBench(t *testing.T, disk json.RawMessage, list ...config.Notify) *bench {
	t.Helper()
	b := &bench{T: t, to: new(destination), disk: disk}
	b.Engine = New(Options{Log: slog.New(slog.DiscardHandler), State: func() *status.Status { b.to.mu.Lock(); defer b.to.mu.Unlock(); s := b.state; return &s },
		Save: func(document string, read func() any) {
			text, err := json.Marshal(read())
			if document != "notify" || err != nil {
				t.Errorf("%s: %v", document, err)
			}
			b.disk = text
		},
		Open: func(_, secret string) (service.Service, error) {
			b.secrets = append(b.secrets, secret)
			return b.to, nil
		}})
	if disk != nil {
		if err := json.Unmarshal(disk, b.Documents()["notify"]); err != nil {
			t.Fatal(err)
		}
	}
	b.Configure(&config.Config{Notify: list})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Engine.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

// now plays an event in the form of story.
func (b *bench) now(words string) {
	e := event(strings.Fields(words))
	b.id++
	e.ID, e.Time = b.id, status.At(time.Now())
	b.Event(e)
}

// sent lists the titles that have arrived.
func (b *bench) sent() []string {
	synctest.Wait()
	b.to.mu.Lock()
	defer b.to.mu.Unlock()
	return slices.Clone(b.to.titles)
}

func TestWhatCannotBeSentWaitsAndIsOvertakenByNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, phone())
		b.to.fails(errors.New("network is unreachable"))
		b.now("fiber ipv4 down no carrier")
		b.now("switch ipv4 fiber lte")
		b.now("lte ipv4 down no carrier")
		b.now("switch ipv4 lte -")
		time.Sleep(time.Hour)
		if got := b.sent(); got != nil || len(b.Problems()) != 1 {
			t.Fatalf("%q, %v", got, b.Problems())
		}
		b.to.mu.Lock()
		if b.to.tries > 20 {
			t.Errorf("%d tries within the hour", b.to.tries)
		}
		b.to.mu.Unlock()
		b.to.fails(nil)
		b.now("fiber ipv4 up")
		b.now("switch ipv4 - fiber")
		time.Sleep(time.Second) // the way is there again, and that is at once
		if diff := cmp.Diff([]string{"lte is down", "fiber is back"}, b.sent()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if problems := b.Problems(); len(problems) != 0 {
			t.Errorf("%+v", problems)
		}
	})
}

func TestARestartLosesAndRepeatsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, phone())
		b.now("fiber ipv4 down no carrier")
		b.now("switch ipv4 fiber lte")
		time.Sleep(time.Minute)
		b.to.fails(errors.New("network is unreachable"))
		b.now("quota lte all of it is used up")
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"fiber is down"}, b.sent()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		b.stop()
		again := newBench(t, b.disk, phone())
		if seen := again.Seen(4); seen != 3 {
			t.Errorf("it goes on after event %d", seen)
		}
		again.id = 1
		again.now("switch ipv4 fiber lte") // the log is told from further back
		again.now("quota lte all of it is used up")
		again.now("fiber ipv4 up")
		again.now("switch ipv4 lte fiber")
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"Data allowance", "fiber is back"}, again.sent()); diff != "" {
			t.Errorf("after the restart (-want +got):\n%s", diff)
		}
	})
}

func TestARefusalIsToldAndTheSecretReadAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		n := phone()
		n.SecretFile = file
		b := newBench(t, nil, n)
		b.to.fails(&service.Refusal{Reason: "it answered 401 Unauthorized"})
		b.now("quota lte all of it is used up")
		for range 10 {
			b.now("lease fiber another address")
			time.Sleep(time.Second)
		}
		problems := b.Problems()
		if len(problems) != 1 || problems[0].Code != "notify-failed" || !strings.Contains(problems[0].Message, "401") {
			t.Fatalf("%+v", problems)
		}
		if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.to.fails(nil)
		time.Sleep(refusedPause)
		if diff := cmp.Diff([]string{"Data allowance"}, b.sent()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"old", "new"}, b.secrets); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// A message that is at fault itself goes, and holds up no other.
		b.to.fails(&service.Refusal{Reason: "it answered 413", Message: true})
		b.now("quota lte there is some again")
		time.Sleep(time.Second)
		b.to.fails(nil)
		b.now("quota lte all of it is used up")
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"Data allowance", "Data allowance"}, b.sent()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestAReloadTakesADestinationAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, phone())
		b.to.fails(errors.New("no route to host"))
		b.now("quota lte all of it is used up")
		time.Sleep(time.Minute)
		changed := phone()
		changed.URL = "ntfy://192.0.2.2/home"
		b.to.fails(nil)
		b.Configure(&config.Config{Notify: []config.Notify{changed}})
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"Data allowance"}, b.sent()); diff != "" {
			t.Errorf("what waited for the former URL (-want +got):\n%s", diff)
		}
		b.Configure(&config.Config{})
		synctest.Wait()
		b.now("quota lte all of it is used up")
		time.Sleep(time.Hour)
		if got := b.sent(); len(got) != 1 || b.to.closed != 2 {
			t.Errorf("%q, closed %d times", got, b.to.closed)
		}
	})
}

func TestTheStateIsShownWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, phone())
		b.to.mu.Lock()
		b.state = status.Status{Headline: "Online by fiber.", Uplinks: status.List[status.Uplink]{{Name: "fiber",
			IPv4: status.FamilyStatus{State: uplink.Up, Share: 1}, IPv6: status.FamilyStatus{State: uplink.Down}}}}
		b.to.mu.Unlock()
		synctest.Wait()
		b.now("fiber ipv4 up")
		time.Sleep(time.Second)
		b.now("fiber ipv4 degraded")
		time.Sleep(time.Second)
		synctest.Wait()
		want := service.State{Headline: "Online by fiber.", Uplinks: []service.UplinkState{{Name: "fiber", Online: true, IPv4: "up", IPv6: "down", Share: 1}}}
		if states := b.to.states; len(states) == 0 || len(states) > 2 || !states[len(states)-1].Equal(want) {
			t.Errorf("%+v", states)
		}
	})
}

func TestNothingIsKeptThatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := phone()
		n.Events = config.EventKinds
		b := newBench(t, nil, n)
		b.to.fails(errors.New("no route to host"))
		for i := range 300 {
			b.now(fmt.Sprintf("fiber%d ipv4 down no carrier", i))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		b.to.fails(nil)
		b.now("fiber ipv4 up")
		time.Sleep(time.Second)
		if got := b.sent(); len(got) != queueLimit || got[len(got)-1] != "fiber99 is down" {
			t.Errorf("%d messages, the last %q", len(got), got[len(got)-1])
		}
	})
}

// What stands in the document may be anything.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"phone":{"digest":{"lines":{"fiber":{"open":{"begin":"2026-11-29T20:00:00Z","families":["ipv4"]},"recent":[null]}},"moves":{"ipv4":null},"singles":{"quota":null}},"queue":[{}]}}`))
	f.Add([]byte(`{"phone":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e := New(Options{Log: slog.New(slog.DiscardHandler), State: func() *status.Status { return new(status.Status) }})
		if json.Unmarshal(text, e.Documents()["notify"]) != nil {
			return
		}
		e.Configure(&config.Config{Notify: []config.Notify{phone()}})
		last := e.Seen(10)
		for i, words := range []string{"fiber ipv4 down x", "switch ipv4 fiber lte", "cause ipv4", "cause-over ipv4", "fiber ipv4 up", "quota lte x"} {
			ev := event(strings.Fields(words))
			ev.ID, ev.Time = last+uint64(i)+1, status.At(start)
			e.Event(ev)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, m := range e.members {
			m.Digest.due(start.Add(time.Hour))
		}
	})
}
