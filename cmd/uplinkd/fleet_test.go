package main

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestManyRoutersAreSeenAtOnce asks one daemon in every way from a host of the LAN: by its address, by a proxy with TLS and a path,
// by its socket; and where nobody answers.
func TestManyRoutersAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	const listen = lab.LANRouter4 + ":9275"
	r.configure(dualWAN)
	r.write(r.config, strings.Replace(r.configured(), `listen = ""`, fmt.Sprintf("listen = %q", listen), 1))
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)

	host := r.Host("lan")
	r.sh("lan", "ip link set lo up")
	listener, err := host.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	var proxy httputil.ReverseProxy
	proxy.Rewrite = func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.Path = "http", listen, strings.TrimPrefix(p.In.URL.Path, "/house")
	}
	proxy.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return host.Dial(ctx, network, "", address)
	}}
	server := httptest.NewUnstartedServer(&proxy)
	server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	t.Cleanup(server.Close)
	authority := filepath.Join(r.dir, "authority.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}

	direct, proxied, socket, nobody := "http://"+listen, "https://127.0.0.1/house", "unix:"+r.socket(), "http://"+lab.LANRouter4+":9276"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(wantCode int, args ...string) string {
		t.Helper()
		cmd := host.Command(t.Context(), self, append([]string{"status"}, args...)...)
		cmd.Env = append(os.Environ(), actAsProgram+"=1", "SSL_CERT_FILE="+authority)
		out, err := cmd.Output()
		if _, exited := err.(*exec.ExitError); err != nil && !exited || cmd.ProcessState.ExitCode() != wantCode {
			t.Errorf("%v ends with %d, %v: %s", args, cmd.ProcessState.ExitCode(), err, out)
		}
		return string(out)
	}
	const well = "Online by fiber; lte ready. IPv6 by fiber."
	wantLine := func(out, router, state, line string) {
		t.Helper()
		for l := range strings.Lines(out) {
			if strings.HasPrefix(l, router+" ") {
				if !strings.Contains(l, "  "+state+"  ") || !strings.Contains(l, line) {
					t.Errorf("%s: %s", router, l)
				}
				return
			}
		}
		t.Errorf("%s is not there:\n%s", router, out)
	}
	out := ask(exitOK, "--from", direct, proxied, socket)
	for _, router := range []string{direct, proxied, socket} {
		wantLine(out, router, "well", well)
	}
	if got, want := ask(exitOK, "--check", "--from", direct, "--from", proxied), "2 of 2 routers are well.\n"; got != want {
		t.Errorf("%q", got)
	}
	out = ask(exitFailed, "--from", nobody, proxied)
	wantLine(out, nobody, "no answer", "connection refused")
	wantLine(out, proxied, "well", well)

	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.await("status to say so", func() error {
		if h := r.status(); h.Health() != status.Unsettled {
			return fmt.Errorf("%s", h.Headline)
		}
		return nil
	})
	if got := ask(exitWarnings, "--check", "--from", direct); !strings.HasPrefix(got, "0 of 1 routers are well. "+direct+": Online by lte; fiber down.") {
		t.Errorf("%q", got)
	}
	if got := ask(exitFailed, "--check", "--from", nobody, direct); strings.Count(got, "\n") != 1 || !strings.Contains(got, nobody+": dial tcp") {
		t.Errorf("%q", got)
	}
	var answers map[string]struct {
		Status *status.Status
		Error  string
	}
	if err := json.Unmarshal([]byte(ask(exitFailed, "--json", "--from", direct, nobody)), &answers); err != nil {
		t.Fatal(err)
	}
	if got := answers[direct].Status; len(answers) != 2 || got == nil || len(got.Uplinks) != 2 || answers[nobody].Error == "" {
		t.Errorf("%+v", answers)
	}
	watch := host.Command(t.Context(), self, "status", "--watch", "--from", direct)
	watch.Env = append(os.Environ(), actAsProgram+"=1")
	shown, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(shown)
	for seen := 0; seen < 2 && lines.Scan(); {
		if strings.Contains(lines.Text(), "Online by lte; fiber down.") {
			seen++
		}
	}
	if err := errors.Join(lines.Err(), watch.Process.Signal(os.Interrupt), watch.Wait()); err != nil {
		t.Error(err)
	}
}
