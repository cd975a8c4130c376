package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

const token = "correct horse battery staple"

func withToken(o *Options) { o.Token = token }

// arriving makes requests look as if they came to this address of ours.
func arriving(h http.Handler, local string) http.Handler {
	addr := net.TCPAddrFromAddrPort(mustAddrPort(local))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(addr))))
	})
}

func TestHostDecidesOverTCP(t *testing.T) {
	s := newServer(newDaemon(), func(o *Options) { o.Hosts = []string{"Router.LAN", "203.0.113.9", "2001:db8::9"} })
	for _, test := range []struct {
		host, local string
		want        int
	}{
		{"localhost", "127.0.0.1:9275", 200},
		{"LOCALHOST:9275", "127.0.0.1:9275", 200},
		{"localhost.:9275", "127.0.0.1:9275", 200},
		{"127.0.0.1:9275", "127.0.0.1:9275", 200},
		{"127.9.9.9", "127.0.0.1:9275", 200},
		{"[::1]:9275", "[::1]:9275", 200},
		{"[::1]", "[::1]:9275", 200},
		{"192.168.1.1:9275", "192.168.1.1:9275", 200},
		{"192.168.1.1:9275", "[::ffff:192.168.1.1]:9275", 200},
		{"192.168.1.1", "192.168.1.2:9275", 403},
		{"[2001:db8::1]:9275", "[2001:db8::1]:9275", 200},
		{"[fe80::1%25eth1]:9275", "[fe80::1%eth1]:9275", 200},
		{"[fe80::1]:9275", "[fe80::1%eth1]:9275", 200},
		{"router.lan:9275", "192.168.1.1:9275", 200},
		{"router.lan", "192.168.1.1:9275", 200},
		{"203.0.113.9", "192.168.1.1:9275", 200},
		{"[2001:DB8:0::9]:80", "192.168.1.1:9275", 200},
		{"evil.example", "127.0.0.1:9275", 403},
		{"localhost.evil.example:9275", "127.0.0.1:9275", 403},
		{"127.0.0.1.evil.example", "127.0.0.1:9275", 403},
		{"router.lan.evil.example", "192.168.1.1:9275", 403},
		{"0.0.0.0:9275", "127.0.0.1:9275", 403},
		{"2130706433", "127.0.0.1:9275", 403},
		{"", "127.0.0.1:9275", 403},
	} {
		for _, path := range []string{"/api/v1/status", "/healthz", "/nothing"} {
			want := test.want
			if path == "/nothing" && want == 200 {
				want = 404
			}
			if w := ask(arriving(s.handler(false), test.local), "GET", path, "Host: "+test.host); w.Code != want {
				t.Errorf("host %q at %s: %s is %d, want %d", test.host, test.local, path, w.Code, want)
			}
		}
		if w := ask(s.handler(true), "GET", "/healthz", "Host: "+test.host); w.Code != 200 {
			t.Errorf("host %q on the socket: %d", test.host, w.Code)
		}
	}
	wantError(t, ask(s.handler(false), "GET", "/healthz", "Host: evil.example"), 403, `host "evil.example"`)
}

