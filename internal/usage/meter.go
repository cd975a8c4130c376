package usage

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	sampleInterval = time.Second
	// flowsInterval is how often flows are counted. Their counters are read anew when the report is asked for and before they are made anew.
	flowsInterval = time.Minute
	// saveInterval is how often volumes are written: flash wears out, and a crash may cost that much of the count.
	saveInterval = 10 * time.Minute
	// docVolumes is the document of the state directory for the accounts.
	docVolumes = "volumes"
	// docAvailability is that of when uplinks were up.
	docAvailability = "availability"
)

// Options are what a Meter is made of. All are required.
type Options struct {
	Phase time.Time // samples are taken at whole seconds after it
	Log   *slog.Logger

	// Counters fills in the counters of every device, by interface index, and returns when they were read.
	Counters func(map[int]counters.Device) (time.Time, error)
	// Flows returns how many connections each uplink has had, by its name. What it returned first is what later ones are compared with.
	Flows func() (map[string]rules.Flows, error)
	// Devices returns the interface index of each uplink's device, by uplink name; 0 for one that is not there.
	Devices func() map[string]int
	// Verdicts returns those of all paths.
	Verdicts func() []status.PathVerdict
	// Wake asks for a pass of planning: OverQuota has changed.
	Wake func()
	// OnEvent takes what belongs into the decision log.
	OnEvent func(status.Event)
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
	// Outages keeps those that are over; nil: they are forgotten.
	Outages OutageLog
	// OnDamaged hears what of them could not be read at the start.
	OnDamaged func(error)
}

// OutageLog is a document that only grows. Its methods may be called by any goroutine.
type OutageLog interface {
	// Append writes values durably, or tries it again later.
	Append(values ...any)
	// Load passes on every value that was appended and is still there, the oldest first.
	Load(each func(json.RawMessage)) error
}

// Meter counts what uplinks carry. Make one with [New]; all methods may be called by any goroutine.
type Meter struct {
	o Options

	mu       sync.Mutex // guards what follows; no callback is called under it
	uplinks  []config.Uplink
	accounts accounts
	over     map[string]bool // by uplink name, above its quota; replaced, never changed in place
	history  history
	seen     availability
	common   map[rules.Family]bool // every uplink is silent; replaced, never changed in place

	flowsMu sync.Mutex             // from reading flows until they are counted
	flows   map[string]rules.Flows // as they were read last; nil: not yet
}

// New returns a Meter that counts nothing before Configure and Run.
func New(o Options) *Meter {
	return &Meter{o: o, accounts: make(accounts), over: make(map[string]bool), history: make(history), seen: newAvailability()}
}

// Documents returns the documents of the state directory, by name, to be filled before Configure.
func (m *Meter) Documents() map[string]any {
	return map[string]any{docVolumes: &m.accounts, docAvailability: &m.seen}
}

// Configure sets the uplinks of a configuration, which is not changed any more, and reviews their quotas.
func (m *Meter) Configure(c *config.Config) {
	m.mu.Lock()
	m.accounts.tidy()
	if m.uplinks == nil {
		m.seen.tidy()
	}
	m.uplinks = c.Uplinks
	m.mu.Unlock()
	m.reviewQuotas(time.Now())
}

// Run takes a sample of every path and device each second, and counts the bytes of metered uplinks, until the context
// ends.
func (m *Meter) Run(ctx context.Context) error {
	if err := m.resume(); err != nil {
		m.o.Log.Warn("damaged state", "err", err)
		m.o.OnDamaged(err)
	}
	s := sampler{before: make(map[int]counters.Device), now: make(map[int]counters.Device)}
	read := func() (rates map[string]sample, ok bool) {
		at, err := m.o.Counters(s.now)
		if err != nil {
			m.o.Log.Debug("cannot read byte counters", "err", err)
			return nil, false
		}
		return s.sample(at, m.o.Devices()), true
	}
	read() // what later readings are compared with
	m.countFlows()
	saved, flows := time.Now(), time.Now()
	schedule.Every(ctx, m.o.Phase, sampleInterval, func(now time.Time) {
		if now.Sub(flows) >= flowsInterval {
			flows = now
			m.countFlows()
		}
		if now.Sub(saved) >= saveInterval {
			saved = now
			m.save()
		}
		samples, ok := read()
		if !ok {
			return
		}
		verdicts := m.o.Verdicts()
		for _, v := range verdicts {
			samples[pathSeries(v.Uplink, v.Family)] = pathSample(&v.Verdict)
		}
		m.count(now, samples, s.delta)
		m.watch(now, verdicts, s.delta)
		m.reviewQuotas(now)
	})
	m.countFlows()
	m.save()
	return nil
}

