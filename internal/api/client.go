package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/status"
)

var (
	// ErrNotRunning is the error of every call when nobody answers on the socket.
	ErrNotRunning = errors.New("no uplinkd answers")
	// ErrForbidden is the error of every call of a user who may not use the socket.
	ErrForbidden = errors.New("no permission")
	// ErrBadConfig is the error of Reload when the configuration is wrong.
	ErrBadConfig = errors.New("wrong configuration")
	// ErrBadPacket is the error of Explain when there is no such packet.
	ErrBadPacket = errors.New("wrong packet")
	// ErrStreamEnded is the error of Events when the daemon ends the stream.
	ErrStreamEnded = errors.New("uplinkd has ended the stream of events")
)

const (
	maxResponse = 32 << 20 // bytes; a status of 62 uplinks has some 100 KiB
	maxEvent    = 1 << 20
	maxHeader   = 64 << 10
	answerTime  = 30 * time.Second // for the first byte of an answer
)

// Client asks the daemon. Its methods may be called by any goroutine. Errors are
// [ErrNotRunning] when nobody answers, [fs.ErrPermission] when the socket may
// not be used, or have the daemon's own words.
type Client struct {
	socket string // "" where it is asked over TCP
	base   string // of every URL
	limit  int64  // bytes of an answer
	http   *http.Client
}

// Dial returns a client of the daemon on this socket. It connects for each call,
// and there is nothing to close.
func Dial(socket string) *Client {
	var dialer net.Dialer
	return newClient("http://localhost", socket, maxResponse, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	})
}

