package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxHead bounds what is read of an HTTP answer, interim ones included.
const maxHead = 32 << 10

// userAgent tells the owner of a target who probes it.
const userAgent = "uplinkd-probe"

var (
	web = kind{name: HTTP, ports: true, port: 80, retransmits: true, example: "http://192.0.2.3/generate_204", rest: parseRequest, probe: probeHTTP,
		size: func(t Target) (packets, payload int) { return 8, 8*32 + 100 + len(t.host) + len(t.uri) + 300 }}
	secureWeb = kind{name: HTTPS, ports: true, port: 443, retransmits: true, example: "https://192.0.2.3/", rest: parseRequest, probe: probeHTTP,
		// A certificate chain is most of it.
		size: func(t Target) (packets, payload int) { return 14, 14*32 + 600 + 4500 + len(t.host) + len(t.uri) + 300 }}
)

// parseRequest reads the path and the query.
func parseRequest(t *Target, rest string) error {
	if strings.ContainsFunc(rest, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return errors.New("has a character that must be written as % and two hexadecimal digits")
	}
	path, _, _ := strings.Cut(rest, "?")
	if _, err := url.PathUnescape(path); err != nil {
		return errors.New("has a % that two hexadecimal digits must follow")
	}
	if rest == "" || rest[0] == '?' {
		rest = "/" + rest
	}
	t.uri, t.host = rest, t.addr.String()
	if t.addr.Is6() {
		t.host = "[" + t.host + "]"
	}
	if t.port != t.kind.port {
		t.host += ":" + strconv.Itoa(int(t.port))
	}
	if strings.HasSuffix(path, "/generate_204") {
		t.want = http.StatusNoContent
	}
	return nil
}

// probeHTTP makes one request on one connection by hand. An http.Client would
// bring connection reuse, redirects, proxies from the environment and
// goroutines that outlive the probe, all of which would have to be turned off.
func probeHTTP(ctx context.Context, _ *Net, b Binding, t Target) (time.Duration, error) {
	began := time.Now()
	plain, err := b.dial(ctx, "tcp", t)
	if err != nil {
		return 0, receiveError(ctx, t, err)
	}
	defer reset(plain)
	before := waited(plain, time.Since(began))
	// The deadline covers reads and writes; cancellation closes what is left.
	if deadline, ok := ctx.Deadline(); ok {
		if err := plain.SetDeadline(deadline); err != nil {
			return 0, receiveError(ctx, t, err)
		}
	}
	defer context.AfterFunc(ctx, func() { reset(plain) })()

	conn := plain
	if t.kind.name == HTTPS {
		secure := tls.Client(plain, &tls.Config{
			ServerName:         t.addr.String(), // not sent for a literal address
			InsecureSkipVerify: true,            // reachability, not identity: see Net.Probe
		})
		if err := secure.HandshakeContext(ctx); err != nil {
			return 0, receiveError(ctx, t, err)
		}
		conn = secure
	}
	status, err := get(conn, t)
	if err != nil {
		return 0, receiveError(ctx, t, err)
	}
	rtt := time.Since(began) - before
	switch {
	case t.want != 0 && status != t.want:
		return 0, &Error{Target: t.text, Class: ErrPortal, Err: fmt.Errorf("status %d instead of %d", status, t.want)}
	case status < 200 || status > 399:
		return 0, &Error{Target: t.text, Class: ErrAnswer, Err: fmt.Errorf("status %d", status)}
	}
	return rtt, nil
}

// get sends a request and reads the status line of its final answer. Nothing behind it is waited for: a body may be
// endless, and a head may come a byte a second.
func get(conn net.Conn, t Target) (status int, err error) {
	var request strings.Builder
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n", t.uri, t.host, userAgent)
	if _, err := io.WriteString(conn, request.String()); err != nil {
		return 0, err
	}
	answer := textproto.NewReader(bufio.NewReader(io.LimitReader(conn, maxHead)))
	for {
		line, err := answer.ReadLine()
		if err != nil {
			return 0, err
		}
		if status, err = parseStatus(line); err != nil {
			return 0, err
		}
		// Interim answers (RFC 9110 section 15.2) come before the real one.
		if status >= 200 || status == http.StatusSwitchingProtocols {
			return status, nil
		}
		if _, err := answer.ReadMIMEHeader(); err != nil {
			return 0, err
		}
	}
}

// parseStatus reads "HTTP/1.1 204 No Content" (RFC 9112 section 4), whose reason may be left out.
func parseStatus(line string) (int, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	status, err := strconv.Atoi(code)
	if _, _, ok := http.ParseHTTPVersion(version); !ok || err != nil || len(code) != 3 || status < 100 {
		return 0, fmt.Errorf("malformed status line %.80q", line)
	}
	return status, nil
}
