package api

import (
	"crypto/sha256"
	"encoding/base64"
	"math"
	"os"
	"regexp"
	"strconv"
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
	wantError(t, ask(newServer(newDaemon()).handler(false), "GET", "/", "Host: evil.example"), 403, "is not a known name of this router")
}

// contrast is that of WCAG 2, for colours such as "#1d1f1e".
func contrast(a, b string) float64 {
	luminance := func(color string) float64 {
		n, _ := strconv.ParseUint(strings.TrimPrefix(color, "#"), 16, 32)
		linear := func(v uint64) float64 {
			s := float64(v&255) / 255
			if s <= 0.03928 {
				return s / 12.92
			}
			return math.Pow((s+0.055)/1.055, 2.4)
		}
		return 0.2126*linear(n>>16) + 0.7152*linear(n>>8) + 0.0722*linear(n)
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// Every colour of text has a contrast of 4.5 on what it stands on, in light and in dark (WCAG 2 AA).
func TestThePagesTextIsLegible(t *testing.T) {
	page := ask(newServer(newDaemon()).handler(false), "GET", "/").Body.String()
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d sets of colours", len(blocks))
	}
	for i, theme := range []string{"light", "dark"} {
		colors := make(map[string]string)
		for _, m := range regexp.MustCompile(`--([a-z0-9-]+): (#[0-9a-f]{6})`).FindAllStringSubmatch(blocks[i][1], -1) {
			colors[m[1]] = m[2]
		}
		for text, grounds := range map[string][]string{
			"ink": {"bg", "panel"}, "soft": {"bg", "panel", "off-bg"}, "faint": {"bg", "panel"}, "good": {"good-bg", "panel"},
			"warn": {"warn-bg", "panel"}, "bad": {"bad-bg", "panel"}, "calm": {"calm-bg", "panel"}, "off": {"off-bg", "panel"},
		} {
			for _, ground := range grounds {
				if c := contrast(colors[text], colors[ground]); colors[text] == "" || colors[ground] == "" || c < 4.5 {
					t.Errorf("%s: %s (%s) on %s (%s) has %.2f", theme, text, colors[text], ground, colors[ground], c)
				}
			}
		}
	}
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

// A follower of events hears only of the kinds that it names, so the page names all.
func TestThePageHearsOfEveryKindOfEvent(t *testing.T) {
	source, err := os.ReadFile("../status/event.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`EventKind = "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	_, follow, _ := strings.Cut(page, "function follow()")
	list, _, _ := strings.Cut(follow, "addEventListener")
	for _, kind := range kinds {
		if !strings.Contains(list, `"`+kind[1]+`"`) {
			t.Errorf("the page does not hear of %s", kind[1])
		}
	}
	if len(kinds) < 15 {
		t.Errorf("%d kinds were found", len(kinds))
	}
}

func TestThePageOffersToUnlockOnlyWhereThereIsAToken(t *testing.T) {
	s := newServer(newDaemon())
	for _, token := range []string{"", "a token that nobody guesses"} {
		s.o.Token = token
		body := ask(s.handler(false), "GET", "/").Body.String()
		if got := strings.Contains(body, `data-changes="token"`); got != (token != "") {
			t.Errorf("with the token %q: %v", token, got)
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
