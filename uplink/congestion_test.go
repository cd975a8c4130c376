package uplink

import (
	"testing"
	"time"
)

func TestCongestionIsWhatOurOwnTrafficMakes(t *testing.T) {
	const ms = time.Millisecond
	type span struct {
		seconds int
		mbit    float64
		rtt     time.Duration
	}
	for name, c := range map[string]struct {
		spans []span
		want  bool // at the end
	}{
		"an idle line":                        {[]span{{60, 0.01, 12 * ms}}, false},
		"a full line with a queue":            {[]span{{60, 0.01, 12 * ms}, {5, 9.5, 120 * ms}}, true},
		"for a moment only":                   {[]span{{60, 0.01, 12 * ms}, {1, 9.5, 120 * ms}}, false},
		"a full line without a queue":         {[]span{{60, 0.01, 12 * ms}, {60, 9.5, 16 * ms}}, false},
		"a slow provider":                     {[]span{{60, 0.01, 12 * ms}, {60, 0.05, 120 * ms}}, false},
		"a slow provider under light load":    {[]span{{60, 9.5, 12 * ms}, {60, 2, 120 * ms}}, false},
		"a queue that drains":                 {[]span{{60, 0.01, 12 * ms}, {30, 9.5, 120 * ms}, {10, 0.1, 12 * ms}}, false},
		"a pause of the download":             {[]span{{60, 0.01, 12 * ms}, {30, 9.5, 120 * ms}, {3, 0.1, 40 * ms}}, true},
		"a line that got slower long ago":     {[]span{{60, 9.5, 12 * ms}, {2400, 0.01, 12 * ms}, {20, 2, 300 * ms}}, true},
		"a route that got longer for good":    {[]span{{60, 9.5, 12 * ms}, {1500, 9.5, 80 * ms}}, false},
		"a satellite, of which 700 ms is all": {[]span{{60, 0.01, 700 * ms}, {30, 20, 900 * ms}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g Congestion
			now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
			for _, s := range c.spans {
				for range s.seconds {
					now = now.Add(time.Second)
					g.Load(s.mbit*1e6, now)
					g.Times(s.rtt, now)
				}
			}
			if g.Congested() != c.want || (g.Reason() != "") != c.want {
				t.Errorf("congested: %v (%q), want %v", g.Congested(), g.Reason(), c.want)
			}
		})
	}
}