func TestOtherSitesAreRefused(t *testing.T) {
	s := newServer(newDaemon(), withToken, func(o *Options) { o.Hosts = []string{"router.lan"} })
	h := arriving(s.handler(false), "192.168.1.1:9275")
	auth := "Authorization: Bearer " + token
	for _, test := range []struct {
		name   string
		header []string
		want   int // of GET; a POST that would be 200 is 204
	}{
		{"no browser", nil, 200},
		{"the same origin", []string{"Host: 192.168.1.1:9275", "Origin: http://192.168.1.1:9275", "Sec-Fetch-Site: same-origin"}, 200},
		{"typed into the address bar", []string{"Sec-Fetch-Site: none"}, 200},
		{"a proxy with a configured name", []string{"Host: 127.0.0.1:9275", "Origin: https://router.lan"}, 200},
		{"another site", []string{"Origin: https://evil.example"}, 403},
		{"no origin to speak of", []string{"Origin: null"}, 403},
		{"no URL", []string{"Origin: http://%"}, 403},
		{"two origins", []string{"Origin: http://localhost:9275", "Origin: http://evil.example"}, 403},
		{"another port of localhost", []string{"Host: localhost:9275", "Origin: http://localhost:8080"}, 403},
		{"another address of ours", []string{"Host: 127.0.0.1:9275", "Origin: http://192.168.1.1:9275"}, 403},
		{"a picture on another site", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"}, 403},
		{"a script on a sibling", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"}, 403},
	} {
		if w := ask(h, "GET", "/api/v1/status", test.header...); w.Code != test.want {
			t.Errorf("%s: GET is %d, want %d", test.name, w.Code, test.want)
		}
		want := test.want
		if want == 200 {
			want = 204
		}
		if w := ask(h, "POST", "/api/v1/reload", append(test.header, auth)...); w.Code != want {
			t.Errorf("%s: POST is %d, want %d", test.name, w.Code, want)
		}
	}
	link := []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}
	wantCode(t, ask(h, "GET", "/api/v1/status", link...), 200)
	wantError(t, ask(h, "POST", "/api/v1/reload", append(link, auth)...), 403, "other web sites")
}

func TestChangesOverTCPNeedTheToken(t *testing.T) {
	d := newDaemon()
	readOnly := newServer(d).handler(false)
	for _, path := range []string{"/api/v1/reload", "/api/v1/uplinks/lte/drain", "/api/v1/uplinks/lte/undrain", "/api/v1/token"} {
		wantError(t, ask(readOnly, "POST", path), 403, "read-only")
		wantError(t, ask(readOnly, "POST", path, "Authorization: Bearer "), 403, "read-only")
	}
	s := newServer(d, withToken)
	s.limits.guesses = 100
	h := s.handler(false)
	for _, header := range []string{
		"X-No: thing", "Authorization: Bearer", "Authorization: Bearer wrong", "Authorization: Basic " + token,
		"Authorization: " + token, "Authorization: Bearer " + token + "x", "Authorization: Bearer " + token[1:],
	} {
		wantError(t, ask(h, "POST", "/api/v1/token", header), 401, "Bearer TOKEN")
		w := ask(h, "POST", "/api/v1/reload", header)
		wantError(t, w, 401, "Bearer TOKEN")
		if w.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Error("401 without a challenge")
		}
	}
	wantCode(t, ask(h, "POST", "/api/v1/token", "Authorization: Bearer "+token), 204)
	if d.reloads != 0 || len(d.drained) != 0 {
		t.Fatal("a refused request has changed something")
	}
	wantCode(t, ask(h, "POST", "/api/v1/reload", "Authorization: Bearer "+token), 204)
	wantCode(t, ask(h, "POST", "/api/v1/reload", "Authorization: bearer "+token), 204)
	wantCode(t, ask(h, "GET", "/api/v1/status"), 200)
}

func TestBodiesAreBounded(t *testing.T) {
	d := newDaemon()
	h := newServer(d).handler(true)
	send := func(body io.Reader) *httptest.ResponseRecorder {
		return askWith(h, httptest.NewRequest("POST", "/api/v1/reload", body))
	}
	unsized := func(n int) io.Reader { return struct{ io.Reader }{strings.NewReader(strings.Repeat("x", n))} }
	wantCode(t, send(strings.NewReader("{}")), 204)
	wantCode(t, send(unsized(4096)), 204)
	wantError(t, send(strings.NewReader(strings.Repeat("x", 4097))), 413, "larger than 4096 bytes")
	wantError(t, send(unsized(4097)), 413, "larger than 4096 bytes")
	wantError(t, send(iotestReader{}), 400, "reading the request body")
	get := httptest.NewRequest("GET", "/api/v1/status", strings.NewReader(strings.Repeat("x", 5000)))
	wantError(t, askWith(h, get), 413, "4096")
	if d.reloads != 2 {
		t.Errorf("reloaded %d times", d.reloads)
	}
}

type iotestReader struct{}

func (iotestReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestEveryAnswerHasTheSecurityHeaders(t *testing.T) {
	h := newServer(newDaemon()).handler(false)
	for _, w := range []*httptest.ResponseRecorder{
		ask(h, "GET", "/api/v1/status"), ask(h, "GET", "/nothing"), ask(h, "POST", "/healthz"),
		ask(h, "GET", "/", "Host: evil.example"), ask(h, "GET", "/api/v1/events?follow=0"), ask(h, "POST", "/api/v1/reload"),
	} {
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%d has %s %q, want %q", w.Code, name, got, want)
			}
		}
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control") {
				t.Errorf("%s lets other sites in", name)
			}
		}
	}
}

// Whatever passes for this machine without being configured is one of its names
// to a browser too: no page of another host can have sent it.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"localhost:1", "[::1]:80", "::1", "evil.example.", "[", "]:", "127.0.0.1", "[fe80::1%eth0]:1"} {
		f.Add(seed)
	}
	h := newServer(newDaemon()).handler(false)
	f.Fuzz(func(t *testing.T, host string) {
		if ask(h, "GET", "/healthz", "Host: "+host).Code != 200 {
			return
		}
		u, err := url.Parse("http://" + host + "/")
		if err != nil {
			return // no browser gets there
		}
		name := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
		if addr, err := netip.ParseAddr(name); name != "localhost" && (err != nil || !addr.Unmap().IsLoopback()) {
			t.Errorf("%q passes for this machine, and is %q", host, name)
		}
	})
}
