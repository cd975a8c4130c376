package api

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/uplink"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func sampleStatus() status.Status {
	return status.Status{
		Headline: "Online by fiber; lte drained. IPv6 by fiber.",
		Version:  "1.2.3", Started: status.At(noon.Add(-50 * time.Hour)), Converged: true, Generation: 7,
		Forwards: []status.Forward{
			{Name: "web", Protocols: []string{"tcp", "udp"}, Port: "443", ToPort: 8443, LAN: "br-lan", To4: netip.MustParseAddr("192.168.7.10"), To6: netip.MustParseAddr("fd12:3456:789a::10")},
			{Name: "game", Protocols: []string{"udp"}, Port: "27000-27010", LAN: "br-lan", To4: netip.MustParseAddr("192.168.7.20"), Uplinks: []string{"fiber"}},
			{Name: "later", Protocols: []string{"tcp"}, Port: "22", LAN: "br-lan"},
		},
		Uplinks: []status.Uplink{
			{
				Name: "fiber", Kind: "isp", Device: "eth1", Tier: 1, Weight: 3, Table: 11701, Mark: 0x01000000,
				Failback: "after-stable", ProbeBytesToday: 1234567,
				IPv4: status.FamilyStatus{
					State: uplink.Up, Code: uplink.CodeAnswer, Reason: "first answer", Since: status.At(noon.Add(-49*time.Hour - 250*time.Millisecond)),
					Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")},
					Gateway:   netip.MustParseAddr("198.51.100.1"), Share: 0.996, RTTms: 11.2, JitterMs: 0.8,
					Targets: []status.Target{{Target: "192.0.2.1", Up: true, RTTms: 11}},
				},
				IPv6: status.FamilyStatus{
					State: uplink.Degraded, Code: uplink.CodeLoss, Reason: "12 of the last 50 probes lost (24 %)", Since: status.At(noon.Add(-192 * time.Second)),
					Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::2/64"), netip.MustParsePrefix("2001:db8:a::3/64")},
					Gateway:   netip.MustParseAddr("fe80::1"), Share: 1, RTTms: 14.04, JitterMs: 2.25, Loss: 0.24,
					Targets:   []status.Target{{Target: "2001:db8:ff::1"}},
					Delegated: []status.Delegated{{Prefix: netip.MustParsePrefix("2001:db8:a000::/56"), PreferredS: 2700, ValidS: 5400}},
				},
			},
			{
				Name: "lte", Kind: "isp", Device: "wwan0", Tier: 2, Weight: 1, Table: 11702, Mark: 0x02000000,
				Drained: true, Metered: true, Failback: "manual", ProbeBytesToday: 45678,
				Recover: &status.Recovery{RunsToday: 2, MaxPerDay: 6, Last: status.At(noon.Add(-time.Hour)), Held: "operator"},
				IPv4:    status.FamilyStatus{State: uplink.Down, Code: uplink.CodeNoCarrier, Reason: "carrier lost", Since: status.At(noon.Add(-8 * time.Second)), Share: 0.004, AwaitsUndrain: true, Portal: true},
				IPv6:    status.FamilyStatus{State: uplink.Disabled, Code: uplink.CodeOff, Reason: "ipv6 is off by configuration"},
			},
		},
		DNS: status.DNS{
			Resolvers: []status.Resolver{
				{Uplink: "fiber", Address: "198.51.100.53", Source: "dhcp", Path: "good", State: "ok", Since: status.At(noon.Add(-time.Hour)), RTTms: 9.5, Used: true},
				{Uplink: "lte", Address: "fe80::53%wwan0", Source: "router", Path: "dead"},
			},
			Outputs: []status.DNSOutput{{Output: "resolv_conf", Told: status.At(noon)}, {Output: "unbound", Error: "unbound-control list_forwards: exit status 1"}},
		},
		Problems: []rules.Problem{
			{Code: "strict-rp-filter", Severity: "warning", Message: "reverse-path filtering is strict on all", Fix: "sysctl -w net.ipv4.conf.all.rp_filter=0"},
			{Code: "no-default", Severity: "error", Message: "no uplink is usable\nfor IPv4"},
		},
	}
}

