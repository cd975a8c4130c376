package api

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// promtool runs Prometheus' own checker with the text on its standard input.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("the Debian package prometheus is needed: run make deps")
	}
	cmd := exec.Command(tool, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// scraped is what Prometheus gets of a daemon where everything has happened once.
func scraped(t *testing.T) string {
	t.Helper()
	m := NewMetrics("1.2.3", func() []status.PathVerdict {
		return []status.PathVerdict{{Uplink: "fiber", Family: rules.IPv4, Verdict: uplink.Verdict{State: uplink.Up, Loss: 0.1, Requests: 5, Replies: 4,
			Targets: []uplink.TargetStatus{{Target: "192.0.2.1", Up: true}}}}}
	})
	m.ObserveTransition(uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: uplink.Init, To: uplink.Up, Reason: uplink.Reason{Code: uplink.CodeAnswer, Text: "first answer"}})
	m.ObserveRTT("fiber", rules.IPv4, 11*time.Millisecond)
	m.ObserveFailover(time.Second)
	m.ObserveReconcile(time.Millisecond)
	s := newServer(newDaemon(), func(o *Options) { o.Metrics = m })
	w := ask(s.handler(false), "GET", "/metrics")
	wantCode(t, w, 200)
	return w.Body.String()
}

func TestMetricsAreCleanForPromtool(t *testing.T) { promtool(t, scraped(t), "check", "metrics") }

func TestMetricsHaveTheirNames(t *testing.T) {
	text := scraped(t)
	for _, name := range []string{"uplinkd_uplink_state{", "uplinkd_uplink_transitions_total{", "uplinkd_probe_requests_total{", "uplinkd_probe_replies_total{",
		"uplinkd_probe_rtt_seconds_bucket{", "uplinkd_uplink_loss_ratio{", "uplinkd_target_up{", "uplinkd_failover_duration_seconds_bucket{",
		"uplinkd_reconcile_duration_seconds_bucket{", "uplinkd_build_info{"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("there is no %s", name)
		}
	}
}

func TestTheAlertsAreCleanAndFireWhenTheyShould(t *testing.T) {
	fillIn := strings.NewReplacer("ALERTS", example(t, "alerts.yml"), "FLEET", example(t, "alerts-fleet.yml"))
	for tests, alerts := range map[string]string{"alerts_test.yml": "alerts.yml", "alerts-fleet_test.yml": "alerts-fleet.yml"} {
		promtool(t, "", "check", "rules", example(t, alerts))
		text, err := os.ReadFile(filepath.Join("testdata", tests))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "test.yml")
		if err := os.WriteFile(file, []byte(fillIn.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		promtool(t, "", "test", "rules", file)
		rulesText, err := os.ReadFile(example(t, alerts))
		if err != nil {
			t.Fatal(err)
		}
		knownNames(t, string(rulesText))
	}
}

// Prometheus reads the rules that the example of its configuration names.
func TestPrometheusTakesTheConfigurationOfAFleet(t *testing.T) {
	promtool(t, "", "check", "config", example(t, "prometheus-fleet.yml"))
}

// example is where an example stands.
func example(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTheGrafanaDashboardsAskForWhatThereIs has promtool parse every query of the dashboards.
func TestTheGrafanaDashboardsAskForWhatThereIs(t *testing.T) {
	for _, name := range []string{"grafana.json", "grafana-sites.json"} {
		t.Run(name, func(t *testing.T) { checkBoard(t, example(t, name)) })
	}
}

func checkBoard(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	queries := 0
	ids := make(map[int]bool)
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			queries++
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", "x", "$uplink", "x", "$site", "x").Replace(q.Expr)
			fmt.Fprintf(&b, "  - record: dashboard:query:%d\n    expr: %q\n", queries, expr)
		}
	}
	if queries < 8 {
		t.Errorf("there are %d queries", queries)
	}
	file := filepath.Join(t.TempDir(), "queries.yml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
	knownNames(t, string(text))
}

// knownNames fails for a metric of ours that is mentioned and does not exist.
func knownNames(t *testing.T, text string) {
	t.Helper()
	served := scraped(t)
	mentioned := regexp.MustCompile(`uplinkd_[a-z_]+`).FindAllString(text, -1)
	if len(mentioned) == 0 {
		t.Error("no metric is mentioned")
	}
	for _, name := range mentioned {
		if !strings.Contains(served, "\n"+name+"{") && !strings.Contains(served, "\n"+name+" ") {
			t.Errorf("%s does not exist", name)
		}
	}
}
