package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// errNoLab is returned where a command needs a running lab.
var errNoLab = errors.New("no lab is running: start one with uplinkd lab run")

// controlTimeout bounds one request to a running lab.
const controlTimeout = 15 * time.Second

// request is one line from a lab command to the running lab.
type request struct {
	Op     string `json:"op"` // status, break, heal, down
	Kind   string `json:"kind,omitempty"`
	Uplink string `json:"uplink,omitempty"`
}

// response is the line that comes back.
type response struct {
	Error     string         `json:"error,omitempty"`
	PID       int            `json:"pid"` // of the process that holds the namespaces
	Hosts     []string       `json:"hosts"`
	Dashboard string         `json:"dashboard"`
	Uplinks   []UplinkStatus `json:"uplinks"`
}

// controller answers requests for a running lab.
type controller struct {
	world     *World
	dashboard string
	down      func() // ends the lab
}

// serve answers until ctx ends, one request per connection.
func (c *controller) serve(ctx context.Context, ln net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		c.answer(conn)
		_ = conn.Close()
	}
}

func (c *controller) answer(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(controlTimeout))
	var r request
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return // whoever it was is gone or talks nonsense
	}
	res := response{PID: os.Getpid(), Hosts: c.world.Hosts(), Dashboard: c.dashboard}
	if err := c.act(r); err != nil {
		res.Error = err.Error()
	}
	res.Uplinks = c.world.Status()
	_ = json.NewEncoder(conn).Encode(res)
	if r.Op == "down" {
		c.down()
	}
}

func (c *controller) act(r request) error {
	switch {
	case r.Op == "status", r.Op == "down":
		return nil
	case r.Op == "break":
		return c.world.Break(r.Kind, r.Uplink)
	case r.Op == "heal" && r.Uplink == "":
		return c.world.Heal()
	case r.Op == "heal":
		return c.world.HealOne(r.Uplink)
	}
	return fmt.Errorf("this lab knows no %q: is it of another version?", r.Op)
}

// ask sends a request to the lab of a directory; errNoLab if there is none.
func ask(ctx context.Context, path string, r request) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(path, "control.sock"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return response{}, errNoLab
	}
	if err != nil {
		return response{}, fmt.Errorf("reaching the lab: %w", err)
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var res response
	err = json.NewEncoder(conn).Encode(r)
	if err == nil {
		err = json.NewDecoder(conn).Decode(&res)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return response{}, errNoLab // it was killed, and the kernel is still at closing its socket
	}
	if err != nil {
		return response{}, fmt.Errorf("asking the lab: %w", err)
	}
	if res.Error != "" {
		return response{}, errors.New(res.Error)
	}
	return res, nil
}
