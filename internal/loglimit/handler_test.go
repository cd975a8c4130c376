package loglimit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// output is written by the timers of a handler too.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func logger(b *output) *slog.Logger {
	return slog.New(New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
}

// take returns the lines that were written since.
func take(o *output) []string {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.b.Reset()
	return strings.Split(strings.TrimSuffix(o.b.String(), "\n"), "\n")
}

func TestAFloodIsOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b output
		log := logger(&b)
		fiber := log.With("uplink", "fiber")
		for range 10 * 60 * 100 {
			fiber.Warn("not used", "err", errors.New("it is odd"), "n", time.Now().UnixNano())
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2 * window) // what was held last, and a minute without
		lines := take(&b)
		if len(lines) < warnings+9 || len(lines) > warnings+11 {
			t.Fatalf("%d lines of ten minutes: %q", len(lines), lines)
		}
		all := warnings
		for _, line := range lines[warnings:] {
			var n int
			if _, err := fmt.Sscanf(line, `level=WARN msg="not used" uplink=fiber similar=%d`, &n); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			all += n
		}
		if all != 10*60*100 {
			t.Errorf("%d were counted", all)
		}
		for range 3 {
			fiber.Warn("not used")
		}
		if lines := take(&b); len(lines) != 3 {
			t.Errorf("after the flood: %q", lines)
		}
		time.Sleep(2 * window)
	})
}

func TestWhatIsOfAnotherKindIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b output
		log := logger(&b)
		for range 100 {
			log.Warn("flood", "uplink", "fiber")
		}
		take(&b)
		log.Warn("flood", "uplink", "lte")
		log.With("uplink", "lte").Warn("flood", "device", "wan2")
		log.Error("flood", "uplink", "fiber")
		log.Warn("other", "uplink", "fiber")
		if lines := take(&b); len(lines) != 4 {
			t.Errorf("%q", lines)
		}
		for range 100 {
			log.Debug("flood", "uplink", "fiber")
		}
		if lines := take(&b); len(lines) != 100 {
			t.Errorf("%d debug lines", len(lines))
		}
		for range 100 {
			log.Info("changing")
		}
		if lines := take(&b); len(lines) != informations {
			t.Errorf("%d lines", len(lines))
		}
		time.Sleep(2 * window)
		if lines := take(&b); len(lines) != 2 {
			t.Errorf("what was held back: %q", lines)
		}
	})
}

func TestStrangersMakeNoNumberOfKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b output
		h := New(slog.NewTextHandler(&b, nil))
		log := slog.New(h)
		for n := range 100_000 {
			log.Warn("strange", "device", n)
		}
		known := func() int {
			h.kinds.mu.Lock()
			defer h.kinds.mu.Unlock()
			return len(h.kinds.by)
		}
		if n := known(); n > maxKinds+1 {
			t.Errorf("%d kinds", n)
		}
		if n := len(take(&b)); n > maxKinds+warnings {
			t.Errorf("%d lines", n)
		}
		time.Sleep(3 * window)
		synctest.Wait()
		if n := known(); n != 0 {
			t.Errorf("%d kinds are remembered", n)
		}
	})
}
