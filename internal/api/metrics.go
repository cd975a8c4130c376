package api

import (
	"cmp"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// scrapes is how many scrapes are answered at once.
const scrapes = 4

// Metrics are the daemon's numbers for Prometheus. All methods may be called by
// any goroutine.
type Metrics struct {
	version     string
	source      func() []status.PathVerdict
	started     time.Time
	scrapeSlots chan struct{} // one for each scrape that is answered

	mu          sync.Mutex
	transitions map[transition]uint64
	rtt         map[pathName]*histogram
	failover    *histogram
	reconcile   *histogram
	// reloadFailed is true while another configuration than that of the file is in force.
	reloadFailed bool
}

// transition is what changes of verdicts are counted by.
type transition struct {
	path             pathName
	from, to, reason string
}

type pathName struct{ uplink, family string }

func (a pathName) compare(b pathName) int {
	return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(a.uplink, b.uplink))
}

// The upper bounds of the histograms, in seconds.
var (
	rttBounds       = []float64{.001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .25, .5, 1}
	failoverBounds  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, .9, 1.2, 1.8, 3, 5, 10, 30}
	reconcileBounds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
)

// NewMetrics returns the metrics of a daemon of this version. At each scrape
// source is asked for the verdicts as they are; it is called by several
// goroutines, and must not be nil.
func NewMetrics(version string, source func() []status.PathVerdict) *Metrics {
	return &Metrics{
		version: version, source: source, started: time.Now(), scrapeSlots: make(chan struct{}, scrapes),
		transitions: make(map[transition]uint64), rtt: make(map[pathName]*histogram),
		failover: newHistogram(failoverBounds), reconcile: newHistogram(reconcileBounds),
	}
}

// ObserveTransition counts one change of a verdict.
func (m *Metrics) ObserveTransition(t uplink.Transition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.transitions[transition{pathName{t.Uplink, t.Family.String()}, string(t.From), string(t.To), codeClasses[t.Reason.Code]}]++
}

// ObserveRTT records the time of one answered probe.
func (m *Metrics) ObserveRTT(name string, family rules.Family, rtt time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path := pathName{name, family.String()}
	h := m.rtt[path]
	if h == nil {
		h = newHistogram(rttBounds)
		m.rtt[path] = h
	}
	h.observe(rtt)
}

// ObserveFailover records one switch: from the evidence against an uplink to new
// flows on another.
func (m *Metrics) ObserveFailover(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failover.observe(d)
}

// ObserveReload records whether the latest configuration file could be used.
func (m *Metrics) ObserveReload(successful bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reloadFailed = !successful
}

// ObserveReconcile records one pass over the kernel.
func (m *Metrics) ObserveReconcile(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reconcile.observe(d)
}

// RemoveUplink drops what is kept about an uplink that left the configuration.
func (m *Metrics) RemoveUplink(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t := range m.transitions {
		if t.path.uplink == name {
			delete(m.transitions, t)
		}
	}
	for path := range m.rtt {
		if path.uplink == name {
			delete(m.rtt, path)
		}
	}
}

// handler answers scrapes, a few at once, with what the status says at the time.
func (m *Metrics) handler(now func() status.Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		select {
		case m.scrapeSlots <- struct{}{}:
			defer func() { <-m.scrapeSlots }()
		default:
			writeError(w, http.StatusServiceUnavailable, fmt.Sprintf("%d scrapes are being answered, no more are served", scrapes))
			return
		}
		w.Header().Set("Content-Type", expositionType)
		// A client that is gone is no fault of ours; net/http closes the connection.
		st := now()
		_, _ = w.Write(m.expose(&st))
	}
}

