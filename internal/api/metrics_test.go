package api

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func verdicts() []status.PathVerdict {
	return []status.PathVerdict{
		{Uplink: "fiber", Family: rules.IPv4, Verdict: uplink.Verdict{
			State: uplink.Up, Loss: 0.25, Requests: 40, Replies: 30,
			Targets: []uplink.TargetStatus{{Target: "192.0.2.1", Up: true}, {Target: "192.0.2.2"}, {Target: "192.0.2.1"}},
		}},
		{Uplink: "fiber", Family: rules.IPv6, Verdict: uplink.Verdict{State: uplink.Disabled, Targets: []uplink.TargetStatus{{Target: "2001:db8::1"}}}},
		{Uplink: "fiber", Family: rules.IPv6, Verdict: uplink.Verdict{State: uplink.Up}}, // told twice
	}
}

func fullMetrics() *Metrics {
	m := NewMetrics("1.2.3", verdicts)
	for _, reason := range []uplink.Reason{{Code: uplink.CodeSilence, Text: "4 of 4 probes to 2 targets unanswered for 400 ms"}, {Code: uplink.CodeSilence, Text: "3 of 4 probes to 2 targets unanswered for 377 ms"}, uplink.ReasonCarrier} {
		m.ObserveTransition(uplink.Transition{Uplink: "fiber", Family: rules.IPv4, From: uplink.Up, To: uplink.Suspect, Reason: reason})
	}
	m.ObserveRTT("fiber", rules.IPv4, 12*time.Millisecond)
	m.ObserveFailover(800 * time.Millisecond)
	m.ObserveReconcile(3 * time.Millisecond)
	return m
}

