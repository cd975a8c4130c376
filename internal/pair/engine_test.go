package pair

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// wire is a network of two routers, in memory.
type wire struct {
	mu    sync.Mutex
	at    map[string]*door
	cut   bool
	conns []net.Conn
}

// door is where a router listens.
type door struct {
	calls chan net.Conn
	once  sync.Once
	shut  chan struct{}
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.calls:
		return c, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}
func (d *door) Close() error   { d.once.Do(func() { close(d.shut) }); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

func (w *wire) listen(name string) func(context.Context, string) (net.Listener, error) {
	return func(context.Context, string) (net.Listener, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		d := &door{calls: make(chan net.Conn), shut: make(chan struct{})}
		w.at[name] = d
		return d, nil
	}
}

func (w *wire) dial(name string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		w.mu.Lock()
		d, cut := w.at[name], w.cut
		w.mu.Unlock()
		if d == nil || cut {
			return nil, errors.New("no route to host")
		}
		here, there := net.Pipe()
		select {
		case d.calls <- there:
		case <-d.shut:
			return nil, errors.New("connection refused")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		w.mu.Lock()
		w.conns = append(w.conns, here, there)
		w.mu.Unlock()
		return here, nil
	}
}

// part cuts the network in two, or joins it.
func (w *wire) part(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.conns = nil
	}
}

// member is a router of a test.
type member struct {
	*Engine
	file     string // what keepalived tracks
	prepared atomic.Pointer[func([]Line) error]
	stop     func()
	mu       sync.Mutex
	events   []string
}

const (
	secretA = "Tf1yPzk6Qb0bY0mTqg3m9c0hX2mY8kq1"
	secretB = "a secret of somebody else, as long"
)

func member0(t *testing.T, w *wire, name, peer, secret string, id int) *member {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &member{file: filepath.Join(t.TempDir(), YieldFile)}
	m.prepares(func([]Line) error { return nil })
	m.Engine = New(Options{YieldFile: m.file, Prepare: func(_ context.Context, lines []Line) error { return (*m.prepared.Load())(lines) },
		Version: "1.0", Listen: w.listen(name), Dial: w.dial(peer), Save: func(_ string, read func() any) { read() }, Settled: func() {},
		OnEvent: func(e status.Event) { m.mu.Lock(); m.events = append(m.events, e.Code); m.mu.Unlock() }})
	c, err := config.Parse("x.toml", fmt.Appendf(nil, `
[pair]
virtual = "192.0.2.1"
device = "lan0"
peer = "192.0.2.3:9276"
key_file = %q
[[uplink]]
name = "fiber"
device = "wan1"
id = %d
primary_only = true
[[uplink]]
name = "own"
device = "wan2"
id = 9
[[lan]]
device = "lan0"
prefixes_from = []
`, file, id))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Configure(c, map[string]int{"fiber": id, "own": 9}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	m.stop = func() { cancel(); <-done }
	return m
}

// prepares says what the router does before it takes over.
func (m *member) prepares(f func([]Line) error) { m.prepared.Store(&f) }

// be makes a router primary, or backup.
func (m *member) be(primary bool) {
	obs := &rules.Observed{}
	if primary {
		obs.Addrs = []rules.Addr{{Device: "lan0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}}
	}
	if m.Observe(obs) {
		m.Acting()
	}
}

func (m *member) lease(s string) { m.Note("leases4", map[string]string{"fiber": s, "own": s}) }

func (m *member) knows() string { return string(m.Records()["leases4"]["fiber"]) }

func (m *member) codes(t *testing.T) string {
	t.Helper()
	var codes []string
	for _, p := range m.Problems(time.Now()) {
		if codes = append(codes, p.Code); p.Fix == "" || p.Message == "" {
			t.Errorf("%+v", p)
		}
	}
	return strings.Join(codes, " ")
}

func world(t *testing.T, run func(t *testing.T, w *wire, a, b *member)) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		a, b := member0(t, w, "a", "b", secretA, 1), member0(t, w, "b", "a", secretA, 1)
		run(t, w, a, b)
		a.stop()
		b.stop()
	})
}