// expose writes every metric.
func (m *Metrics) expose(st *status.Status) []byte {
	verdicts := m.verdicts() // asked for without the lock: the watchers may be observing
	var e exposition
	e.runtime()
	e.process(m.started)
	m.mu.Lock()
	defer m.mu.Unlock()
	e.family("uplinkd_build_info", "gauge", "Always 1; the labels say what is running.")
	e.sample("uplinkd_build_info", 1, "go", runtime.Version(), "version", m.version)
	e.family("uplinkd_config_last_reload_successful", "gauge", "1 while the configuration file is the one in force.")
	successful := 1.0
	if m.reloadFailed {
		successful = 0
	}
	e.sample("uplinkd_config_last_reload_successful", successful)
	e.status(st)
	e.family("uplinkd_failover_duration_seconds", "histogram", "Time from the evidence against an uplink to new flows on another.")
	e.histogram("uplinkd_failover_duration_seconds", m.failover)
	e.probes(verdicts)
	e.family("uplinkd_probe_rtt_seconds", "histogram", "Round-trip time of answered probes.")
	for _, path := range sortedKeys(m.rtt, pathName.compare) {
		e.histogram("uplinkd_probe_rtt_seconds", m.rtt[path], "family", path.family, "uplink", path.uplink)
	}
	e.family("uplinkd_reconcile_duration_seconds", "histogram", "Time of one pass: looking at the kernel, planning, applying, looking again.")
	e.histogram("uplinkd_reconcile_duration_seconds", m.reconcile)
	e.verdicts(verdicts)
	e.family("uplinkd_uplink_transitions_total", "counter", "Changes of the verdict, by the class of their reason.")
	for _, t := range sortedKeys(m.transitions, func(a, b transition) int {
		return cmp.Or(a.path.compare(b.path), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.reason, b.reason))
	}) {
		e.sample("uplinkd_uplink_transitions_total", float64(m.transitions[t]), "family", t.path.family, "from", t.from, "reason", t.reason, "to", t.to, "uplink", t.path.uplink)
	}
	return e.Bytes()
}

func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// verdicts are those of the source, each path once: one series twice would spoil the whole scrape.
func (m *Metrics) verdicts() []status.PathVerdict {
	seen := make(map[pathName]bool)
	list := slices.DeleteFunc(slices.Clone(m.source()), func(p status.PathVerdict) bool {
		path := pathName{p.Uplink, p.Family.String()}
		known := seen[path]
		seen[path] = true
		return known
	})
	slices.SortStableFunc(list, func(a, b status.PathVerdict) int {
		return pathName{a.Uplink, a.Family.String()}.compare(pathName{b.Uplink, b.Family.String()})
	})
	return list
}

// status writes what is known of uplinks besides verdicts, of policies, and what is wrong.
func (e *exposition) status(st *status.Status) {
	gauge := func(name, help string, each func(sample func(value float64, labels ...string))) {
		described := false
		each(func(value float64, labels ...string) {
			if !described {
				e.family(name, "gauge", help)
				described = true
			}
			e.sample(name, value, labels...)
		})
	}
	uplinks := slices.SortedFunc(slices.Values(st.Uplinks), func(a, b status.Uplink) int { return cmp.Compare(a.Name, b.Name) })
	prefixes := func(left func(status.Delegated) int64) func(func(float64, ...string)) {
		return func(sample func(float64, ...string)) {
			for i := range uplinks {
				for _, d := range uplinks[i].IPv6.Delegated {
					sample(float64(left(d)), "prefix", d.Prefix.String(), "uplink", uplinks[i].Name)
				}
			}
		}
	}
	gauge("uplinkd_delegated_prefix_preferred_seconds", "What is left of the preferred lifetime of a delegated prefix.", prefixes(func(d status.Delegated) int64 { return d.PreferredS }))
	gauge("uplinkd_delegated_prefix_valid_seconds", "What is left of the valid lifetime of a delegated prefix.", prefixes(func(d status.Delegated) int64 { return d.ValidS }))
	gauge("uplinkd_on_spare", "1 while all new traffic uses tiers behind one that has uplinks.", func(sample func(float64, ...string)) {
		for _, f := range rules.Families {
			sample(oneIf(st.OnSpare(f)), "family", f.String())
		}
	})
	gauge("uplinkd_policy_active", "1 while uplinks of a policy carry its traffic, 0 while its fallback has it.", func(sample func(float64, ...string)) {
		for _, p := range st.PolicyList() {
			if p.IPv4.Applies {
				sample(oneIf(len(p.IPv4.Shares) > 0), "family", rules.IPv4.String(), "policy", p.Name)
			}
			if p.IPv6.Applies {
				sample(oneIf(len(p.IPv6.Shares) > 0), "family", rules.IPv6.String(), "policy", p.Name)
			}
		}
	})
	gauge("uplinkd_problem", "How many problems of a code there are.", func(sample func(float64, ...string)) {
		type kind struct{ code, severity string }
		count := make(map[kind]int)
		for _, p := range st.Problems {
			count[kind{p.Code, p.Severity}]++
		}
		for _, k := range sortedKeys(count, func(a, b kind) int { return cmp.Or(cmp.Compare(a.code, b.code), cmp.Compare(a.severity, b.severity)) }) {
			sample(float64(count[k]), "code", k.code, "severity", k.severity)
		}
	})
	gauge("uplinkd_recover_runs", "How often a line that stayed dead was helped in the last 24 hours.", func(sample func(float64, ...string)) {
		for i := range uplinks {
			if r := uplinks[i].Recover; r != nil {
				sample(float64(r.RunsToday), "uplink", uplinks[i].Name)
			}
		}
	})
	gauge("uplinkd_set_entries", "Ranges of addresses in a set that comes from a file, a URL or the name service.", func(sample func(float64, ...string)) {
		for _, s := range st.Sets {
			if s.IPv4 != nil && s.IPv6 != nil {
				sample(float64(*s.IPv4), "family", rules.IPv4.String(), "set", s.Name)
				sample(float64(*s.IPv6), "family", rules.IPv6.String(), "set", s.Name)
			}
		}
	})
	gauge("uplinkd_set_failed", "1 while the source of a set cannot be used as it is.", func(sample func(float64, ...string)) {
		for _, s := range st.Sets {
			sample(oneIf(s.Error != ""), "set", s.Name)
		}
	})
	gauge("uplinkd_set_loaded_timestamp_seconds", "When the source of a set was read last and found good.", func(sample func(float64, ...string)) {
		for _, s := range st.Sets {
			if !s.Loaded.IsZero() {
				sample(float64(s.Loaded.Unix()), "set", s.Name)
			}
		}
	})
	gauge("uplinkd_uplink_drained", "1 while new flows leave the uplink because of drain.", func(sample func(float64, ...string)) {
		for i := range uplinks {
			sample(oneIf(uplinks[i].Drained), "uplink", uplinks[i].Name)
		}
	})
	gauge("uplinkd_uplink_full", "1 while the uplink carries more than the overflow of its tier, and new flows use others too.", func(sample func(float64, ...string)) {
		for i := range uplinks {
			if uplinks[i].Load != nil {
				sample(oneIf(uplinks[i].Full), "uplink", uplinks[i].Name)
			}
		}
	})
	gauge("uplinkd_uplink_load_ratio", "What the uplink carries of its bandwidth, over some seconds.", func(sample func(float64, ...string)) {
		for i := range uplinks {
			if load := uplinks[i].Load; load != nil {
				sample(*load, "uplink", uplinks[i].Name)
			}
		}
	})
	gauge("uplinkd_uplink_share", "Part of the new flows without a policy that the uplink carries, 0 to 1.", func(sample func(float64, ...string)) {
		for i := range uplinks {
			for _, f := range rules.Families {
				sample(uplinks[i].Family(f).Share, "family", f.String(), "uplink", uplinks[i].Name)
			}
		}
	})
}

