package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxHead bounds what is read of an HTTP answer: its head is needed, its body
// is not.
const maxHead = 32 << 10

// userAgent tells the owner of a target who asks.
const userAgent = "uplinkd-probe"

// probeHTTP makes one request on one connection by hand. An http.Client would
// bring connection reuse, redirects, proxies from the environment and
// goroutines that outlive the probe, all of which would have to be turned off.
func probeHTTP(ctx context.Context, p Path, t Target) (time.Duration, error) {
	began := time.Now()
	plain, err := p.dial(ctx, "tcp", t)
	if err != nil {
		return 0, flightError(ctx, t, err)
	}
	defer reset(plain)
	// The deadline covers reads and writes; cancellation closes what is left.
	if deadline, ok := ctx.Deadline(); ok {
		if err := plain.SetDeadline(deadline); err != nil {
			return 0, flightError(ctx, t, err)
		}
	}
	defer context.AfterFunc(ctx, func() { reset(plain) })()

	conn := plain
	if t.kind == HTTPS {
		secure := tls.Client(plain, &tls.Config{
			ServerName:         t.addr.String(), // not sent for a literal address
			InsecureSkipVerify: true,            // reachability, not identity: see Net.Probe
		})
		if err := secure.HandshakeContext(ctx); err != nil {
			return 0, flightError(ctx, t, err)
		}
		conn = secure
	}
	status, err := get(conn, t)
	if err != nil {
		return 0, flightError(ctx, t, err)
	}
	rtt := time.Since(began)
	switch {
	case t.want != 0 && status != t.want:
		return 0, &Error{Target: t.text, Class: ErrPortal, Err: fmt.Errorf("status %d instead of %d", status, t.want)}
	case status < 200 || status > 399:
		return 0, &Error{Target: t.text, Class: ErrAnswer, Err: fmt.Errorf("status %d", status)}
	}
	return rtt, nil
}

// get sends a request and reads the head of its final answer.
func get(conn net.Conn, t Target) (status int, err error) {
	var request strings.Builder
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n", t.uri, t.host, userAgent)
	if _, err := io.WriteString(conn, request.String()); err != nil {
		return 0, err
	}
	head := bufio.NewReader(io.LimitReader(conn, maxHead))
	for {
		answer, err := http.ReadResponse(head, nil)
		if err != nil {
			return 0, err
		}
		_ = answer.Body.Close() // reads from head only, which is bounded
		// Interim answers (RFC 9110 section 15.2) come before the real one.
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer.StatusCode, nil
		}
	}
}
