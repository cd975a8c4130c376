package uplink

import (
	"testing"
	"time"
)

func TestOneWayTraffic(t *testing.T) {
	type sample struct{ rx, tx uint64 }
	for name, c := range map[string]struct {
		samples []sample // 100 ms apart
		rtt     time.Duration
		want    int // the sample that tells, -1 for none
	}{
		"traffic both ways":                  {[]sample{{1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}, {6, 6}}, 0, -1},
		"nothing at all":                     {[]sample{{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, 0, -1},
		"only receiving":                     {[]sample{{1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}}, 0, -1},
		"sent, and nothing came back":        {[]sample{{1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}}, 0, 3},
		"one packet, unanswered":             {[]sample{{1, 1}, {1, 2}, {1, 2}, {1, 2}, {1, 2}}, 0, 3},
		"an answer in time":                  {[]sample{{1, 1}, {1, 2}, {1, 3}, {2, 4}, {2, 5}, {3, 6}}, 0, -1},
		"a long way: later":                  {[]sample{{1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 6}}, 200 * time.Millisecond, 5},
		"neighbours ask each other":          {[]sample{{1, 1}, {2, 31}, {3, 61}, {4, 91}, {5, 121}}, 0, 3},
		"one of ten is answered":             {[]sample{{1, 1}, {4, 31}, {7, 61}, {10, 91}, {13, 121}}, 0, -1},
		"few answers to many, as of QUIC":    {[]sample{{1, 1}, {5, 1001}, {9, 2001}, {13, 3001}, {17, 4001}}, 0, -1},
		"one answer to little":               {[]sample{{1, 1}, {2, 4}, {3, 7}, {4, 10}, {5, 13}}, 0, -1},
		"the device is another one":          {[]sample{{90, 90}, {1, 100}, {2, 1}, {3, 2}, {4, 3}}, 0, -1},
		"counters before the first are none": {[]sample{{0, 9}, {0, 9}, {0, 9}, {0, 9}}, 0, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var s OneWayDetector
			told, patience := -1, func() time.Duration { return oneWaySpan + c.rtt }
			for i, x := range c.samples {
				at, due := epoch.Add(time.Duration(i)*100*time.Millisecond), s.Due(patience)
				if !s.Observe(at, x.rx, x.tx, patience) {
					continue
				}
				if due.IsZero() || due.After(at) || at.Sub(due) >= 100*time.Millisecond {
					t.Errorf("told at %v, and was due at %v", at, due)
				}
				if told < 0 {
					told = i
				}
			}
			if told != c.want {
				t.Errorf("told at sample %d, want %d", told, c.want)
			}
		})
	}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
