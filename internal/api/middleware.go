package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// middleware bounds every request, refuses those that a hostile web page may have
// made, and marks every answer as nothing that a browser should keep, guess at
// or run. The unix socket is out of reach for web pages.
func (l *listenerHandler) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		if !l.local {
			if !l.allowedHost(r) {
				writeError(w, http.StatusForbidden, fmt.Sprintf(
					"host %q is not a known name of this router: use its address, or add the name to [daemon] hosts", r.Host))
				return
			}
			if l.crossSite(r) {
				writeError(w, http.StatusForbidden, "requests from other web sites are refused")
				return
			}
		}
		if r.ContentLength > l.limits.bodyBytes {
			h.Set("Connection", "close") // what was announced is never read
			writeError(w, http.StatusRequestEntityTooLarge, tooLarge(l.limits.bodyBytes))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, l.limits.bodyBytes)
		next.ServeHTTP(w, r)
	})
}

func tooLarge(limit int64) string {
	return fmt.Sprintf("the request body is larger than %d bytes", limit)
}

// post answers POST with h when the client may change something.
func (l *listenerHandler) post(h http.HandlerFunc) http.Handler {
	return only(func(w http.ResponseWriter, r *http.Request) {
		if !l.local && !l.authorized(w, r) {
			return
		}
		// No change needs a body, but a client that sends one expects it to be read.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			var large *http.MaxBytesError
			if errors.As(err, &large) {
				writeError(w, http.StatusRequestEntityTooLarge, tooLarge(large.Limit))
			} else {
				writeError(w, http.StatusBadRequest, "reading the request body: "+err.Error())
			}
			return
		}
		h(w, r)
	}, http.MethodPost)
}

// authorized reports whether a request over TCP may change something, and
// answers it if not.
func (l *listenerHandler) authorized(w http.ResponseWriter, r *http.Request) bool {
	if l.o.Token == "" {
		writeError(w, http.StatusForbidden, "this listener is read-only: use the control socket, or set [daemon] token_file")
		return false
	}
	client := clientOf(r.RemoteAddr)
	if wait := l.guesses.wait(client, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
		writeError(w, http.StatusTooManyRequests, "too many wrong tokens: wait a minute")
		return false
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Sums have one length, so the time tells nothing about the token's either.
	want, got := sha256.Sum256([]byte(l.o.Token)), sha256.Sum256([]byte(strings.TrimSpace(token)))
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
		return true
	}
	if token != "" && l.guesses.failed(client, time.Now()) {
		l.log.Warn("too many wrong tokens: this client is ignored for a while", "path", r.URL.Path, "from", l.client(r), "guesses", l.limits.guesses)
	} else {
		l.log.Warn("change refused: no valid token", "path", r.URL.Path, "from", l.client(r))
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeError(w, http.StatusUnauthorized, "changes need the header Authorization: Bearer TOKEN")
	return false
}

// allowedHost reports whether the Host header is surely a name of this machine.
// With DNS rebinding a web page reaches us under its own name, which it makes
// resolve to our address; it cannot make a browser send another Host.
func (l *listenerHandler) allowedHost(r *http.Request) bool {
	host := hostname(r.Host)
	if l.hosts[host] {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if addr.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap().WithZone("") == addr
}

// crossSite reports whether a browser says that another site has made the
// request. Following a link to us is fine: its site does not see the answer.
func (l *listenerHandler) crossSite(r *http.Request) bool {
	for _, value := range r.Header.Values("Origin") {
		origin, err := url.Parse(value)
		if err != nil || origin.Host == "" { // "null" too
			return true
		}
		// Behind a proxy that ends TLS the two differ; then the name was configured.
		if !strings.EqualFold(origin.Host, r.Host) && !l.configured(origin.Host) {
			return true
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		link := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
		return !link
	}
	return false
}

func (l *listenerHandler) configured(hostport string) bool {
	host := hostname(hostport)
	return host != "localhost" && l.hosts[host]
}

// hostname returns the host of a Host header in its normal form.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return normalHost(host)
	}
	return normalHost(hostport)
}

// normalHost makes spellings of one host equal: no case, no trailing dot, no
// brackets or zone, and no IPv4 inside IPv6.
func normalHost(host string) string {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String()
	}
	return host
}