// sampleExplanation explains any packet alike: by fiber, past a rule that is not for it.
func sampleExplanation(p explain.Packet) Explanation {
	egress := explain.Egress{Device: "eth1", Gateway: netip.MustParseAddr("198.51.100.1"), Table: 11700, Uplink: "fiber", Source: netip.MustParseAddr("198.51.100.2"), Weight: 3, MTU: 1492}
	e := explain.Explanation{Packet: p, Outcome: explain.Leaves, Reason: "leads to fiber", Egresses: []explain.Egress{egress},
		Steps: []explain.Step{
			{Kind: explain.StepRule, What: "pref 10010 from all fwmark 0x1000000/0x3f000000 lookup 11701 protocol 117", Why: "the mark is 0x0", Because: rules.Origin{Uplink: "fiber", Key: "name"}},
			{Kind: explain.StepRule, What: "pref 10900 from all lookup 11700 protocol 117", Counts: true, Why: "matches every packet", Because: rules.Origin{Key: "kernel.rule_priority"}},
			{Kind: explain.StepRoute, What: "default via 198.51.100.1 dev eth1 table 11700 proto 117", Counts: true, Why: "leads to fiber", Because: rules.Origin{Uplink: "fiber", Key: "tier"}},
		},
		Lookup: &explain.Lookup{Packet: p, Outcome: explain.Leaves, Egresses: []explain.Egress{egress}}}
	answer := explain.Answer{Device: "eth1", Gateway: egress.Gateway, Table: 11700, Source: egress.Source}
	return NewExplanation(&e, &answer, "/etc/uplinkd/uplinkd.toml", func(o rules.Origin) int { return len(o.Uplink) })
}

// sampleHistory is three steps of one uplink, the second of them without an answer.
func sampleHistory() status.History {
	none := float32(math.NaN())
	h := status.History{Range: "5m", StepS: 1, First: noon.Unix(), Samples: 3}
	u := status.UplinkHistory{Name: "fiber", Received: status.Numbers{0, 1234567.8, none}, Sent: status.Numbers{0.12345, 5, none}}
	u.IPv4.Append(11.23456, 0, "up")
	u.IPv4.Append(none, 0.5, "up")
	u.IPv4.Append(12, 0.25, "suspect")
	u.IPv6 = status.PathHistory{RTTms: status.Numbers{none, none, none}, Loss: status.Numbers{none, none, none}, States: status.List[status.Run]{{Steps: 3}}}
	h.Uplinks = status.List[status.UplinkHistory]{u}
	return h
}

// daemon is a Source with two uplinks.
type daemon struct {
	mu        sync.Mutex
	status    status.Status
	drained   map[string]status.Drain
	reloads   int
	wait      time.Duration // of the latest reload, until it is confirmed
	reloadErr error
	health    error
	yields    int
	yieldErr  error
}

var _ Source = (*daemon)(nil)

func newDaemon() *daemon {
	return &daemon{status: sampleStatus(), drained: make(map[string]status.Drain)}
}

func (d *daemon) Status() status.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

func (d *daemon) Drain(name string, how status.Drain) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch name {
	case "fiber", "lte":
		d.drained[name] = how
		return nil
	case "broken":
		return errors.New("the state directory is read-only")
	}
	return fmt.Errorf("%w %q", ErrUnknownUplink, name)
}

func (d *daemon) Reload(wait time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reloads++
	d.wait = wait
	return d.reloadErr
}

func (d *daemon) Yield() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.yields++
	return d.yieldErr
}

func (d *daemon) Confirm() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wait == 0 {
		return errors.New("no configuration is waiting to be confirmed")
	}
	d.wait = 0
	return nil
}

func (d *daemon) Explain(p explain.Packet, without string) (Explanation, error) {
	if without != "" && without != "fiber" {
		return Explanation{}, fmt.Errorf("%w %q", ErrUnknownUplink, without)
	}
	if p.Out == "nodev" {
		return Explanation{}, fmt.Errorf("%w: there is no device nodev", explain.ErrPacket)
	}
	e := sampleExplanation(p)
	e.Without = without
	return e, nil
}

