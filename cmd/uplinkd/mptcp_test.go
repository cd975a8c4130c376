package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// download is a connection by Multipath TCP from the router to a server in the Internet that sends all the time.
type download struct {
	mu     sync.Mutex
	latest time.Time
	bytes  int
	err    error
}

// downloadFrom begins one. The server's socket is of a listener that takes part, as Go's are.
func (r *router) downloadFrom(at string) *download {
	r.Helper()
	var l net.Listener
	err := r.Host("inet").Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(true)
		l, err = config.Listen(r.Context(), "tcp", at)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for ; err == nil; time.Sleep(5 * time.Millisecond) {
					_, err = conn.Write(make([]byte, 1000))
				}
				_ = conn.Close()
			}()
		}
	}()
	var conn net.Conn
	err = r.Host("router").Do(func() (err error) {
		var dialer net.Dialer
		dialer.SetMultipathTCP(true)
		conn, err = dialer.DialContext(r.Context(), "tcp", at)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	if is, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || !is {
		r.Fatalf("it is no connection of Multipath TCP: %v", err)
	}
	d := &download{latest: time.Now()}
	go func() {
		for buffer := make([]byte, 4096); ; {
			n, err := conn.Read(buffer)
			d.mu.Lock()
			d.latest, d.bytes, d.err = time.Now(), d.bytes+n, err
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return d
}

// goesOn waits until it has had some more.
func (d *download) goesOn(r *router, when string) {
	r.Helper()
	d.mu.Lock()
	before := d.bytes
	d.mu.Unlock()
	r.await("the download to go on "+when, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.err != nil {
			r.Fatalf("it ended %s: %v", when, d.err)
		}
		if d.bytes < before+50_000 {
			return fmt.Errorf("%d bytes since, the latest %v ago", d.bytes-before, time.Since(d.latest).Round(time.Millisecond))
		}
		return nil
	})
}

// endpoints are those of the kernel, as ip shows them.
func (r *router) endpoints() string { return r.sh("router", "ip mptcp endpoint show") }

func TestADownloadByMultipathTCPOutlivesItsUplink(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.configure(dualWAN)
	r.sh("router", "sed -i 's/^hooks = .*/&\\nmptcp = true/' "+r.config)
	r.sh("router", "ip address add 198.51.100.33/32 dev lo; ip mptcp endpoint add 198.51.100.33 subflow") // somebody's own
	limits := r.sh("router", "ip mptcp limits show")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	wants := func(what string, present map[string]string) {
		t.Helper()
		r.await(what, func() error {
			out := r.endpoints()
			for address, flags := range present {
				line := ""
				for l := range strings.Lines(out) {
					if strings.HasPrefix(l, address+" ") {
						line = l
					}
				}
				if (line != "") != (flags != "") || strings.Contains(line, "backup") != strings.Contains(flags, "backup") {
					return fmt.Errorf("%s is not %q: %s", address, flags, out)
				}
			}
			return r.converged()
		})
	}
	fiber, lte := r.addresses("fiber"), r.addresses("lte")
	well := map[string]string{fiber[0].String(): "subflow", fiber[1].String(): "subflow", lte[0].String(): "subflow backup", lte[1].String(): "subflow backup", "198.51.100.33": "subflow"}
	wants("an endpoint of each path", well)
	four, six := r.downloadFrom("192.0.2.1:7003"), r.downloadFrom("[2001:db8:ffff::1]:7003")
	four.goesOn(r, "at first")
	six.goesOn(r, "at first")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	wants("none of a dead path", map[string]string{fiber[0].String(): "", fiber[1].String(): "", lte[0].String(): "subflow", lte[1].String(): "subflow"})
	four.goesOn(r, "by lte")
	six.goesOn(r, "by lte")
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Up)
	wants("all again", well)
	r.command("drain", "--socket", r.socket(), "fiber")
	wants("none of a drained uplink", map[string]string{fiber[0].String(): "", lte[0].String(): "subflow"})
	four.goesOn(r, "drained")
	r.command("undrain", "--socket", r.socket(), "fiber")
	wants("all once more", well)
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	four.goesOn(r, "back by fiber")
	six.goesOn(r, "back by fiber")

	r.stop()
	r.configure(dualWAN)
	r.start() // without it, what it has left goes
	r.await("only somebody's own endpoint", func() error {
		if out := strings.TrimSpace(r.endpoints()); strings.Contains(out, "\n") || !strings.HasPrefix(out, "198.51.100.33 ") {
			return errors.New(out)
		}
		if now := r.sh("router", "ip mptcp limits show"); now != limits {
			return fmt.Errorf("limits %s, were %s", now, limits)
		}
		return r.converged()
	})
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
}
