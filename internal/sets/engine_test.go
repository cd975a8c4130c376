package sets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// world is an engine with a state directory and one set, which a kill switch names.
type world struct {
	testing.TB
	*Engine
	dir     string
	config  *config.Config
	changes atomic.Int32
	mu      sync.Mutex
	events  []string
}

func newWorld(t testing.TB, s config.Set, o Options) *world {
	w := &world{TB: t, dir: t.TempDir()}
	s.Name = "cn"
	w.config = &config.Config{Daemon: config.Daemon{StateDir: w.dir}, Sets: []config.Set{s},
		Policies: []config.Policy{{Name: "abroad", Fallback: config.FallbackUnreachable, Match: config.Match{To: config.Addresses{Lists: []string{"cn"}}}}}}
	o.Phase = time.Now()
	o.Changed = func() { w.changes.Add(1) }
	o.OnEvent = func(e status.Event) { w.mu.Lock(); w.events = append(w.events, e.Message); w.mu.Unlock() }
	w.Engine = New(o)
	return w
}

// run runs the engine until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	w.Cleanup(func() { cancel(); <-done })
}

// holds lists what planning gets of the addresses.
func (w *world) holds(addrs ...string) string {
	a := rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "cn"}}}
	w.AddTo(&rules.Config{Policies: []rules.Policy{{Select: rules.Selector{a}}}})
	var in []string
	for _, addr := range addrs {
		if a.Lists[0].Contains(netip.MustParseAddr(addr)) {
			in = append(in, addr)
		}
	}
	return strings.Join(in, " ")
}

func (w *world) problems() string {
	var list []string
	for _, p := range w.Problems(time.Now()) {
		list = append(list, p.Severity+" "+p.Code+": "+p.Message)
	}
	return strings.Join(list, "\n")
}

func (w *world) await(what string, is func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s: never; problems %s", what, w.problems())
		}
	}
}

func (w *world) write(path, text string) {
	w.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

func TestAFileIsReadWhenItChangesAndOnlyWhenItIsAList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cn.txt")
	w := newWorld(t, config.Set{File: file}, Options{})
	w.Configure(w.config)
	if got := w.problems(); !strings.HasPrefix(got, "error set-empty: set cn is empty ("+file+": no such file") || !strings.HasSuffix(got, "kill switches keep nothing in") {
		t.Errorf("a missing file: %s", got)
	}
	w.write(file, "192.0.2.1\n2001:db8::/32\n")
	w.run()
	w.await("the file to be read", func() bool { return w.holds("192.0.2.1", "2001:db8::9") == "192.0.2.1 2001:db8::9" })
	w.write(file+".new", "192.0.2.2\n")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.await("the new file to be read", func() bool { return w.holds("192.0.2.1", "192.0.2.2", "2001:db8::9") == "192.0.2.2" })
	if took := time.Since(began); took > quiet {
		t.Errorf("a file that was renamed to its name is complete, and was read after %v", took)
	}
	// One that is being written is not read before its writer is through, however long he pauses.
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "192.0.2.1\n192.")
	time.Sleep(1500 * time.Millisecond)
	if got := w.holds("192.0.2.2"); got == "" {
		t.Error("a file was read while it was written")
	}
	fmt.Fprint(f, "0.2.2\n192.0.2.3\n")
	f.Close()
	w.await("the whole file to be read", func() bool { return w.holds("192.0.2.1", "192.0.2.2", "192.0.2.3") == "192.0.2.1 192.0.2.2 192.0.2.3" })
	for text, want := range map[string]string{
		"<html>": file + `:1: "<html>" is no address, no prefix and no range`, "": file + ": there is no address in it",
	} {
		w.write(file, text)
		w.await("the mistake to be told", func() bool { return strings.Contains(w.problems(), want) })
		if got := w.problems(); !strings.HasPrefix(got, "warning set-unread: set cn is left as it was ") {
			t.Error(got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.await("its absence to be told", func() bool { return strings.Contains(w.problems(), "no such file") })
	if got := w.holds("192.0.2.3"); got == "" {
		t.Error("what is no list has changed the set")
	}
	// A start has what there was, from the cache, with the same problem.
	next := New(Options{})
	next.Configure(w.config)
	w.Engine = next
	if got := w.holds("192.0.2.3"); got == "" || !next.Status()[0].Cached || !strings.Contains(w.problems(), "no such file") {
		t.Errorf("after a restart: %q, %+v, %s", got, next.Status(), w.problems())
	}
	w.config.Sets[0].File = file + ".other"
	next = New(Options{})
	next.Configure(w.config)
	w.Engine = next
	if got := w.holds("192.0.2.3"); got != "" {
		t.Error("what came from another file is used")
	}
}

func TestAReloadKeepsWhatIsKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cn.txt")
	w := newWorld(t, config.Set{File: file}, Options{})
	w.write(file, "192.0.2.1\n")
	w.Configure(w.config)
	content := w.sets[0].content
	again := *w.config
	again.Sets = append([]config.Set{{Name: "more", File: file}}, again.Sets...)
	w.Configure(&again)
	if w.sets[1].content != content || w.sets[0].content.Len() != 1 {
		t.Error("a reload has read again what had not changed, or not what is new")
	}
}

// answers is a server whose answer may be set.
type answers struct {
	sync.Mutex
	status      int
	kind, text  string
	etag        string
	asked       int
	conditional int
}

func (a *answers) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	a.Lock()
	defer a.Unlock()
	a.asked++
	if a.etag != "" {
		rw.Header().Set("ETag", a.etag)
		if r.Header.Get("If-None-Match") == a.etag {
			a.conditional++
			rw.WriteHeader(http.StatusNotModified)
			return
		}
	}
	rw.Header().Set("Content-Type", a.kind)
	rw.WriteHeader(a.status)
	fmt.Fprint(rw, a.text)
}