func TestTheBackupKnowsWhatThePrimarySays(t *testing.T) {
	world(t, func(t *testing.T, w *wire, a, b *member) {
		a.be(true)
		b.be(false)
		a.lease("first")
		b.lease("nobody asked")
		time.Sleep(3 * time.Second)
		if got := b.knows(); got != `"first"` {
			t.Errorf("the backup knows %s", got)
		}
		if _, foreign := b.Records()["leases4"]["own"]; foreign {
			t.Error("the lease of a line of its own was replicated")
		}
		s := a.Status(time.Now())
		if backup := b.Status(time.Now()); s.Role != "primary" || backup.Role != "backup" || s.LagMS == nil || *s.LagMS != 0 || *backup.LagMS != 0 || backup.Heard.IsZero() {
			t.Errorf("%+v %+v", s, backup)
		}
		a.lease("second")
		synctest.Wait() // at once, not with the next heartbeat
		if got := b.knows(); got != `"second"` {
			t.Errorf("the backup knows %s", got)
		}
		if got := a.codes(t) + b.codes(t); got != "" {
			t.Error(got)
		}
		a.Note("leases4", map[string]string{})
		synctest.Wait()
		if got := b.knows(); got != "" {
			t.Errorf("a lease that is over: %s", got)
		}
	})
}

func TestWhatConntrackdBringsIsExpectedForAMoment(t *testing.T) {
	world(t, func(t *testing.T, _ *wire, a, _ *member) {
		var settled atomic.Int32
		a.o.Settled = func() { settled.Add(1) }
		if a.be(true); a.Expects() {
			t.Error("a start is no takeover")
		}
		a.be(false)
		a.be(true)
		if !a.Expects() {
			t.Error("it expects nothing")
		}
		time.Sleep(time.Second)
		a.be(false)
		if a.Expects() {
			t.Error("the backup expects something")
		}
		a.be(true)
		if time.Sleep(1900 * time.Millisecond); !a.Expects() {
			t.Error("the second time is cut short")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if a.Expects() || settled.Load() < 3 {
			t.Errorf("%v, told %d times", a.Expects(), settled.Load())
		}
		if time.Sleep(time.Minute); settled.Load() > 10 {
			t.Errorf("told %d times", settled.Load())
		}
	})
}

func TestADeadChannelIsToldAndResumed(t *testing.T) {
	world(t, func(t *testing.T, w *wire, a, b *member) {
		a.be(true)
		b.be(false)
		time.Sleep(2 * time.Second)
		w.part(true)
		a.lease("meanwhile")
		time.Sleep(5 * time.Second)
		if s := a.Status(time.Now()); s.Role != "alone" || *s.LagMS < 4000 {
			t.Errorf("%+v %d", s, *s.LagMS)
		}
		if s := b.Status(time.Now()); s.Role != "backup" || *s.LagMS < 3000 {
			t.Errorf("%+v %d", s, *s.LagMS)
		}
		time.Sleep(10 * time.Second)
		if got := a.codes(t) + b.codes(t); got != "pair-peer-silentpair-peer-silent" {
			t.Error(got)
		}
		w.part(false)
		time.Sleep(3 * time.Second)
		if got := b.knows(); got != `"meanwhile"` || a.codes(t) != "" {
			t.Errorf("%s %s", got, a.codes(t))
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if got := strings.Join(a.events, " "); got != "primary peer-there peer-silent peer-there" {
			t.Error(got)
		}
	})
}

func TestTwoPrimariesTakeNothingFromEachOther(t *testing.T) {
	world(t, func(t *testing.T, w *wire, a, b *member) {
		a.be(true)
		b.be(true)
		a.lease("of a")
		for i := range 5 {
			b.lease(fmt.Sprint("of b ", i))
		}
		time.Sleep(2 * time.Second)
		if got := a.codes(t); got != "" {
			t.Errorf("during a handover: %s", got)
		}
		time.Sleep(4 * time.Second)
		if got := a.codes(t) + " " + b.codes(t); got != "pair-both-primary pair-both-primary" {
			t.Error(got)
		}
		if a.knows() != `"of a"` || b.knows() != `"of b 4"` {
			t.Errorf("%s %s", a.knows(), b.knows())
		}
		b.be(false)
		time.Sleep(3 * time.Second)
		if got := a.codes(t) + b.codes(t); a.knows() != `"of a"` || b.knows() != `"of a"` || got != "" {
			t.Errorf("%s %s %s", a.knows(), b.knows(), got)
		}
		a.be(false)
		time.Sleep(6 * time.Second)
		if got := a.codes(t) + " " + b.codes(t); got != "pair-no-primary pair-no-primary" {
			t.Error(got)
		}
	})
}

func TestWhoStartsAsksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		b := member0(t, w, "b", "a", secretA, 1)
		b.be(true)
		b.lease("new")
		b.be(false)
		synctest.Wait()
		a := member0(t, w, "a", "b", secretA, 1)
		a.stop() // Run does not matter here
		a.be(true)
		if a.Sync(time.Second); a.knows() != `"new"` {
			t.Errorf("%s", a.knows())
		}
		b.stop()
		started := time.Now()
		if a.Sync(time.Second); time.Since(started) > time.Second {
			t.Errorf("it waited %v for nobody", time.Since(started))
		}
	})
}

func TestAStrangerHearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		a, b := member0(t, w, "a", "b", secretA, 1), member0(t, w, "b", "a", secretB, 1)
		a.be(true)
		b.be(false)
		a.lease("secret")
		time.Sleep(15 * time.Second)
		if b.knows() != "" || a.codes(t) != "pair-peer-silent" {
			t.Errorf("%s %s", b.knows(), a.codes(t))
		}
		if p := a.Problems(time.Now()); !strings.Contains(p[0].Message, errStranger.Error()) {
			t.Error(p[0].Message)
		}
		a.stop()
		b.stop()
	})
}

func TestWhatDoesNotFitIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		a, b := member0(t, w, "a", "b", secretA, 1), member0(t, w, "b", "a", secretA, 2)
		a.be(true)
		b.be(false)
		time.Sleep(3 * time.Second)
		if got := a.codes(t); got != "pair-differs" || !strings.Contains(a.Problems(time.Now())[0].Message, "fiber has id 1 here and 2 there") {
			t.Errorf("%+v", a.Problems(time.Now()))
		}
		a.stop()
		b.stop()

		self := member0(t, w, "c", "c", secretA, 1)
		self.be(true)
		time.Sleep(15 * time.Second)
		if p := self.Problems(time.Now()); len(p) != 1 || !strings.Contains(p[0].Message, "this router itself") {
			t.Errorf("%+v", p)
		}
		self.stop()
	})
}

// TestAnotherVersion is spoken to by hand.
func TestAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		a := member0(t, w, "a", "b", secretA, 1)
		a.be(false)
		synctest.Wait()
		secure, err := a.key.tls()
		if err != nil {
			t.Fatal(err)
		}
		l, _ := w.listen("b")(t.Context(), "")
		done := make(chan struct{})
		go func() { // a newer one, which is heard and has nothing that is understood
			defer close(done)
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, secure)
			defer func() { _ = conn.Close() }()
			var h hello
			if err := readFrame(conn, &h); err != nil {
				t.Error(err)
			}
			for range 3 {
				if err := writeFrame(conn, map[string]any{"protocol": protocol + 1, "version": "2.0", "node": "other", "primary": true, "new": 1,
					"records": []Record{{Key: "leases4/fiber", Stamp: Stamp{1, "other"}, Value: json.RawMessage(`"x"`)}}}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
			}
		}()
		time.Sleep(2500 * time.Millisecond)
		if got := a.codes(t); got != "pair-version" || a.knows() != "" {
			t.Errorf("%s %s", got, a.knows())
		}
		_ = l.Close()
		<-done
		// And one that asks is given no record.
		a.be(true)
		a.lease("x")
		raw, err := w.dial("a")(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, secure)
		var m message
		if err := errors.Join(writeFrame(conn, hello{Protocol: protocol + 1, Node: "other"}), readFrame(conn, &m)); err != nil || len(m.Records) != 0 || !m.Primary {
			t.Errorf("%+v, %v", m, err)
		}
		_ = conn.Close()
		a.stop()
	})
}

func TestAKeyThatOthersCanReadIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"open":  {secretA, 0o644, "readable by others"},
		"short": {"secret", 0o600, "can be guessed"},
		"good":  {secretA, 0o600, ""},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		k, err := ReadKey(file)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			i := k.Identity()
			if len(i.DUID) != 18 || i.ULA.Bits() != 48 || i.ULA.Addr().As16()[0] != 0xfd || i.ULA != k.Identity().ULA {
				t.Errorf("%+v", i)
			}
		}
	}
	if _, err := ReadKey(filepath.Join(dir, "none")); err == nil {
		t.Error("no file, no error")
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x40" + `{"protocol":1,"node":"x","have":{"leases4/fiber":{"count":1}}}  `))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		_ = readFrame(strings.NewReader(string(b)), &h)
		var m message
		if readFrame(strings.NewReader(string(b)), &m) == nil {
			l := &ledger{Node: "n", Records: make(map[string]Record)}
			for _, r := range m.Records {
				l.merge(r, false)
			}
			if len(l.Records) > maxRecords {
				t.Errorf("%d records", len(l.Records))
			}
		}
	})
}
