package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/internal/status"
)

// FuzzQuery asks for every page with any query, as whoever reaches the TCP listener may: nothing is a fault of ours, and nothing changes.
func FuzzQuery(f *testing.F) {
	for _, query := range []string{"", "follow=0", "follow=2&after=-1", "after=18446744073709551615&follow=0", "range=5m", "range=x&after=9", "to=192.0.2.1&from=::1", "to=%zz", ";", "confirm=60s", "to=192.0.2.1&mark=0x100000000&dport=99999"} {
		f.Add("/api/v1/explain", query, "0")
		f.Add("/api/v1/events", query, "x")
		f.Add("/api/v1/history", query, "")
	}
	f.Add("/api/v1/uplinks/fiber", "", "\"7-x\"")
	f.Add("/api/v1/uplinks/..%2f..%2freload", "", "*")
	f.Add("/api/v1/reload", "confirm=1s", "")
	d := newDaemon()
	s := newServer(d, func(o *Options) { o.Metrics = NewMetrics("test", func() []status.PathVerdict { return nil }) })
	fill(s.o.Events, 3)
	h := s.handler(false)
	f.Fuzz(func(t *testing.T, path, query, header string) {
		at, err := url.ParseRequestURI("http://localhost/" + path)
		if err != nil {
			return
		}
		at.RawQuery = query
		if slices.Contains([]string{"", "1"}, at.Query().Get("follow")) {
			at.RawQuery += "&follow=0" // else it goes on; the first one counts
			if at.Query().Get("follow") != "0" {
				return
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			r := &http.Request{Method: method, URL: at, Host: "localhost", RemoteAddr: "192.0.2.7:99", Header: http.Header{"Last-Event-Id": {header}, "If-None-Match": {header}}}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(t.Context()))
			if w.Code >= 500 {
				t.Errorf("%s %v: %d %s", method, at, w.Code, w.Body)
			}
			if method == http.MethodPost && w.Code < 300 {
				t.Errorf("%v changed something: %d", at, w.Code)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.reloads != 0 || len(d.drained) != 0 {
			t.Error("a reader has changed something")
		}
	})
}
