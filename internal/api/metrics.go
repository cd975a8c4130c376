package api

import (
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// PathVerdict is the verdict on one uplink in one family.
type PathVerdict struct {
	Uplink  string
	Family  rules.Family
	Verdict uplink.Verdict
}

// scrapes is how many scrapes are answered at once.
const scrapes = 4

// Metrics are the daemon's numbers for Prometheus. All methods may be called by
// any goroutine.
type Metrics struct {
	registry    *prometheus.Registry
	transitions *prometheus.CounterVec
	rtt         *prometheus.HistogramVec
	failover    prometheus.Histogram
	reconcile   prometheus.Histogram
}

// NewMetrics returns the metrics of a daemon of this version. At each scrape
// source is asked for the verdicts as they are; it is called by several
// goroutines, and must not be nil.
func NewMetrics(version string, source func() []PathVerdict) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "uplinkd_uplink_transitions_total",
			Help: "Changes of the verdict, by the class of their reason.",
		}, []string{"uplink", "family", "from", "to", "reason"}),
		rtt: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "uplinkd_probe_rtt_seconds",
			Help:    "Round-trip time of answered probes.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .25, .5, 1},
		}, []string{"uplink", "family"}),
		failover: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "uplinkd_failover_duration_seconds",
			Help:    "Time from the evidence against an uplink to new flows on another.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, .9, 1.2, 1.8, 3, 5, 10, 30},
		}),
		reconcile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "uplinkd_reconcile_duration_seconds",
			Help:    "Time of one pass: looking at the kernel, planning, applying, looking again.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "uplinkd_build_info",
		Help:        "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	// A name taken twice is a mistake in this file, which every test would show.
	m.registry.MustRegister(
		build, m.transitions, m.rtt, m.failover, m.reconcile, newVerdictCollector(source),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// ObserveTransition counts one change of a verdict.
func (m *Metrics) ObserveTransition(t uplink.Transition) {
	m.transitions.WithLabelValues(t.Uplink, t.Family.String(), string(t.From), string(t.To), reasonClass(t.Reason)).Inc()
}

// ObserveRTT records the time of one answered probe.
func (m *Metrics) ObserveRTT(name string, family rules.Family, rtt time.Duration) {
	m.rtt.WithLabelValues(name, family.String()).Observe(rtt.Seconds())
}

// ObserveFailover records one switch: from the evidence against an uplink to new
// flows on another.
func (m *Metrics) ObserveFailover(d time.Duration) { m.failover.Observe(d.Seconds()) }

// ObserveReconcile records one pass over the kernel.
func (m *Metrics) ObserveReconcile(d time.Duration) { m.reconcile.Observe(d.Seconds()) }

// Forget drops what is kept about an uplink that left the configuration.
func (m *Metrics) Forget(name string) {
	labels := prometheus.Labels{"uplink": name}
	m.transitions.DeletePartialMatch(labels)
	m.rtt.DeletePartialMatch(labels)
}

// handler answers scrapes. What cannot be collected is left out and logged.
func (m *Metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapes,
	})
}

// verdictCollector reads the watchers when it is scraped; they count already.
type verdictCollector struct {
	source func() []PathVerdict

	state, requests, replies, loss, target *prometheus.Desc
}

var _ prometheus.Collector = (*verdictCollector)(nil)

func newVerdictCollector(source func() []PathVerdict) *verdictCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("uplinkd_"+name, help, append([]string{"uplink", "family"}, labels...), nil)
	}
	return &verdictCollector{
		source:   source,
		state:    desc("uplink_state", "1 for the present verdict, 0 for the others.", "state"),
		requests: desc("probe_requests_total", "Probes begun."),
		replies:  desc("probe_replies_total", "Probes answered, late ones included."),
		loss:     desc("uplink_loss_ratio", "Part of the last probes that was lost, 0 to 1."),
		target:   desc("target_up", "1 when the target answered its latest probe.", "target"),
	}
}

// Describe implements [prometheus.Collector].
func (c *verdictCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.state, c.requests, c.replies, c.loss, c.target} {
		descs <- d
	}
}

// Collect implements [prometheus.Collector]. Loss exists only where there are
// targets: 0 for an uplink that nobody probes would be a claim.
func (c *verdictCollector) Collect(metrics chan<- prometheus.Metric) {
	type path struct {
		uplink string
		family rules.Family
	}
	seen := make(map[path]bool) // one series twice would spoil the whole scrape
	for _, p := range c.source() {
		if seen[path{p.Uplink, p.Family}] {
			continue
		}
		seen[path{p.Uplink, p.Family}] = true
		c.collect(p, func(d *prometheus.Desc, kind prometheus.ValueType, value float64, more ...string) {
			labels := append([]string{p.Uplink, p.Family.String()}, more...)
			metric, err := prometheus.NewConstMetric(d, kind, value, labels...)
			if err != nil {
				metric = prometheus.NewInvalidMetric(d, err)
			}
			metrics <- metric
		})
	}
}

type emit func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string)

func (c *verdictCollector) collect(p PathVerdict, emit emit) {
	v := p.Verdict
	for _, state := range uplink.States {
		emit(c.state, prometheus.GaugeValue, oneIf(v.State == state), string(state))
	}
	emit(c.requests, prometheus.CounterValue, float64(v.Requests))
	emit(c.replies, prometheus.CounterValue, float64(v.Replies))
	if len(v.Targets) == 0 {
		return
	}
	emit(c.loss, prometheus.GaugeValue, v.Loss)
	seen := make(map[string]bool, len(v.Targets))
	for _, t := range v.Targets {
		if !seen[t.Target] {
			seen[t.Target] = true
			emit(c.target, prometheus.GaugeValue, oneIf(t.Up), t.Target)
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
