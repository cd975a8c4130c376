package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonListen is the daemon's own TCP listener, within the router.
const daemonListen = "127.0.0.1:9275"

// daemonReady bounds how long the daemon may take until it is healthy.
const daemonReady = 30 * time.Second

// The configuration: its head, an uplink, its end. Names are quoted as TOML does.
const (
	configHead = `# written by uplinkd lab run

[daemon]
state_dir = %q
hooks = ""
socket    = %q
listen    = %q

[kernel]
table_names = ""
`
	configUplink = `
[[uplink]]
name   = %q
kind   = "isp"
device = %q
tier   = %d
  [uplink.ipv4]
  method     = "auto"
  masquerade = true
  [uplink.ipv6]
  method      = "auto"
  delegation  = true
  prefix_hint = "::/56"
  [uplink.probe]
  targets = [
    %s,
  ]
`
	configEnd = `
[[lan]]
device    = "lan0"
subnet_id = 1
`
)

// Targets returns the probe targets that the lab's Internet serves, in the configuration's notation.
func Targets() []string {
	return []string{
		Echo4, "tcp://" + TCP4 + ":443", "http://" + HTTP4 + "/generate_204", "dns://" + DNS4 + "?name=example.net",
		Echo6, "tcp://[" + TCP6 + "]:443", "http://[" + HTTP6 + "]/generate_204", "dns://[" + DNS6 + "]?name=example.net",
	}
}

func writeConfig(dir *directory, uplinks []Uplink) error {
	var targets []string
	for _, t := range Targets() {
		targets = append(targets, strconv.Quote(t))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, configHead, dir.state(), dir.socket(), daemonListen)
	for i, u := range uplinks {
		fmt.Fprintf(&b, configUplink, u.Name, u.Device, i+1, strings.Join(targets, ",\n    "))
	}
	b.WriteString(configEnd)
	if err := os.MkdirAll(dir.state(), 0o700); err != nil {
		return fmt.Errorf("making the daemon's state directory: %w", err)
	}
	if err := os.WriteFile(dir.config(), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

// daemon is the daemon that a lab runs on its router.
type daemon struct {
	cmd   *exec.Cmd
	dir   *directory
	log   *os.File
	api   *http.Client
	ended chan struct{} // closed when the process has ended
	err   error         // of the process; valid when ended is closed
}

// startDaemon starts `uplinkd run` on a host and waits until it is healthy.
func startDaemon(ctx context.Context, on *Host, dir *directory) (*daemon, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program's file: %w", err)
	}
	log, err := os.OpenFile(dir.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's log: %w", err)
	}
	// It gets its SIGTERM from stop, before the world goes, not from a context.
	d := &daemon{
		cmd: on.Command(context.Background(), exe, "run", "-c", dir.config()), dir: dir, log: log,
		api: unixClient(dir.socket()), ended: make(chan struct{}),
	}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// Out of the terminal's reach, where Ctrl-C would hit it first and out of order.
	d.cmd.SysProcAttr.Setpgid = true
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the daemon: %w", err), log.Close())
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.healthy(ctx); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// unixClient returns a client whose requests all go to one socket.
func unixClient(path string) *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
			DisableKeepAlives: true,
		},
	}
}

func (d *daemon) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonReady)
	defer cancel()
	waiting, give := context.WithCancelCause(ctx)
	defer give(nil)
	go func() {
		select {
		case <-d.ended:
			give(fmt.Errorf("the daemon ended: %s", d.outcome()))
		case <-waiting.Done():
		}
	}()
	err := Until(waiting, "the daemon to be healthy", func() error { return d.get(waiting, "/healthz", nil) })
	if err == nil {
		return nil
	}
	if cause := context.Cause(waiting); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		err = cause
	}
	return fmt.Errorf("%w; the end of its log:\n%s", err, d.tail())
}

// get asks the daemon's API on its socket; into may be nil.
func (d *daemon) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://uplinkd"+path, nil)
	if err != nil {
		return err
	}
	res, err := d.api.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, res.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// stop asks the daemon to end, and kills it where it does not; it may have ended already.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(stopGrace / 2):
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
	return d.log.Close()
}

// outcome says how the process ended; ended must be closed.
func (d *daemon) outcome() string {
	if d.err == nil {
		return "by itself, exit code 0"
	}
	return d.err.Error()
}

// again returns the command that starts the daemon anew.
func (d *daemon) again() string {
	exe, err := os.Executable()
	if err != nil {
		exe = "uplinkd"
	}
	return fmt.Sprintf("%s lab exec router -- %s run -c %s", commandName(exe), exe, d.dir.config())
}

// tail returns the last lines of the daemon's log, indented.
func (d *daemon) tail() string {
	const lines = 12
	data, err := os.ReadFile(d.dir.log())
	if err != nil {
		return "  " + err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}
