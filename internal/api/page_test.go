package api

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/status"
)

func TestTheDashboardIsOneSmallFileThatFetchesNothingElsewhere(t *testing.T) {
	w := ask(newServer(newDaemon()).handler(false), "GET", "/")
	wantCode(t, w, 200)
	body := w.Body.String()
	if len(body) > 100_000 {
		t.Errorf("it has %d bytes", len(body))
	}
	for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "@import", "src=", "style=\"", " onclick", "https://"} {
		if strings.Contains(body, forbidden) {
			t.Errorf("it contains %q", forbidden)
		}
	}
	for _, link := range regexp.MustCompile(`https?://[^"' ]+`).FindAllString(body, -1) {
		if link != "http://www.w3.org/2000/svg" {
			t.Errorf("it mentions %s", link)
		}
	}
	if got := w.Header().Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	tag := w.Header().Get("ETag")
	wantCode(t, ask(newServer(newDaemon()).handler(true), "GET", "/", "If-None-Match: "+tag), 304)
	wantError(t, ask(newServer(newDaemon()).handler(false), "GET", "/", "Host: evil.example"), 403, "is not known to be this machine")
}

func TestThePagesPolicyAllowsItsOwnScriptAlone(t *testing.T) {
	w := ask(newServer(newDaemon()).handler(false), "GET", "/")
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("the policy is %q", policy)
	}
	for element, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		found := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllStringSubmatch(w.Body.String(), -1)
		if len(found) != 1 {
			t.Fatalf("there are %d elements %s", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
}

func TestHistoryIsServed(t *testing.T) {
	h := newServer(newDaemon()).handler(false)
	w := ask(h, "GET", "/api/v1/history?range=5m")
	wantCode(t, w, 200)
	want := `{"range":"5m","step_s":1,"first":1795176000,"samples":3,"uplinks":[{"name":"fiber","received":[0,1234568,null],"sent":[0.123,5,null],` +
		`"ipv4":{"rtt_ms":[11.235,null,12],"loss":[0,0.5,0.25],"states":[{"state":"up","steps":2},{"state":"suspect","steps":1}]},` +
		`"ipv6":{"rtt_ms":[null,null,null],"loss":[null,null,null],"states":[{"state":"","steps":3}]}}]}` + "\n"
	if got := w.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var back status.History
	if err := jsonStrict(w.Body.Bytes(), &back); err != nil || back.Uplinks[0].Received[1] != 1234568 || back.Uplinks[0].Received[2] == back.Uplinks[0].Received[2] {
		t.Errorf("read back: %+v, %v", back, err)
	}
	wantError(t, ask(h, "GET", "/api/v1/history?range=1y"), 400, `range="1y" is neither 5m, 1h nor 24h`)
	wantError(t, ask(h, "GET", "/api/v1/history?after=yesterday"), 400, `after="yesterday" is no time`)
	wantError(t, ask(h, "GET", "/api/v1/history?after=-1"), 400, "is no time")
	wantCode(t, ask(h, "GET", "/api/v1/history?after=1795176000"), 200)
}

func TestUsageReadsWell(t *testing.T) {
	var b strings.Builder
	for _, u := range []status.Usage{newDaemon().Usage(), {}} {
		if err := WriteUsage(&b, u); err != nil {
			t.Fatal(err)
		}
	}
	want := "lte, quota 20.00 GB a month, used up\n  2026-11       20.50 GB\n  2026-11-20      1.5 MB\n  2026-11-19        12 B\n\ndsl\n" +
		"no uplink is metered or has a quota\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