func TestAURLGivesAListOrChangesNothing(t *testing.T) {
	a := &answers{status: 200, kind: "text/plain; charset=utf-8", text: "192.0.2.1\n", etag: `"1"`}
	server := httptest.NewTLSServer(a)
	defer server.Close()
	w := newWorld(t, config.Set{URL: server.URL + "/cn.txt", Refresh: time.Hour}, Options{Client: server.Client()})
	w.Configure(w.config)
	if got := w.problems(); !strings.Contains(got, "set-empty") || !strings.Contains(got, "it has not been fetched yet") {
		t.Error(got)
	}
	s := w.sets[0]
	ask := func() { w.refresh(context.Background(), s) }
	ask()
	if got := w.holds("192.0.2.1"); got == "" || w.problems() != "" {
		t.Fatalf("%q, %s", got, w.problems())
	}
	first := s.loaded
	ask()
	if a.conditional != 1 || !s.loaded.After(first) || w.changes.Load() != 1 {
		t.Errorf("%d were asked for with a tag; loaded %v after %v; %d changes", a.conditional, s.loaded, first, w.changes.Load())
	}
	for _, c := range []struct {
		status           int
		kind, text, want string
	}{
		{200, "text/html; charset=utf-8", "<html>log in</html>", "a web page comes in the place of the list"},
		{200, "text/plain", "<html>log in</html>", `line 1: "<html>log in</html>" is no address`},
		{200, "text/plain", "", "there is no address in it"},
		{404, "text/plain", "192.0.2.9", "the server answers 404 Not Found"},
		{500, "text/plain", "192.0.2.9", "the server answers 500"},
		{200, "application/octet-stream", "192.0.2.1\n" + strings.Repeat("# "+strings.Repeat("y", 1000)+"\n", maxBytes/1000), "it has more than"},
	} {
		a.Lock()
		a.status, a.kind, a.text, a.etag = c.status, c.kind, c.text, ""
		a.Unlock()
		before := s.fetch.failed
		ask()
		if got := w.problems(); !strings.Contains(got, c.want) || !strings.Contains(got, server.URL) || s.fetch.failed != before+1 || w.holds("192.0.2.1") == "" || w.holds("192.0.2.9") != "" {
			t.Errorf("%+.60v: %s", c, got)
		}
	}
	if w.fetchDue(s, time.Now()) || !w.fetchDue(s, time.Now().Add(retryMax)) {
		t.Error("after failures it is not asked again with a pause")
	}
	// What was fetched is there after a restart, and asked for when it is due.
	next := New(Options{Client: server.Client()})
	next.Configure(w.config)
	w.Engine = next
	if got := w.holds("192.0.2.1"); got == "" || next.fetchDue(next.sets[0], time.Now()) || !next.fetchDue(next.sets[0], time.Now().Add(2*time.Hour)) {
		t.Errorf("after a restart: %q", got)
	}
}

