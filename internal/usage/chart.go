package usage

import (
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// pathSeries names the series of a path; that of a device has the name of its uplink.
func pathSeries(uplink string, family rules.Family) string { return uplink + "/" + family.String() }

// pathSample is what the charts show of a verdict.
func pathSample(v *uplink.Verdict) sample {
	s := noSample()
	s.state = uint8(1 + slices.Index(uplink.States[:], v.State))
	if v.RTT > 0 && v.State != uplink.Down {
		s.values[rtt] = float32(v.RTT.Seconds() * 1000)
	}
	if len(v.Targets) > 0 {
		s.values[loss] = float32(v.Loss)
	}
	return s
}

// History returns what was seen after a time, in the range of that name, "" for the shortest; false for an unknown one.
func (m *Meter) History(name string, after time.Time) (status.History, bool) {
	i := slices.IndexFunc(spans, func(s span) bool { return s.name == name })
	if name == "" {
		i = 0
	}
	if i < 0 {
		return status.History{}, false
	}
	s, now := spans[i], time.Now()
	out := status.History{Range: s.name, StepS: int(s.step.Seconds())}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.uplinks {
		u := status.UplinkHistory{Name: m.uplinks[n].Name, Received: status.Numbers{}, Sent: status.Numbers{}}
		first, samples := m.history.since(u.Name, s, after, now)
		out.First, out.Samples = first.Unix(), len(samples)
		for _, x := range samples {
			u.Received, u.Sent = append(u.Received, x.values[received]), append(u.Sent, x.values[sent])
		}
		for family, p := range map[rules.Family]*status.PathHistory{rules.IPv4: &u.IPv4, rules.IPv6: &u.IPv6} {
			p.RTTms, p.Loss = status.Numbers{}, status.Numbers{}
			_, samples := m.history.since(pathSeries(u.Name, family), s, after, now)
			for _, x := range samples {
				p.Append(x.values[rtt], x.values[loss], stateOf(x.state))
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