func (d *daemon) History(name string, after time.Time) (status.History, bool) {
	if name != "" && name != "5m" && name != "1h" && name != "24h" {
		return status.History{}, false
	}
	h := sampleHistory()
	if !after.IsZero() {
		h.Uplinks, h.Samples = nil, 0
	}
	return h, true
}

func (d *daemon) Report(month string) (status.Report, bool) {
	if month != "" && month != "2026-11" {
		return status.Report{}, false
	}
	return sampleReport(), true
}

func sampleReport() status.Report {
	part, none := 0.99987, (*float64)(nil)
	return status.Report{Month: "2026-11", Months: []string{"2026-11", "2026-10"}, Until: status.At(noon), Uplinks: status.List[status.ReportedUplink]{
		{Name: "fiber", ReceivedBytes: 123_456_789_012, SentBytes: 4_000_000, FlowsOut: 81_234, FlowsIn: 12, Families: status.List[status.ReportedFamily]{
			{Family: "ipv4", Availability: &part, UpS: 1_600_000, DownS: 208, UnwatchedS: 4000, RTTp50ms: 11.2, RTTp95ms: 18, RTTp99ms: 44.5, Outages: status.List[status.Outage]{
				{Begin: status.At(noon.Add(-48 * time.Hour)), End: status.At(noon.Add(-48*time.Hour + 205*time.Second)), LengthS: 205.25, EndSeen: true, Code: "silence",
					Cause: "no answer to 9 probes <b>", Evidence: []string{"192.0.2.1: silent", "gateway 198.51.100.1: neighbour REACHABLE"}},
				{Begin: status.At(noon.Add(-2 * time.Hour)), End: status.At(noon.Add(-time.Hour)), LengthS: 3, Code: "no-carrier", Cause: "carrier lost"},
				{Begin: status.At(noon.Add(-time.Minute)), LengthS: 60, Code: "silence", Cause: "=cmd()", Common: true},
			}},
			{Family: "ipv6", Availability: none, UnwatchedS: 1_604_208},
		}},
		{Name: "lte"},
	}}
}

func (d *daemon) Usage() status.Usage {
	return status.Usage{Uplinks: status.List[status.UplinkUsage]{{Name: "lte", QuotaBytes: 20e9, OverQuota: true,
		Days: status.List[status.DatedBytes]{{Date: "2026-11-20", Bytes: 1_500_000}, {Date: "2026-11-19", Bytes: 12}}, Months: status.List[status.DatedBytes]{{Date: "2026-11", Bytes: 20_500_000_000}}}, {Name: "dsl"}}}
}

func (d *daemon) Healthy() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.health
}

func (d *daemon) set(change func(*daemon)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newServer(d *daemon, change ...func(*Options)) *Server {
	o := Options{Source: d, Meter: d, Events: NewEventLog(8, 1), Log: quiet()}
	for _, c := range change {
		c(&o)
	}
	return NewServer(o)
}

// ask answers one request without a network. The fields are lines of the header;
// Host is one of them.
func ask(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	return askWith(h, httptest.NewRequest(method, target, nil), header...)
}

func askWith(h http.Handler, r *http.Request, header ...string) *httptest.ResponseRecorder {
	r.Host = "localhost:9275"
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantCode(t *testing.T, w *httptest.ResponseRecorder, code int) {
	t.Helper()
	if w.Code != code {
		t.Fatalf("got %d %s, want %d", w.Code, w.Body, code)
	}
}

// wantError checks that the answer is an error and that its text has the words.
func wantError(t *testing.T, w *httptest.ResponseRecorder, code int, words string) {
	t.Helper()
	wantCode(t, w, code)
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("the error's content type is %q", got)
	}
	var f failure
	if err := jsonStrict(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("the error is no JSON of ours: %v", err)
	}
	if !strings.Contains(f.Error, words) {
		t.Errorf("the error is %q, want %q in it", f.Error, words)
	}
}

// socketPath returns a path that is short enough for a socket; those of
// t.TempDir have the test's name in them.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "u.sock")
}

// serve runs the server on a unix socket and a loopback port until the test, or
// stop, ends it.
func serve(t *testing.T, s *Server) (l *Listeners, socket string, stop func()) {
	t.Helper()
	socket = socketPath(t)
	l, err := Listen(t.Context(), socket, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return l, socket, stop
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