// dribbling answers a request with one byte a second, without end.
type dribbling struct{}

func (dribbling) RoundTrip(r *http.Request) (*http.Response, error) {
	read, write := io.Pipe()
	go func() {
		for {
			select {
			case <-r.Context().Done():
				_ = write.CloseWithError(r.Context().Err())
				return
			case <-time.After(time.Second):
				_, _ = write.Write([]byte("#"))
			}
		}
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: read, ContentLength: -1, Request: r}, nil
}

func TestAListThatComesForeverEndsAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Set{URL: "https://192.0.2.1/cn.txt", Refresh: time.Hour}, Options{Client: &http.Client{Transport: dribbling{}, Timeout: fetchTimeout}})
		w.Configure(w.config)
		began := time.Now()
		w.refresh(t.Context(), w.sets[0])
		if took := time.Since(began); took != fetchTimeout {
			t.Errorf("it took %v", took)
		}
		if got := w.problems(); !strings.Contains(got, "error set-empty") || !strings.Contains(got, "deadline exceeded") {
			t.Error(got)
		}
		synctest.Wait()
	})
}

// Who can alter what comes by http decides where traffic goes.
func TestAURLThatLeadsToAnUnprotectedOneIsNotFollowed(t *testing.T) {
	plain := httptest.NewServer(&answers{status: 200, kind: "text/plain", text: "192.0.2.1\n"})
	defer plain.Close()
	server := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer server.Close()
	if _, _, err := fetch(context.Background(), server.Client(), server.URL, "", ""); err == nil || !strings.Contains(err.Error(), "could be altered on the way") {
		t.Error(err)
	}
}

func TestNamesAreLookedUpByTheirTTLAndStayForTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		answer := map[netip.Addr]time.Duration{netip.MustParseAddr("192.0.2.1"): 5 * time.Minute, netip.MustParseAddr("2001:db8::1"): 2 * time.Hour}
		var fails error
		asked := 0
		w := newWorld(t, config.Set{Domains: []string{"*.example.org", "example.net"}, Dnsmasq: true}, Options{
			Lookup: func(_ context.Context, name string) (map[netip.Addr]time.Duration, error) {
				mu.Lock()
				defer mu.Unlock()
				if asked++; name != "example.net" {
					t.Errorf("%s was looked up", name)
				}
				return answer, fails
			}})
		set := func(a map[netip.Addr]time.Duration, err error) { mu.Lock(); answer, fails = a, err; mu.Unlock() }
		w.Configure(w.config)
		list := w.Engine.sets
		look := func() {
			if w.namesDue(list[0], time.Now()) {
				w.lookUp(context.Background(), list[0])
			}
		}
		look()
		if got := w.holds("192.0.2.1", "2001:db8::1"); got != "192.0.2.1 2001:db8::1" {
			t.Errorf("at first: %s", got)
		}
		look()
		time.Sleep(5 * time.Minute)
		set(map[netip.Addr]time.Duration{netip.MustParseAddr("192.0.2.2"): 0}, nil)
		look()
		if got := w.holds("192.0.2.1", "192.0.2.2", "2001:db8::1"); got != "192.0.2.1 192.0.2.2 2001:db8::1" || asked != 2 {
			t.Errorf("after the TTL, and %d questions: %s", asked, got)
		}
		time.Sleep(30 * time.Second)
		set(nil, errors.New("nobody answers"))
		for range 100 { // for much longer than the floor
			look()
			time.Sleep(2 * time.Minute)
		}
		if got := w.holds("192.0.2.1", "192.0.2.2", "2001:db8::1"); got != "192.0.2.1 192.0.2.2 2001:db8::1" || !strings.Contains(w.problems(), "example.net: nobody answers") {
			t.Errorf("while nobody answers: %s, %s", got, w.problems())
		}
		set(map[netip.Addr]time.Duration{netip.MustParseAddr("192.0.2.3"): time.Minute}, nil)
		look()
		if got := w.holds("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"); got != "192.0.2.3" || w.problems() != "" {
			t.Errorf("after the floor: %s, %s", got, w.problems())
		}
		next := New(Options{})
		next.Configure(w.config)
		w.Engine = next
		if got := w.holds("192.0.2.3"); got == "" {
			t.Error("a restart forgets what names stand for")
		}
	})
}
