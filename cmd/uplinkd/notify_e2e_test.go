package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// amend puts lines into the [daemon] section in the place of the one that turns hooks off.
func (r *router) amend(lines string) {
	r.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.Fatal(err)
	}
	changed := strings.Replace(string(text), "hooks = \"\"\n", lines, 1)
	if err := os.WriteFile(r.config, []byte(changed), 0o600); err != nil {
		r.Fatal(err)
	}
}

func TestProgramsAndAWebServiceAreToldOfAnOutage(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	dir, out := filepath.Join(r.dir, "hooks"), filepath.Join(r.dir, "told")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s %%s %%s %%s\\n' \"$UPLINKD_KIND\" \"$UPLINKD_UPLINK\" \"$UPLINKD_FAMILY\" \"$UPLINKD_TO\" >> %s\ncat > %s.json\n", out, out)
	if err := os.WriteFile(filepath.Join(dir, "10-note"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// A web service in the Internet that is overloaded at first.
	var mu sync.Mutex
	var posted []string
	tries := 0
	var listener net.Listener
	err := r.Host("inet").Do(func() (err error) { listener, err = net.Listen("tcp", "192.0.2.1:8088"); return err })
	if err != nil {
		t.Fatal(err)
	}
	service := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		posted = append(posted, string(body))
	})}
	go func() { _ = service.Serve(listener) }()
	t.Cleanup(func() { _ = service.Close() })
	r.amend(fmt.Sprintf("hooks = %q\nwebhook = \"http://192.0.2.1:8088/x\"\n", dir))
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.await("the program to be told", func() error {
		text, _ := os.ReadFile(out)
		for _, want := range []string{"start   \n", "verdict fiber ipv4 down\n", "switch  ipv6 lte"} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("it was told\n%s", text)
			}
		}
		return nil
	})
	r.await("the web service to be told", func() error {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(posted, "")
		if !strings.Contains(all, `"kind":"start"`) || !strings.Contains(all, `"to":"down"`) {
			return fmt.Errorf("it was told %d times: %s", len(posted), all)
		}
		return nil
	})
}

func TestAQuotaThatIsUsedUpDrainsItsUplinkOverRestarts(t *testing.T) {
	t.Parallel()
	metered := strings.Replace(dualWAN, "device = \"wan1\"\n", "device = \"wan1\"\nquota = \"1MB\"\n", 1)
	r := newRouter(t, lab.Options{}, metered)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	r.probe(probe)
	r.awaitFlow(probe, "fiber")
	conn, err := r.Host("router").Dial(t.Context(), "udp", "198.51.100.2:0", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	for range 1200 {
		if _, err := conn.Write(make([]byte, 1200)); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
	r.awaitFlow(probe, "lte")
	overQuota := func() error {
		u := r.status().Uplinks[0]
		if !u.OverQuota || u.BytesMonth < 1_000_000 || u.QuotaBytes != 1_000_000 || u.BytesToday == 0 {
			return fmt.Errorf("%+v", u)
		}
		return nil
	}
	r.await("the status to say so", overQuota)
	reported := false
	for _, e := range r.decisions() {
		reported = reported || e.Kind == "quota" && e.Uplink == "fiber"
	}
	if !reported {
		t.Error("the decision log does not tell of it")
	}
	if out := r.command("usage", "--socket", filepath.Join(r.dir, "s")); !strings.Contains(out, "fiber, quota 1.0 MB a month, used up\n") {
		t.Errorf("usage says\n%s", out)
	}
	r.stop()
	r.start()
	r.await("the restarted daemon to know", overQuota)
	r.awaitFlow(probe, "lte")
	// It is used nevertheless where nothing else is left.
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(probe, "fiber")
}

// TestTheStatusOf62UplinksIsThere makes as many uplinks as there may be, none of which answers.
func TestTheStatusOf62UplinksIsThere(t *testing.T) {
	t.Parallel()
	r := many(t)
	if n := len(r.status().Uplinks); n != 62 {
		t.Errorf("%d uplinks", n)
	}
	out := r.command("status", "--socket", filepath.Join(r.dir, "s"))
	if n := strings.Count(out, "\n"); n < 2*62 {
		t.Errorf("status has %d lines", n)
	}
}

// many is a router with 62 uplinks on devices that lead nowhere. They are probed slowly: hundreds of probes a second
// would be more than a busy machine can do.
func many(t testing.TB) *router {
	t.Helper()
	devices, config := deadUplinks(62)
	r := newRouter(t, lab.Options{}, config)
	r.sh("router", devices)
	r.launch()
	r.await("the daemon to answer", func() error {
		s, err := r.client.Status(t.Context())
		if err == nil && s.Generation == 0 {
			err = errors.New("no plan yet")
		}
		return err
	})
	return r
}

// deadUplinks returns commands that make so many devices, and the uplinks of them in a configuration.
func deadUplinks(n int) (devices, config string) {
	var d, c strings.Builder
	for i := range n {
		fmt.Fprintf(&d, "ip link add up%[1]d type veth peer name nowhere%[1]d\nip link set up%[1]d up\nip link set nowhere%[1]d up\nip address add 10.77.%[1]d.2/24 dev up%[1]d\nip route add default via 10.77.%[1]d.1 dev up%[1]d metric %[2]d\n", i, 1000+i)
		fmt.Fprintf(&c, "[[uplink]]\nname = \"u%[1]d\"\ndevice = \"up%[1]d\"\ntier = 3\n  [uplink.probe]\n  interval = \"10s\"\n  fast_interval = \"2s\"\n  targets = [\"192.0.2.1\", \"2001:db8:ffff::1\"]\n", i)
	}
	return d.String(), c.String()
}

// BenchmarkStatusOf62Uplinks measures the command from its start to its end; the bar is 50 ms.
func BenchmarkStatusOf62Uplinks(b *testing.B) {
	r := many(b)
	b.ResetTimer()
	var worst time.Duration
	for range b.N {
		for range 20 {
			start := time.Now()
			r.command("status", "--socket", filepath.Join(r.dir, "s"))
			worst = max(worst, time.Since(start))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(20*b.N), "ms/status")
	b.ReportMetric(float64(worst.Milliseconds()), "ms-worst")
}