// probes writes what the watchers count.
func (e *exposition) probes(list []status.PathVerdict) {
	e.family("uplinkd_probe_replies_total", "counter", "Probes answered, late ones included.")
	for _, p := range list {
		e.sample("uplinkd_probe_replies_total", float64(p.Verdict.Replies), "family", p.Family.String(), "uplink", p.Uplink)
	}
	e.family("uplinkd_probe_requests_total", "counter", "Probes begun.")
	for _, p := range list {
		e.sample("uplinkd_probe_requests_total", float64(p.Verdict.Requests), "family", p.Family.String(), "uplink", p.Uplink)
	}
}

// verdicts writes what the watchers judge. Targets and loss exist only where there is
// somebody to probe: any number for an uplink that nobody probes would be a claim.
func (e *exposition) verdicts(list []status.PathVerdict) {
	probed := slices.DeleteFunc(slices.Clone(list), func(p status.PathVerdict) bool { return p.Verdict.State == uplink.Disabled })
	e.family("uplinkd_target_up", "gauge", "1 when the target answered its latest probe.")
	for _, p := range probed {
		seen := make(map[string]bool, len(p.Verdict.Targets))
		for _, t := range p.Verdict.Targets {
			if !seen[t.Target] {
				seen[t.Target] = true
				e.sample("uplinkd_target_up", oneIf(t.Up), "family", p.Family.String(), "target", t.Target, "uplink", p.Uplink)
			}
		}
	}
	e.family("uplinkd_uplink_loss_ratio", "gauge", "Part of the last probes that was lost, 0 to 1.")
	for _, p := range probed {
		if len(p.Verdict.Targets) > 0 {
			e.sample("uplinkd_uplink_loss_ratio", p.Verdict.Loss, "family", p.Family.String(), "uplink", p.Uplink)
		}
	}
	states := slices.Sorted(slices.Values(uplink.States[:]))
	e.family("uplinkd_uplink_state", "gauge", "1 for the present verdict, 0 for the others.")
	for _, p := range list {
		for _, state := range states {
			e.sample("uplinkd_uplink_state", oneIf(p.Verdict.State == state), "family", p.Family.String(), "state", string(state), "uplink", p.Uplink)
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
