package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/history"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// samplePace is how often the numbers of the charts are taken.
const samplePace = time.Second

// remember takes a sample of every path and device each second, and counts the bytes of metered uplinks.
func (d *Daemon) remember(ctx context.Context) error {
	sampler := sampler{before: make(map[int]counters.Device), now: make(map[int]counters.Device)}
	look := func() map[string]history.Sample {
		at, err := d.counters.Read(sampler.now)
		if err != nil {
			d.log.Debug("byte counters cannot be read", "err", err)
			return nil
		}
		return sampler.traffic(at, d.devicesByUplink())
	}
	look() // what later looks are compared with
	saved := time.Now()
	schedule.Every(ctx, d.started, samplePace, func(now time.Time) {
		if now.Sub(saved) >= volumePace {
			saved = now
			d.saveVolumes()
		}
		samples := look()
		if samples == nil {
			return
		}
		for _, v := range d.monitor.PathVerdicts() {
			samples[monitor.PathKey(v.Uplink, v.Family)] = pathSample(&v.Verdict)
		}
		d.countVolumes(now, sampler.moved)
		d.history.Add(now, samples)
		d.history.Keep(func(name string) bool { _, living := samples[name]; return living })
	})
	return nil
}

// devicesByUplink returns the interface index of each uplink's device, 0 for one that is not there.
func (d *Daemon) devicesByUplink() map[string]int {
	last := d.engine.Last()
	found := make(map[string]int, len(last.Config.Uplinks))
	for i := range last.Config.Uplinks {
		u := &last.Config.Uplinks[i]
		for _, family := range rules.Families {
			if f := last.Report.Facts[rules.Path{Uplink: u.ID, Family: family}]; f.Present {
				found[u.Name] = f.Index
			}
		}
		if _, ok := found[u.Name]; !ok {
			found[u.Name] = 0
		}
	}
	return found
}

// sampler turns counters into rates.
type sampler struct {
	before, now map[int]counters.Device // by interface index
	at          time.Time               // of before
	moved       map[string]traffic      // since then, by uplink name
}

// traffic is bytes in both directions.
type traffic struct{ received, sent uint64 }

// traffic returns the rates since the last call, by uplink name.
func (s *sampler) traffic(now time.Time, devices map[string]int) map[string]history.Sample {
	samples := make(map[string]history.Sample, 3*len(devices))
	s.moved = make(map[string]traffic, len(devices))
	elapsed := now.Sub(s.at).Seconds()
	for name, index := range devices {
		sample := history.NoSample()
		is, known := s.now[index]
		was, knew := s.before[index]
		// Counters that went back are those of another device with the same index.
		if known && knew && elapsed > 0 && is.ReceivedBytes >= was.ReceivedBytes && is.SentBytes >= was.SentBytes {
			moved := traffic{is.ReceivedBytes - was.ReceivedBytes, is.SentBytes - was.SentBytes}
			s.moved[name] = moved
			sample.Values[history.Received] = float32(float64(moved.received) / elapsed)
			sample.Values[history.Sent] = float32(float64(moved.sent) / elapsed)
		}
		samples[name] = sample
	}
	s.before, s.now, s.at = s.now, s.before, now
	return samples
}

// pathSample is what the charts show of a verdict.
func pathSample(v *uplink.Verdict) history.Sample {
	s := history.NoSample()
	s.State = uint8(1 + slices.Index(uplink.States[:], v.State))
	if v.RTT > 0 && v.State != uplink.Down {
		s.Values[history.RTT] = float32(v.RTT.Seconds() * 1000)
	}
	if len(v.Targets) > 0 {
		s.Values[history.Loss] = float32(v.Loss)
	}
	return s
}

// History returns what was seen after a time.
func (d *Daemon) History(name string, after time.Time) (status.History, bool) {
	ranges := history.Ranges()
	i := slices.IndexFunc(ranges, func(r history.Range) bool { return r.Name == name })
	if name == "" {
		i = 0
	}
	if i < 0 {
		return status.History{}, false
	}
	r, now := ranges[i], time.Now()
	out := status.History{Range: r.Name, StepS: int(r.Step.Seconds())}
	c := d.current()
	for n := range c.Uplinks {
		u := status.UplinkHistory{Name: c.Uplinks[n].Name, Received: status.Numbers{}, Sent: status.Numbers{}}
		first, samples := d.history.Since(u.Name, r, after, now)
		out.First, out.Samples = first.Unix(), len(samples)
		for _, s := range samples {
			u.Received, u.Sent = append(u.Received, s.Values[history.Received]), append(u.Sent, s.Values[history.Sent])
		}
		for family, p := range map[rules.Family]*status.PathHistory{rules.IPv4: &u.IPv4, rules.IPv6: &u.IPv6} {
			p.RTTms, p.Loss = status.Numbers{}, status.Numbers{}
			_, samples := d.history.Since(monitor.PathKey(u.Name, family), r, after, now)
			for _, s := range samples {
				p.Append(s.Values[history.RTT], s.Values[history.Loss], stateOf(s.State))
			}
		}
		out.Uplinks = append(out.Uplinks, u)
	}
	return out, true
}

func stateOf(n uint8) string {
	if n == 0 || int(n) > len(uplink.States) {
		return ""
	}
	return string(uplink.States[n-1])
}
