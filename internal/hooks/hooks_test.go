package hooks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func program(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func hookDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func events(list ...Event) iter.Seq[Event] { return slices.Values(list) }

func down() Event {
	return Event{ID: "7", Vars: map[string]string{"KIND": "verdict", "UPLINK": "fiber", "REASON": "no answer; $(touch /owned) \x00'\"\n"}, JSON: []byte(`{"kind":"verdict"}`)}
}

func TestProgramsRunInOrderAndGetTheEvent(t *testing.T) {
	dir := hookDir(t)
	out := filepath.Join(t.TempDir(), "out")
	program(t, dir, "20-second", "#!/bin/sh\necho second >> "+out+"\n", 0o755)
	program(t, dir, "10-first", "#!/bin/sh\n{ env | grep -c .; printf '%s %s [%s]\\n' \"$UPLINKD_KIND\" \"$UPLINKD_UPLINK\" \"$UPLINKD_REASON\"; cat; echo; } >> "+out+"\nexit 3\n", 0o755)
	program(t, dir, "not-executable", "#!/bin/sh\necho no >> "+out+"\n", 0o644)
	program(t, dir, ".hidden", "#!/bin/sh\necho no >> "+out+"\n", 0o755)
	program(t, dir, "old~", "#!/bin/sh\necho no >> "+out+"\n", 0o755)
	t.Setenv("SECRET_OF_OURS", "x")
	var log bytes.Buffer
	p := Programs{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := p.Run(t.Context(), events(down())); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	// The reason's newline makes two lines of it; PWD, SHLVL and _ are the shell's own.
	if strings.Contains(string(got), "SECRET") {
		t.Errorf("our environment leaked: %s", got)
	}
	_, rest, _ := strings.Cut(string(got), "\n")
	if diff := cmp.Diff("verdict fiber [no answer; $(touch /owned) '\"\n]\n{\"kind\":\"verdict\"}\nsecond\n", rest); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(log.String(), "10-first") || !strings.Contains(log.String(), "exit status 3") {
		t.Errorf("the failure is not logged: %s", log.String())
	}
}

func TestAProgramThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	dir := hookDir(t)
	marker := filepath.Join(t.TempDir(), "next")
	program(t, dir, "1-slow", "#!/bin/sh\nsleep 1000 &\nwait\n", 0o755)
	program(t, dir, "2-next", "#!/bin/sh\ntouch "+marker+"\n", 0o755)
	var log bytes.Buffer
	p := Programs{Dir: dir, Timeout: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := p.Run(t.Context(), events(down())); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("the next program did not run: %v", err)
	}
	if !strings.Contains(log.String(), "took longer than 200ms and was killed") {
		t.Errorf("the log says %s", log.String())
	}
}

func TestOnlyWhatRootAloneMayWriteToIsRun(t *testing.T) {
	dir := hookDir(t)
	program(t, dir, "fine", "#!/bin/sh\n", 0o755)
	program(t, dir, "open", "#!/bin/sh\n", 0o757)
	program(t, dir, "foreign", "#!/bin/sh\n", 0o755)
	if err := os.Chown(filepath.Join(dir, "foreign"), 12345, -1); err != nil {
		t.Fatal(err)
	}
	programs, refused := Executables(dir)
	if len(programs) != 1 || filepath.Base(programs[0]) != "fine" || len(refused) != 2 {
		t.Errorf("%v, %v", programs, refused)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if programs, refused := Executables(dir); len(programs) != 0 || len(refused) != 1 {
		t.Errorf("of a directory that all may write to: %v, %v", programs, refused)
	}
	if programs, refused := Executables(filepath.Join(dir, "none")); programs != nil || refused != nil {
		t.Errorf("of a directory that does not exist: %v, %v", programs, refused)
	}
}

// answers is a web service that answers as it is told, one after the other.
type answers struct {
	codes []int // 0: no answer
	at    []time.Duration
	keys  []string
	start time.Time
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.at = append(a.at, time.Since(a.start))
	a.keys = append(a.keys, r.Header.Get("Idempotency-Key"))
	code := a.codes[min(len(a.at), len(a.codes))-1]
	if code == 0 {
		return nil, errors.New("network is unreachable")
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader("x"))}, nil
}

func TestWebhooksAreTriedAgainForAWhile(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		codes  []int
		want   []time.Duration
		logged string
	}{
		"an answer":                  {[]int{204}, []time.Duration{0}, ""},
		"silence, then an answer":    {[]int{0, 503, 429, 200}, []time.Duration{0, 1 * s, 3 * s, 7 * s}, ""},
		"a refusal is final":         {[]int{404}, []time.Duration{0}, "it answered Not Found"},
		"a redirection is a refusal": {[]int{302}, []time.Duration{0}, "it answered Found"},
		"silence for ever": {[]int{0}, []time.Duration{0, 1 * s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, 183 * s, 243 * s, 303 * s, 363 * s, 423 * s, 483 * s, 543 * s},
			"given up after 10m0s: network is unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &answers{codes: c.codes, start: time.Now()}
				var log bytes.Buffer
				w := Webhook{URL: "https://192.0.2.10/secret", Transport: a, Log: slog.New(slog.NewTextHandler(&log, nil))}
				if err := w.Run(t.Context(), events(down())); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, a.at); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if len(slices.Compact(a.keys)) != 1 || a.keys[0] != "7" {
					t.Errorf("keys %q", a.keys)
				}
				if !strings.Contains(log.String(), c.logged) || c.logged == "" && log.Len() > 0 || strings.Contains(log.String(), "secret") {
					t.Errorf("the log says %s", log.String())
				}
			})
		})
	}
}

func TestWebhooksEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a := &answers{codes: []int{0}, start: time.Now()}
		w := Webhook{URL: "https://192.0.2.10/", Transport: a, Log: slog.New(slog.DiscardHandler)}
		time.AfterFunc(5*time.Second, cancel)
		if err := w.Run(ctx, events(down())); err != nil || len(a.at) != 3 {
			t.Errorf("%v after %v", err, a.at)
		}
	})
}
