package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

// ErrBadURL is the error of [dialURL] and [AskAll] for what is no address of a daemon.
var ErrBadURL = errors.New("no address of a daemon")

// maxFleet is how many bytes one of many daemons may answer: a broken one must not take the memory of who asks.
const maxFleet = 4 << 20

// dialURL returns a client of the daemon at "unix:PATH", its control socket, or at "http://HOST:PORT" or "https://HOST", its
// listener or a proxy in front, perhaps with a path. What is no such address is an [ErrBadURL]. A password in it is refused:
// whoever is logged in sees the arguments of programs, and reading needs none. Redirections and proxies of the environment
// are not followed. It connects for each call, and there is nothing to close.
func dialURL(address string) (*Client, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path = strings.TrimPrefix(path, "//"); !strings.HasPrefix(path, "/") {
			return nil, badURL("%q has no path: write unix:/run/uplinkd/uplinkd.sock", address)
		}
		return Dial(path), nil
	}
	if strings.Contains(address, "@") {
		return nil, badURL("a user or a password is in one of the URLs: the status is read without")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, badURL("%q is no address of a daemon: write http://HOST:PORT, https://HOST or unix:PATH", address)
	}
	var dialer net.Dialer
	return newClient(strings.TrimRight(address, "/"), "", maxFleet, dialer.DialContext), nil
}

func badURL(format string, args ...any) error {
	return &operatorError{fmt.Sprintf(format, args...), []error{ErrBadURL}}
}

// Router is one of several daemons, and what it answered.
type Router struct {
	URL    string        // as it was written
	Status status.Status // where Err is nil
	Err    error         // why there is none
}

// AskAll asks several daemons for their status, all at once, each for at most wait. The answers stand in the order of the
// addresses, those of [dialURL]; one that is written twice is asked once. An error is an [ErrBadURL], and nobody was asked.
func AskAll(ctx context.Context, urls []string, wait time.Duration) ([]Router, error) {
	var all []Router
	var clients []*Client
	seen := make(map[string]bool)
	for _, u := range urls {
		if seen[u] {
			continue
		}
		seen[u] = true
		client, err := dialURL(u)
		if err != nil {
			return nil, err
		}
		all, clients = append(all, Router{URL: u}), append(clients, client)
	}
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i].Status, all[i].Err = clients[i].statusWithin(ctx, wait) })
	}
	wg.Wait()
	return all, nil
}

func (c *Client) statusWithin(ctx context.Context, wait time.Duration) (status.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("no answer within %v", wait))
	defer cancel()
	s, err := c.Status(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return status.Status{}, context.Cause(ctx)
	case err != nil:
		return status.Status{}, err
	case s.Version == "": // every daemon has one
		return status.Status{}, errors.New("what answers is no uplinkd")
	}
	return s, nil
}

// Health judges the router; one without an answer counts as offline.
func (r *Router) Health() status.Health {
	if r.Err != nil {
		return status.NotOnline
	}
	return r.Status.Health()
}

// Line says in one line what is to be known of the router.
func (r *Router) Line() string {
	if r.Err != nil {
		return clean(r.Err.Error())
	}
	return clean(r.Status.Line())
}

// MarshalJSON writes {"status":{...}} or {"error":"..."}.
func (r *Router) MarshalJSON() ([]byte, error) {
	if r.Err != nil {
		return json.Marshal(map[string]string{"error": r.Err.Error()})
	}
	return json.Marshal(map[string]*status.Status{"status": &r.Status})
}

// WriteRouters writes a table with a line for each router.
func WriteRouters(w io.Writer, all []Router, color bool) error {
	table := [][]cell{{{"ROUTER", colorBold}, {"STATE", colorBold}, {"VERSION", colorBold}, {"HEADLINE", colorBold}}}
	for i := range all {
		r := &all[i]
		state, version := cell{"no answer", colorRed}, "-"
		if r.Err == nil {
			state, version = stateOfHealth(r.Health()), clean(r.Status.Version)
		}
		table = append(table, []cell{{text: clean(r.URL)}, state, {text: version}, {text: r.Line()}})
	}
	var b strings.Builder
	writeTable(&b, table, color)
	_, err := io.WriteString(w, b.String())
	return err
}

func stateOfHealth(h status.Health) cell {
	switch h {
	case status.AllWell:
		return cell{"well", colorGreen}
	case status.Unsettled:
		return cell{"warning", colorYellow}
	}
	return cell{"offline", colorRed}
}