// count adds the samples to the history and what metered uplinks have moved to their accounts.
func (m *Meter) count(now time.Time, samples map[string]sample, delta map[string]traffic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.uplinks {
		if u := &m.uplinks[i]; isCounted(u) {
			m.accounts.add(now, u.Name, delta[u.Name].received+delta[u.Name].sent)
		}
	}
	m.history.add(now, samples)
	m.history.retain(func(name string) bool { _, living := samples[name]; return living })
}

// reviewQuotas finds out which uplinks are above their quota, and reports those for which that has changed.
func (m *Meter) reviewQuotas(now time.Time) {
	m.mu.Lock()
	over, before := m.accounts.over(now, m.uplinks), m.over
	m.over = over
	var names []string
	var months []int64
	for i := range m.uplinks {
		if name := m.uplinks[i].Name; over[name] != before[name] {
			_, month := m.accounts.volume(now, name)
			names, months = append(names, name), append(months, month)
		}
	}
	m.mu.Unlock()
	if len(names) == 0 {
		return
	}
	m.o.Wake()
	for i, name := range names {
		message := "the monthly quota is used up: new traffic goes elsewhere, if another uplink works"
		if !over[name] {
			message = "is within its quota again: it may carry new traffic"
		}
		m.o.Log.Warn("quota", "uplink", name, "over", over[name], "bytes", months[i])
		m.o.OnEvent(status.Event{Kind: status.EventQuota, Uplink: name, Message: message, Reason: fmt.Sprintf("%d bytes this month", months[i])})
	}
	m.save()
}

// OverQuota returns the uplinks, by name, that have used up their month. It is not to be changed.
func (m *Meter) OverQuota() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over
}

// Save saves the volumes as they are now.
func (m *Meter) Save() { m.save() }

func (m *Meter) save() {
	m.o.Save(docVolumes, func() any {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.accounts.clone()
	})
	m.saveSeen()
}

// Volume returns what a metered uplink has carried today and this month, in bytes.
func (m *Meter) Volume(now time.Time, name string) (day, month int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accounts.volume(now, name)
}

// Usage returns what metered uplinks have carried.
func (m *Meter) Usage() status.Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out status.Usage
	for i := range m.uplinks {
		u := &m.uplinks[i]
		if !isCounted(u) {
			continue
		}
		usage := status.UplinkUsage{Name: u.Name, QuotaBytes: u.Quota, OverQuota: m.over[u.Name]}
		if a := m.accounts[u.Name]; a != nil {
			usage.Days, usage.Months = dated(a.Days), dated(a.Months)
		}
		out.Uplinks = append(out.Uplinks, usage)
	}
	return out
}

// isCounted reports whether the bytes of an uplink are kept.
func isCounted(u *config.Uplink) bool { return u.Metered || u.Quota > 0 }

// sampler turns counters into rates.
type sampler struct {
	before, now map[int]counters.Device // by interface index
	at          time.Time               // of before
	delta       map[string]traffic      // since then, by uplink name
}

// traffic is bytes in both directions.
type traffic struct{ received, sent uint64 }

// sample returns the rates since the last call, by uplink name.
func (s *sampler) sample(now time.Time, devices map[string]int) map[string]sample {
	samples := make(map[string]sample, 3*len(devices))
	s.delta = make(map[string]traffic, len(devices))
	elapsed := now.Sub(s.at).Seconds()
	for name, index := range devices {
		rates := noSample()
		is, known := s.now[index]
		was, knew := s.before[index]
		// Counters that went back are those of another device with the same index.
		if known && knew && elapsed > 0 && is.ReceivedBytes >= was.ReceivedBytes && is.SentBytes >= was.SentBytes {
			delta := traffic{is.ReceivedBytes - was.ReceivedBytes, is.SentBytes - was.SentBytes}
			s.delta[name] = delta
			rates.values[received] = float32(float64(delta.received) / elapsed)
			rates.values[sent] = float32(float64(delta.sent) / elapsed)
		}
		samples[name] = rates
	}
	s.before, s.now, s.at = s.now, s.before, now
	return samples
}
