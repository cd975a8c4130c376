package usage

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// resume takes from the log, which is newer than the document when the daemon has died, which outages last.
func (m *Meter) resume() error {
	kept, err := m.kept()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range kept {
		lasts := m.seen.Open[o.Uplink][o.Family]
		switch {
		case !o.Outage.End.IsZero() && lasts != nil && lasts.ID == o.ID:
			delete(m.seen.Open[o.Uplink], o.Family)
		case o.Outage.End.IsZero() && (lasts == nil || lasts.ID < o.ID):
			if m.seen.Open[o.Uplink] == nil {
				m.seen.Open[o.Uplink] = make(map[string]*outageRecord)
			}
			o.resume()
			m.seen.Open[o.Uplink][o.Family] = &o
		}
	}
	return err
}

// past are the outages of the log that are over.
func (m *Meter) past() []outageRecord {
	kept, _ := m.kept() // what is damaged is left out, as was said at the start
	return slices.DeleteFunc(kept, func(o outageRecord) bool { return o.Outage.End.IsZero() })
}

// kept are the outages of the log, each as it was written last; with an error, those that could be read.
func (m *Meter) kept() (list []outageRecord, err error) {
	if m.o.Outages == nil {
		return nil, nil
	}
	err = m.o.Outages.Load(func(line json.RawMessage) {
		var o outageRecord
		if json.Unmarshal(line, &o) == nil && isFamily(o.Family) && o.Outage.LengthS >= 0 {
			// Two lines of one outage are near each other.
			for i := len(list) - 1; i >= 0 && i >= len(list)-2*mostUplinks; i-- {
				if list[i].ID == o.ID && list[i].Uplink == o.Uplink && list[i].Family == o.Family {
					list = slices.Delete(list, i, i+1)
					break
				}
			}
			list = append(list, o)
		}
	})
	return list, err
}

// watch counts a sample to the availability.
func (m *Meter) watch(now time.Time, verdicts []status.PathVerdict, moved map[string]traffic) {
	common := make(map[rules.Family]bool, len(rules.Families))
	for i := range verdicts {
		common[verdicts[i].Family] = common[verdicts[i].Family] || verdicts[i].Common
	}
	m.mu.Lock()
	over := m.seen.sample(now, now.Round(0), verdicts, moved)
	m.common = common
	m.mu.Unlock()
	m.log(over...)
}

// countFlows counts the flows since the last time. The first reading is what later ones are compared with.
func (m *Meter) countFlows() {
	m.flowsMu.Lock()
	defer m.flowsMu.Unlock()
	now, err := m.o.Flows()
	if err != nil {
		m.o.Log.Debug("cannot read flow counters", "err", err)
		return
	}
	since := make(map[string]rules.Flows, len(now))
	for name, n := range now {
		since[name] = rules.Flows{Out: n.Out - m.flows[name].Out, In: n.In - m.flows[name].In}
	}
	if m.flows != nil {
		m.mu.Lock()
		m.seen.flows(time.Now(), since)
		m.mu.Unlock()
	}
	m.flows = now
}

// Transition takes a changed verdict, with its evidence.
func (m *Meter) Transition(t uplink.Transition) {
	m.mu.Lock()
	var changed []outageRecord
	if o := m.seen.transition(&t, m.common[t.Family]); o != nil {
		changed = append(changed, *o)
	}
	m.mu.Unlock()
	m.log(changed...)
}

// ObserveRTT takes the time of an answered probe.
func (m *Meter) ObserveRTT(name string, family rules.Family, rtt time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.rtt(time.Now(), name, family, rtt)
}

// log appends what outages are now: when they begin, and when they are over. The document follows now and then, for flash wears out.
func (m *Meter) log(changed ...outageRecord) {
	if len(changed) == 0 || m.o.Outages == nil {
		return
	}
	values := make([]any, len(changed))
	for i := range changed {
		values[i] = changed[i]
	}
	m.o.Outages.Append(values...)
}

func (m *Meter) saveSeen() {
	m.o.Save(docAvailability, func() any {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.seen.saved(time.Now())
	})
}

// Report tells of a month, "" for the present one; false for what is no month.
func (m *Meter) Report(month string) (status.Report, bool) {
	m.countFlows()
	past, now := m.past(), time.Now()
	if month == "" {
		month = now.Format(monthForm)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.report(month, now, slices.Clone(past))
}
