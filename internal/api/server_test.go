package api

import (
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestStatusIsServed(t *testing.T) {
	d := newDaemon()
	w := ask(newServer(d).handler(false), "GET", "/api/v1/status")
	wantCode(t, w, 200)
	var got status.Status
	if err := jsonStrict(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Generation != 7 || len(got.Uplinks) != 2 || got.Uplinks[0].IPv6.Delegated[0].ValidS != 5400 {
		t.Errorf("got %+v", got)
	}
	head := ask(newServer(d).handler(false), "HEAD", "/api/v1/status")
	wantCode(t, head, 200)
}

func TestStatusIsSentAgainOnlyWhenItChanged(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(false)
	tag := ask(h, "GET", "/api/v1/status").Header().Get("ETag")
	if !strings.HasPrefix(tag, `"7-`) || !strings.HasSuffix(tag, `"`) {
		t.Fatalf("the tag is %s", tag)
	}
	for _, header := range []string{tag, "W/" + tag, `"old", ` + tag, "*"} {
		w := ask(h, "GET", "/api/v1/status", "If-None-Match: "+header)
		wantCode(t, w, 304)
		if w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("304 has the body %q and the tag %s", w.Body, w.Header().Get("ETag"))
		}
	}
	wantCode(t, ask(h, "GET", "/api/v1/status", `If-None-Match: "old"`), 200)

	d.set(func(d *daemon) { d.status.Uplinks[0].IPv4.RTTms = 99 }) // the same generation
	wantCode(t, ask(h, "GET", "/api/v1/status", "If-None-Match: "+tag), 200)
}

func TestUplinkIsServed(t *testing.T) {
	h := newServer(newDaemon()).handler(false)
	w := ask(h, "GET", "/api/v1/uplinks/lte")
	wantCode(t, w, 200)
	var got status.Uplink
	if err := jsonStrict(w.Body.Bytes(), &got); err != nil || got.Device != "wwan0" {
		t.Errorf("got %+v, %v", got, err)
	}
	wantError(t, ask(h, "GET", "/api/v1/uplinks/adsl"), 404, `unknown uplink "adsl"`)
}

func TestWhatHasNoJSONIsAFaultOfOurs(t *testing.T) {
	d := newDaemon()
	d.status.Uplinks[0].IPv4.Loss = math.NaN()
	h := newServer(d).handler(false)
	wantError(t, ask(h, "GET", "/api/v1/status"), 500, "encoding the status")
	wantError(t, ask(h, "GET", "/api/v1/uplinks/fiber"), 500, "encoding uplink fiber")
}

func TestDrain(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(true)
	wantCode(t, ask(h, "POST", "/api/v1/uplinks/lte/drain"), 204)
	wantCode(t, ask(h, "POST", "/api/v1/uplinks/fiber/undrain"), 204)
	if diff := cmp.Diff(map[string]status.Drain{"lte": status.Drained, "fiber": status.Undrained}, d.drained); diff != "" {
		t.Error(diff)
	}
	for _, query := range []string{"now=1", "now=true&now=true", "then=true", "now"} {
		wantError(t, ask(h, "POST", "/api/v1/uplinks/lte/drain?"+query), 400, "now=true")
	}
	if d.drained["lte"] != status.Drained {
		t.Error("a query that is not understood was obeyed")
	}
	wantCode(t, ask(h, "POST", "/api/v1/uplinks/lte/drain?now=true"), 204)
	if d.drained["lte"] != status.DrainedNow {
		t.Error("what runs does not end")
	}
	wantError(t, ask(h, "POST", "/api/v1/uplinks/adsl/drain"), 404, `unknown uplink "adsl"`)
	wantError(t, ask(h, "POST", "/api/v1/uplinks/broken/drain"), 500, "read-only")
}

func TestReload(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(true)
	wantCode(t, ask(h, "POST", "/api/v1/reload"), 204)
	d.reloadErr = errors.New("/etc/uplinkd.toml:3:1: unknown key \"teir\"\n  did you mean tier?")
	wantError(t, ask(h, "POST", "/api/v1/reload"), 422, "did you mean tier?")
	if d.reloads != 2 {
		t.Errorf("reloaded %d times", d.reloads)
	}
}

func TestHealth(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(false)
	w := ask(h, "GET", "/healthz")
	wantCode(t, w, 200)
	if w.Body.String() != "ok\n" {
		t.Errorf("got %q", w.Body)
	}
	d.health = errors.New("the kernel refuses our routes")
	wantError(t, ask(h, "GET", "/healthz"), 503, "refuses our routes")
}

func TestUnknownPaths(t *testing.T) {
	h := newServer(newDaemon()).handler(true)
	for _, path := range []string{
		"/index.html", "/api", "/api/v1/", "/api/v2/status", "/api/v1/explained", "/api/v1/uplinks/",
		"/api/v1/uplinks/fiber/drain/x", "/api/v1/status/", "/metrics", "/debug/pprof/",
	} {
		wantError(t, ask(h, "GET", path), 404, "no such page")
		wantError(t, ask(h, "POST", path), 404, "no such page")
	}
}

func TestWrongMethods(t *testing.T) {
	h := newServer(newDaemon()).handler(true)
	for _, test := range []struct{ method, path, allow string }{
		{"POST", "/api/v1/status", "GET, HEAD"},
		{"DELETE", "/api/v1/uplinks/fiber", "GET, HEAD"},
		{"PUT", "/healthz", "GET, HEAD"},
		{"HEAD", "/api/v1/events", "GET"},
		{"GET", "/api/v1/uplinks/fiber/drain", "POST"},
		{"GET", "/api/v1/uplinks/fiber/undrain", "POST"},
		{"OPTIONS", "/api/v1/reload", "POST"},
	} {
		w := ask(h, test.method, test.path)
		wantError(t, w, http.StatusMethodNotAllowed, test.method)
		if got := w.Header().Get("Allow"); got != test.allow {
			t.Errorf("%s %s allows %q, want %q", test.method, test.path, got, test.allow)
		}
	}
}

func TestAReloadThatIsNotUnderstoodIsNone(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(true)
	for _, query := range []string{"confirm=", "confirm=60", "confirm=0s", "confirm=-1s", "confirm=abc", "confirm=1s&confirm=2s", "comfirm=60s"} {
		wantCode(t, ask(h, "POST", "/api/v1/reload?"+query), 400)
	}
	if d.reloads != 0 {
		t.Fatal("it has reloaded, and nothing waits")
	}
	wantCode(t, ask(h, "POST", "/api/v1/confirm"), 409)
	wantCode(t, ask(h, "POST", "/api/v1/reload?confirm=90s"), 204)
	if d.wait != 90*time.Second {
		t.Errorf("waits %v", d.wait)
	}
	wantCode(t, ask(h, "POST", "/api/v1/confirm"), 204)
	wantCode(t, ask(h, "GET", "/api/v1/confirm"), 405)
}
