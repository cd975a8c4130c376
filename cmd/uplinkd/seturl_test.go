package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// listServer is a web server of the Internet's, with a certificate of its own making.
type listServer struct {
	mu      sync.Mutex
	kind    string
	text    string // repeated for ever when it is endless
	endless bool
	from    []netip.Addr // who has asked, in order
}

func (l *listServer) answer(kind, text string, endless bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kind, l.text, l.endless = kind, text, endless
}

func (l *listServer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	kind, text, endless := l.kind, l.text, l.endless
	l.from = append(l.from, netip.MustParseAddrPort(r.RemoteAddr).Addr())
	l.mu.Unlock()
	rw.Header().Set("Content-Type", kind)
	for {
		if _, err := fmt.Fprint(rw, text); err != nil || !endless {
			return
		}
	}
}

// serveList starts it, and has the daemon trust it.
func (r *router) serveList(at string) *listServer {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(addrPort(at).Addr().String())}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		r.Fatal(err)
	}
	trusted := filepath.Join(r.dir, "ca.pem")
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		r.Fatal(err)
	}
	r.env = append(r.env, "SSL_CERT_FILE="+trusted)
	l := &listServer{}
	ln, err := r.Host("inet").Listen("tcp", at)
	if err != nil {
		r.Fatal(err)
	}
	server := &httptest.Server{Listener: ln, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, Config: &http.Server{Handler: l}}
	server.StartTLS()
	r.Cleanup(server.Close)
	return l
}

// A kill switch by a list of the Internet's: as long as it was never fetched the switch is open, and everybody is told. It is fetched by the
// spare while the default's uplink is dead, comes back after a flush, is there after restarts, and no other answer changes it.
func TestAKillSwitchByAListFromTheInternet(t *testing.T) {
	t.Parallel()
	const at = "192.0.2.1:8443"
	r := newRouter(t, lab.Options{}, dualWAN+`
[[set]]
name = "cn"
url = "https://`+at+`/cn.txt"
[[policy]]
name = "abroad"
to = "@cn"
uplinks = ["fiber"]
fallback = "unreachable"
`)
	server := r.serveList(at)
	const page = "<html><body>Log in</body></html>\n"
	server.answer("text/html", page, false)
	told := func(code, severity, words string) {
		t.Helper()
		r.await(code+" "+words, func() error {
			s := r.status()
			for _, p := range s.Problems {
				if p.Code == code && p.Severity == severity && strings.Contains(p.Message, words) {
					return nil
				}
			}
			return fmt.Errorf("%+v, %+v", s.Problems, s.Sets)
		})
	}
	r.ready()
	told("set-empty", "error", "a web page comes in the place of the list")
	told("set-empty", "error", "kill switches keep nothing in")
	cmd := r.program("status", "--check", "--socket", filepath.Join(r.dir, "s"))
	if out, _ := cmd.Output(); cmd.ProcessState.ExitCode() != 3 || !strings.Contains(string(out), "Problems: set-empty.") { // the code is looked at
		t.Errorf("status --check ends with %d: %s", cmd.ProcessState.ExitCode(), out)
	}
	findings, code := r.doctor()
	wantFinding(t, findings, "set-empty", "keep nothing in")
	if code != 1 {
		t.Errorf("doctor ends with %d", code)
	}
	if list := r.events(status.EventSet); !slices.ContainsFunc(list, func(e status.Event) bool { return strings.Contains(e.Message, "a web page") }) {
		t.Errorf("events: %+v", list)
	}
	r.expectBy("lan", selected4, "fiber")

	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.expectBy("lan", selected4, "lte") // which is what was told
	server.answer("text/plain", "# two\n192.0.2.2\n192.0.2.64/26\n2001:db8:ffff::2\n2001:db8:ffff:1::/64\n", false)
	r.awaitRefused("lan", selected4)
	r.awaitRefused("lan", selected6)
	r.awaitRefused("router", selected4)
	r.expectBy("lan", other4, "lte")
	server.mu.Lock()
	if last := server.from[len(server.from)-1]; r.UplinkOf(last) != "lte" {
		t.Errorf("it was fetched by %q", r.UplinkOf(last))
	}
	server.mu.Unlock()
	if s := r.status(); slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return strings.HasPrefix(p.Code, "set-") }) {
		t.Errorf("%+v", s.Problems)
	}

	content := func() string { return r.sh("router", "nft list table inet uplinkd_policy") }
	if !strings.Contains(content(), "192.0.2.64/26") {
		t.Fatalf("no set: %s", content())
	}
	for _, m := range regexp.MustCompile(`set (cn\.\S+) \{`).FindAllStringSubmatch(content(), -1) {
		r.sh("router", "nft flush set inet uplinkd_policy "+m[1])
	}
	began := time.Now()
	r.await("what was flushed", func() error {
		if got := content(); !strings.Contains(got, "192.0.2.64/26") || !strings.Contains(got, "2001:db8:ffff:1::/64") {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	t.Logf("what was flushed was back after %v", time.Since(began))
	leaks := r.watch("lte", selected4, selected6)
	cache := filepath.Join(r.dir, "state", "sets", "cn")
	for _, c := range []struct {
		kind, text string
		endless    bool
		words      string
	}{
		{"text/html", page, false, "a web page"},
		{"text/plain", page, false, "is no address"},
		{"text/plain", "", false, "there is no address in it"},
		{"text/plain", "# " + strings.Repeat("y", 1<<10) + "\n", true, "it has more than"},
	} {
		server.answer(c.kind, c.text, c.endless)
		r.kill()
		// For two days the machine was off.
		kept, err := os.ReadFile(cache)
		if err != nil {
			t.Fatal(err)
		}
		long := regexp.MustCompile(`"loaded":"[^"]+"`).ReplaceAll(kept, []byte(`"loaded":"`+time.Now().Add(-48*time.Hour).Format(time.RFC3339)+`"`))
		if bytes.Equal(long, kept) {
			t.Fatalf("no time in %.200s", kept)
		}
		if err := os.WriteFile(cache, long, 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		told("set-unread", "warning", c.words)
		for _, target := range []string{selected4, selected6} {
			if by, err := r.by("lan", target); err == nil {
				t.Errorf("%s: to %s by %q", c.words, target, by)
			}
		}
	}
	if n := leaks(); n != 0 {
		t.Errorf("%d packets leaked", n)
	}
}
