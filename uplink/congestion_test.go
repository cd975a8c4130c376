package uplink

import (
	"testing"
	"time"
)

func TestCongestionIsWhatOurOwnTrafficMakes(t *testing.T) {
	const ms = time.Millisecond
	type span struct {
		seconds int
		mbit    float64 // received
		rtt     time.Duration
		up      float64 // Mbit/s sent
	}
	for name, c := range map[string]struct {
		spans []span
		want  bool // at the end
	}{
		"an idle line":                                        {[]span{{60, 0.01, 12 * ms, 0}}, false},
		"a full line with a queue":                            {[]span{{60, 0.01, 12 * ms, 0}, {5, 9.5, 120 * ms, 0}}, true},
		"for a moment only":                                   {[]span{{60, 0.01, 12 * ms, 0}, {1, 9.5, 120 * ms, 0}}, false},
		"a full line without a queue":                         {[]span{{60, 0.01, 12 * ms, 0}, {60, 9.5, 16 * ms, 0}}, false},
		"a slow provider":                                     {[]span{{60, 0.01, 12 * ms, 0}, {60, 0.05, 120 * ms, 0}}, false},
		"a slow provider under light load":                    {[]span{{60, 9.5, 12 * ms, 0}, {60, 2, 120 * ms, 0}}, false},
		"a queue that drains":                                 {[]span{{60, 0.01, 12 * ms, 0}, {30, 9.5, 120 * ms, 0}, {10, 0.1, 12 * ms, 0}}, false},
		"a pause of the download":                             {[]span{{60, 0.01, 12 * ms, 0}, {30, 9.5, 120 * ms, 0}, {3, 0.1, 40 * ms, 0}}, true},
		"a line that got slower long ago":                     {[]span{{60, 9.5, 12 * ms, 0}, {2400, 0.01, 12 * ms, 0}, {20, 2, 300 * ms, 0}}, true},
		"a route that got longer for good":                    {[]span{{60, 9.5, 12 * ms, 0}, {9000, 9.5, 80 * ms, 0}}, false},
		"an upload of an hour":                                {[]span{{60, 0.01, 12 * ms, 0}, {3600, 0.1, 2000 * ms, 2}}, true},
		"an upload by a line that downloads 25 times as fast": {[]span{{60, 50, 20 * ms, 1}, {60, 0.01, 12 * ms, 0}, {5, 0.1, 2000 * ms, 2}}, true},
		"an upload that first fills the modem's queue":        {[]span{{60, 0.01, 12 * ms, 0}, {2, 0.1, 300 * ms, 20}, {60, 0.1, 2000 * ms, 2}}, true},
		"a satellite, of which 700 ms is all":                 {[]span{{60, 0.01, 700 * ms, 0}, {30, 20, 900 * ms, 0}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g Congestion
			now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
			for _, s := range c.spans {
				for range s.seconds {
					now = now.Add(time.Second)
					g.Load(Load{s.mbit * 1e6, s.up * 1e6}, now)
					g.Times(s.rtt, now)
				}
			}
			if g.Congested() != c.want || (g.Reason() != "") != c.want {
				t.Errorf("congested: %v (%q), want %v", g.Congested(), g.Reason(), c.want)
			}
		})
	}
}