func newClient(base, socket string, limit int64, connect func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	return &Client{base: base, socket: socket, limit: limit, http: &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:      true, // so that no idle connection is left behind
			ResponseHeaderTimeout:  answerTime,
			MaxResponseHeaderBytes: maxHeader,
			DialContext:            connect,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Status returns what the daemon tells about itself.
func (c *Client) Status(ctx context.Context) (status.Status, error) {
	var s status.Status
	err := c.get(ctx, "/api/v1/status", "the status", &s)
	return s, err
}

// Explain asks what would become of a packet; the query is that of [ParsePacket]. A packet that makes no
// sense is an [ErrBadPacket] with the daemon's text.
func (c *Client) Explain(ctx context.Context, query url.Values) (Explanation, error) {
	var e Explanation
	err := c.get(ctx, "/api/v1/explain?"+query.Encode(), "the explanation", &e)
	return e, err
}

// get reads an answer's JSON into v.
func (c *Client) get(ctx context.Context, path, what string, v any) error {
	resp, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	body := &io.LimitedReader{R: resp.Body, N: c.limit}
	err = json.NewDecoder(body).Decode(v)
	switch {
	case err != nil && body.N == 0:
		return fmt.Errorf("reading %s: it is longer than %d bytes", what, c.limit)
	case err != nil:
		return fmt.Errorf("reading %s: %w", what, err)
	}
	return nil
}

// Drain moves the flows of an uplink away, or ends that. For a name that the
// daemon does not know the error is [ErrUnknownUplink].
func (c *Client) Drain(ctx context.Context, name string, d status.Drain) error {
	verb := map[status.Drain]string{status.Undrained: "undrain", status.Drained: "drain", status.DrainedNow: "drain?" + nowKey + "=true"}[d]
	return c.change(ctx, "/api/v1/uplinks/"+url.PathEscape(name)+"/"+verb)
}

// Reload makes the daemon read its configuration again. When that is wrong the
// error is [ErrBadConfig] and has the daemon's text; nothing has changed then.
// With a wait, it is taken back after that unless Confirm is called.
func (c *Client) Reload(ctx context.Context, wait time.Duration) error {
	path := "/api/v1/reload"
	if wait != 0 {
		path += "?" + url.Values{confirmKey: {wait.String()}}.Encode()
	}
	return c.change(ctx, path)
}

// Confirm keeps the configuration that waits for it.
func (c *Client) Confirm(ctx context.Context) error { return c.change(ctx, "/api/v1/confirm") }

// Yield has the other router of a pair take over, and returns when it has.
func (c *Client) Yield(ctx context.Context) error { return c.change(ctx, "/api/v1/pair/yield") }

func (c *Client) change(ctx context.Context, path string) error {
	resp, err := c.do(ctx, http.MethodPost, path)
	if err != nil {
		return err
	}
	closeBody(resp)
	return nil
}

// Events calls fn with the events after an id, 0 for all that are kept, their
// times in the local zone; with follow also with every new one, until ctx ends,
// which is no error, or fn returns an error, which is returned as it is. When the
// daemon ends the stream the error is [ErrStreamEnded].
func (c *Client) Events(ctx context.Context, after uint64, follow bool, fn func(status.Event) error) error {
	query := url.Values{"after": {strconv.FormatUint(after, 10)}, "follow": {"0"}}
	if follow {
		query.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/events?"+query.Encode())
	if err != nil {
		if follow && ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer closeBody(resp)
	var stopped error
	err = readEvents(resp.Body, func(e status.Event) error {
		stopped = fn(e)
		return stopped
	})
	switch {
	case stopped != nil:
		return stopped
	case follow && ctx.Err() != nil:
		return nil
	case err != nil && follow && !errors.Is(err, errBadEvent):
		return fmt.Errorf("%w: %w", ErrStreamEnded, err)
	case err != nil:
		return fmt.Errorf("reading events: %w", err)
	case follow:
		return ErrStreamEnded
	}
	return nil
}

var errBadEvent = errors.New("not an event")

// readEvents calls fn for each event of a stream as our server writes it: all
// of an event's JSON is on one data line.
func readEvents(r io.Reader, fn func(status.Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var e status.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("%w: %w", errBadEvent, err)
		}
		e.Time = status.At(e.Time.Local())
		if err := fn(e); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%w: longer than %d bytes", errBadEvent, maxEvent)
	}
	return lines.Err()
}

// do returns the answer when it is a good one. The caller closes its body.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer closeBody(resp)
	return nil, refusal(resp)
}

// groupHint says how to be of the group that may use a socket, where there is one.
func groupHint(socket string) string {
	var st unix.Stat_t
	if unix.Stat(socket, &st) != nil || st.Gid == 0 {
		return ""
	}
	g, err := user.LookupGroupId(strconv.Itoa(int(st.Gid)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", or be of its group: sudo usermod --append --groups %s NAME, and log in again", g.Name)
}

// unreachable says in an operator's words why there was no answer.
func (c *Client) unreachable(err error) error {
	switch {
	case c.socket == "":
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return &operatorError{"no uplinkd answers on " + c.socket + ": is it running? start it: systemctl start uplinkd", []error{ErrNotRunning, err}}
	case errors.Is(err, fs.ErrPermission):
		return &operatorError{"no permission to use " + c.socket + ": use sudo" + groupHint(c.socket), []error{ErrForbidden, err}}
	}
	var wrapped *url.Error // its text has a URL that nobody wrote
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if c.socket == "" { // whoever asks has named the daemon
		return err
	}
	return fmt.Errorf("asking uplinkd on %s: %w", c.socket, err)
}

// refusal returns the error that the daemon answered with.
func refusal(resp *http.Response) error {
	var f failure
	err := json.NewDecoder(io.LimitReader(resp.Body, maxResponse)).Decode(&f)
	if err != nil || f.Error == "" {
		return fmt.Errorf("uplinkd answered %s", resp.Status)
	}
	refused := &operatorError{message: f.Error}
	switch resp.StatusCode {
	case http.StatusNotFound:
		refused.causes = []error{ErrUnknownUplink}
	case http.StatusBadRequest:
		refused.causes = []error{ErrBadPacket}
	case http.StatusUnprocessableEntity:
		refused.causes = []error{ErrBadConfig}
	}
	return refused
}

// closeBody ends a response that was read as far as is of interest.
func closeBody(resp *http.Response) { _ = resp.Body.Close() }