func TestMetricsOfThePaths(t *testing.T) {
	want := `# HELP uplinkd_probe_replies_total Probes answered, late ones included.
# TYPE uplinkd_probe_replies_total counter
uplinkd_probe_replies_total{family="ipv4",uplink="fiber"} 30
uplinkd_probe_replies_total{family="ipv6",uplink="fiber"} 0
# HELP uplinkd_probe_requests_total Probes begun.
# TYPE uplinkd_probe_requests_total counter
uplinkd_probe_requests_total{family="ipv4",uplink="fiber"} 40
uplinkd_probe_requests_total{family="ipv6",uplink="fiber"} 0
# HELP uplinkd_target_up 1 when the target answered its latest probe.
# TYPE uplinkd_target_up gauge
uplinkd_target_up{family="ipv4",target="192.0.2.1",uplink="fiber"} 1
uplinkd_target_up{family="ipv4",target="192.0.2.2",uplink="fiber"} 0
# HELP uplinkd_uplink_loss_ratio Part of the last probes that was lost, 0 to 1.
# TYPE uplinkd_uplink_loss_ratio gauge
uplinkd_uplink_loss_ratio{family="ipv4",uplink="fiber"} 0.25
# HELP uplinkd_uplink_state 1 for the present verdict, 0 for the others.
# TYPE uplinkd_uplink_state gauge
uplinkd_uplink_state{family="ipv4",state="degraded",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="disabled",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="down",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="init",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="recovering",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="suspect",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv4",state="up",uplink="fiber"} 1
uplinkd_uplink_state{family="ipv6",state="degraded",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv6",state="disabled",uplink="fiber"} 1
uplinkd_uplink_state{family="ipv6",state="down",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv6",state="init",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv6",state="recovering",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv6",state="suspect",uplink="fiber"} 0
uplinkd_uplink_state{family="ipv6",state="up",uplink="fiber"} 0
`
	var e exposition
	m := fullMetrics()
	e.probes(m.verdicts())
	e.verdicts(m.verdicts())
	if diff := cmp.Diff(want, e.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetricsOfTheStatus(t *testing.T) {
	st := sampleStatus()
	st.Uplinks[0].Default, st.Uplinks[1].Default = true, true
	st.Policies = append(st.Policies, status.Policy{Name: "work", IPv4: status.PolicyFamily{Applies: true, Shares: map[string]float64{"lte": 1}}}.Raw())
	want := `# HELP uplinkd_delegated_prefix_preferred_seconds What is left of the preferred lifetime of a delegated prefix.
# TYPE uplinkd_delegated_prefix_preferred_seconds gauge
uplinkd_delegated_prefix_preferred_seconds{prefix="2001:db8:a000::/56",uplink="fiber"} 2700
# HELP uplinkd_delegated_prefix_valid_seconds What is left of the valid lifetime of a delegated prefix.
# TYPE uplinkd_delegated_prefix_valid_seconds gauge
uplinkd_delegated_prefix_valid_seconds{prefix="2001:db8:a000::/56",uplink="fiber"} 5400
# HELP uplinkd_on_spare 1 while all new traffic uses tiers behind one that has uplinks.
# TYPE uplinkd_on_spare gauge
uplinkd_on_spare{family="ipv4"} 0
uplinkd_on_spare{family="ipv6"} 0
# HELP uplinkd_policy_active 1 while uplinks of a policy carry its traffic, 0 while its fallback has it.
# TYPE uplinkd_policy_active gauge
uplinkd_policy_active{family="ipv4",policy="work"} 1
# HELP uplinkd_problem How many problems of a code there are.
# TYPE uplinkd_problem gauge
uplinkd_problem{code="no-default",severity="error"} 1
uplinkd_problem{code="strict-rp-filter",severity="warning"} 1
# HELP uplinkd_recover_runs How often a line that stayed dead was helped in the last 24 hours.
# TYPE uplinkd_recover_runs gauge
uplinkd_recover_runs{uplink="lte"} 2
# HELP uplinkd_uplink_drained 1 while new flows leave the uplink because of drain.
# TYPE uplinkd_uplink_drained gauge
uplinkd_uplink_drained{uplink="fiber"} 0
uplinkd_uplink_drained{uplink="lte"} 1
# HELP uplinkd_uplink_share Part of the new flows without a policy that the uplink carries, 0 to 1.
# TYPE uplinkd_uplink_share gauge
uplinkd_uplink_share{family="ipv4",uplink="fiber"} 0.996
uplinkd_uplink_share{family="ipv6",uplink="fiber"} 1
uplinkd_uplink_share{family="ipv4",uplink="lte"} 0.004
uplinkd_uplink_share{family="ipv6",uplink="lte"} 0
`
	var e exposition
	e.status(&st)
	if diff := cmp.Diff(want, e.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetricsKeepTheRulesOfPrometheus(t *testing.T) {
	families := parsed(t, fullMetrics().expose(new(status.Status)))
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// parsed reads metrics as Prometheus does, and fails for what it would refuse.
func parsed(t *testing.T, text []byte) []*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return slices.Collect(maps.Values(families))
}

// TestWhateverIsInALabelCanBeRead puts texts into labels and finds them again.
func TestWhateverIsInALabelCanBeRead(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.String().Draw(r, "name")
		value := rapid.Float64().Draw(r, "value")
		var e exposition
		e.family("x", "gauge", rapid.String().Draw(r, "help"))
		e.sample("x", value, "uplink", name)
		families := parsed(t, e.Bytes())
		got := families[0].GetMetric()[0]
		if want := strings.ToValidUTF8(name, "\uFFFD"); got.GetLabel()[0].GetValue() != want || got.GetGauge().GetValue() != value {
			r.Errorf("%q, %v became %q, %v", name, value, got.GetLabel()[0].GetValue(), got.GetGauge().GetValue())
		}
	})
}

func TestHistogramsCountUp(t *testing.T) {
	m := NewMetrics("1", verdicts)
	for _, d := range []time.Duration{time.Millisecond, time.Millisecond, 3 * time.Millisecond, time.Hour} {
		m.ObserveReconcile(d)
	}
	for _, f := range parsed(t, m.expose(new(status.Status))) {
		if f.GetName() != "uplinkd_reconcile_duration_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		var counts []uint64
		for _, b := range h.GetBucket() {
			counts = append(counts, b.GetCumulativeCount())
		}
		if want := []uint64{0, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4}; !slices.Equal(counts, want) || h.GetSampleCount() != 4 || h.GetSampleSum() != 3600.005 {
			t.Errorf("%v, %d, %v", counts, h.GetSampleCount(), h.GetSampleSum())
		}
		return
	}
	t.Error("it is not there")
}

func TestScrapesAreBounded(t *testing.T) {
	m := NewMetrics("1", verdicts)
	for range scrapes {
		m.scrapeSlots <- struct{}{}
	}
	wantError(t, ask(m.handler(sampleStatus), "GET", "/metrics"), 503, "no more are served")
	<-m.scrapeSlots
	wantCode(t, ask(m.handler(sampleStatus), "GET", "/metrics"), 200)
}

func TestMetricsAreServed(t *testing.T) {
	s := newServer(newDaemon(), func(o *Options) { o.Metrics = fullMetrics() })
	w := ask(s.handler(false), "GET", "/metrics")
	wantCode(t, w, 200)
	for _, line := range []string{
		`uplinkd_build_info{go="go1.`,
		`uplinkd_uplink_transitions_total{family="ipv4",from="up",reason="probes",to="suspect",uplink="fiber"} 2`,
		`uplinkd_uplink_transitions_total{family="ipv4",from="up",reason="carrier",to="suspect",uplink="fiber"} 1`,
		`uplinkd_probe_rtt_seconds_bucket{family="ipv4",uplink="fiber",le="0.02"} 1`,
		`uplinkd_failover_duration_seconds_bucket{le="0.9"} 1`,
		`uplinkd_reconcile_duration_seconds_sum 0.003`,
		`uplinkd_config_last_reload_successful 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(w.Body.String(), "\n"+line) {
			t.Errorf("there is no line %s", line)
		}
	}
	wantError(t, ask(s.handler(false), "POST", "/metrics"), 405, "POST")
}

func TestMetricsForgetAnUplink(t *testing.T) {
	m := fullMetrics()
	m.ObserveRTT("lte", rules.IPv4, time.Millisecond)
	m.RemoveUplink("fiber")
	w := ask(m.handler(sampleStatus), "GET", "/metrics")
	for _, name := range []string{"uplinkd_uplink_transitions_total{", "uplinkd_probe_rtt_seconds_count{"} {
		for line := range strings.Lines(w.Body.String()) {
			if strings.HasPrefix(line, name) && strings.Contains(line, `uplink="fiber"`) {
				t.Errorf("it is still there: %s", line)
			}
		}
	}
	if !strings.Contains(w.Body.String(), `uplinkd_probe_rtt_seconds_count{family="ipv4",uplink="lte"} 1`) {
		t.Error("the other uplink is forgotten too")
	}
}

func TestMetricsWhileTheyAreScraped(t *testing.T) {
	m := fullMetrics()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				m.ObserveRTT("fiber", rules.IPv6, time.Millisecond)
				m.expose(new(status.Status))
			}
		})
	}
	all.Wait()
	parsed(t, m.expose(new(status.Status)))
}
