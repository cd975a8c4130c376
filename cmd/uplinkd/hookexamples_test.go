package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// shipped puts a hook of the examples into the daemon's directory, with some of its lines written anew.
func (r *router) shipped(name string, lines map[string]string) {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(examples, "hooks", name))
	if err != nil {
		r.Fatal(err)
	}
	script := string(text)
	for line, instead := range lines {
		if strings.Count(script, "\n"+line+"\n") != 1 {
			r.Fatalf("%s has no line %q", name, line)
		}
		script = strings.Replace(script, line, instead, 1)
	}
	dir := filepath.Join(r.dir, "hooks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		r.Fatal(err)
	}
	r.amend(fmt.Sprintf("hooks = %q\n", dir))
}

// TestDynamicDNSFollowsSwitches has ddclient itself tell a service of the Internet that speaks its protocol.
func TestDynamicDNSFollowsSwitches(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	var mu sync.Mutex
	var told []string
	var listener net.Listener
	if err := r.Host("inet").Do(func() (err error) { listener, err = net.Listen("tcp", "192.0.2.1:8088"); return err }); err != nil {
		t.Fatal(err)
	}
	service := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		user, password, _ := q.BasicAuth()
		from, _, _ := net.SplitHostPort(q.RemoteAddr)
		told = append(told, fmt.Sprintf("%s %s %s:%s from %s", q.URL.Query().Get("hostname"), q.URL.Query().Get("myip"), user, password, from))
		_, _ = io.WriteString(w, "good "+q.URL.Query().Get("myip")+"\n")
	})}
	go func() { _ = service.Serve(listener) }()
	t.Cleanup(func() { _ = service.Close() })
	dir := filepath.Join(r.dir, "ddclient")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for uplink, device := range map[string]string{"fiber": "wan1", "lte": "wan2"} {
		text := fmt.Sprintf("ssl=no\nprotocol=dyndns2\nserver=192.0.2.1:8088\nlogin=me\npassword=secret\nuse=if, if=%s\nrouter.example.net\n", device)
		if err := os.WriteFile(filepath.Join(dir, uplink+".conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.shipped("ddclient", map[string]string{"dir=/etc/ddclient": "dir=" + dir, "cache=/run/uplinkd/ddclient.cache": "cache=" + filepath.Join(r.dir, "ddclient.cache")})
	of := func(uplink string) string {
		address := r.Uplink(uplink).Address4.Addr()
		return fmt.Sprintf("router.example.net %v me:secret from %v", address, address)
	}
	tells := func(want ...string) {
		t.Helper()
		r.await(fmt.Sprintf("the service to be told %q", want), func() error {
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(slices.Compact(slices.Clone(told)), want) {
				return fmt.Errorf("%q", told)
			}
			return nil
		})
	}
	r.up()
	tells(of("fiber"))
	if err := r.Break(lab.Upstream, "fiber"); err != nil {
		t.Fatal(err)
	}
	tells(of("fiber"), of("lte"))
	if err := r.HealOne("fiber"); err != nil {
		t.Fatal(err)
	}
	tells(of("fiber"), of("lte"), of("fiber"))
	mu.Lock()
	defer mu.Unlock()
	if len(told) > 5 { // once for each switch, or twice where the way there was suspect
		t.Errorf("it was told %q", told)
	}
}

// TestPortMappingsFollowSwitches has miniupnpd itself serve the uplink that carries new traffic. It refuses to map ports at addresses of
// the documentation, and says by which interface and address it would.
func TestPortMappingsFollowSwitches(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	path := func(name string) string { return filepath.Join(r.dir, name) }
	for name, text := range map[string]string{
		"owner.conf": "ext_ifname=none0\nlistening_ip=lan0\nhttp_port=0\nenable_upnp=yes\nsecure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\n",
		"restart":    fmt.Sprintf("#!/bin/sh\n[ ! -e %[1]s ] || { kill \"$(cat %[1]s)\" && while [ -e %[1]s ]; do sleep 0.1; done; }\nsetsid miniupnpd -d -f %[2]s -P %[1]s >> %[3]s 2>&1 &\n", path("upnp.pid"), path("upnp.conf"), path("upnp.log")),
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if pid, err := os.ReadFile(path("upnp.pid")); err == nil {
			r.sh("router", "kill "+strings.TrimSpace(string(pid)))
		}
	})
	r.shipped("miniupnpd", map[string]string{`devices="fiber=eth1 lte=wwan0"`: `devices="fiber=wan1 lte=wan2"`, "from=/etc/miniupnpd/miniupnpd.conf": "from=" + path("owner.conf"),
		"to=/run/uplinkd/miniupnpd.conf": "to=" + path("upnp.conf"), `restart="systemctl restart miniupnpd.service"`: "restart=" + path("restart")})
	serves := func(want ...string) {
		t.Helper()
		r.await(fmt.Sprintf("miniupnpd to serve %q", want), func() error {
			log, _ := os.ReadFile(path("upnp.log"))
			var got []string
			for line := range strings.Lines(string(log)) {
				if _, rest, found := strings.Cut(line, "private IP address "); found {
					got = append(got, strings.Fields(rest)[0])
				}
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%q\n%s", got, log)
			}
			return nil
		})
	}
	fiber, lte := r.Uplink("fiber").Address4.Addr().String(), r.Uplink("lte").Address4.Addr().String()
	r.up()
	serves(fiber)
	if err := r.Break(lab.Upstream, "fiber"); err != nil {
		t.Fatal(err)
	}
	serves(fiber, lte)
	r.awaitState("fiber", "down")
	serves(fiber, lte) // switches that change nothing start nothing anew
	if err := r.HealOne("fiber"); err != nil {
		t.Fatal(err)
	}
	serves(fiber, lte, fiber)
}
