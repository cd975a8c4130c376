package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// latency is the smoothed round-trip time of a line, in milliseconds: what is always there, an evening that is busier, a wandering part
// as cells and radio have, and noise.
type latency struct {
	base, evening, wander, noise float64
	drift, smoothed              float64
}

// at returns what the watcher would say a second after the last time.
func (l *latency) at(now time.Duration, rng *rand.Rand) time.Duration {
	hour := math.Mod(now.Hours(), 24)
	busy := l.evening * math.Exp(-(hour-21)*(hour-21)/4)
	l.drift += -l.drift/1800 + l.wander*rng.NormFloat64()/math.Sqrt(900)
	ms := l.base + busy*(0.5+rng.ExpFloat64()/2) + math.Abs(l.drift) + l.noise*rng.ExpFloat64()
	if l.smoothed == 0 {
		l.smoothed = ms
	}
	l.smoothed += (ms - l.smoothed) / 8
	return time.Duration(l.smoothed * float64(time.Millisecond))
}

// races are pairs of lines that share a tier by latency.
var races = []struct {
	name string
	of   [2]latency
}{
	{"fiber and LTE", [2]latency{{base: 11, noise: 2}, {base: 45, evening: 30, wander: 15, noise: 8}}},
	{"cable with busy evenings, and DSL", [2]latency{{base: 14, evening: 60, noise: 3}, {base: 30, noise: 2}}},
	{"two cells", [2]latency{{base: 45, evening: 30, wander: 20, noise: 10}, {base: 48, evening: 20, wander: 20, noise: 10}}},
	{"two lines of one provider", [2]latency{{base: 12, noise: 3}, {base: 12.5, noise: 3}}},
	{"two satellites", [2]latency{{base: 40, wander: 40, noise: 25}, {base: 40, wander: 40, noise: 25}}},
}

// moves are how often the choice changed.
type moves struct {
	all, mostInAnHour int
	gained            float64 // latency: the mean that was saved against the line that is first; overflow: bytes more
}

// race simulates a week.
func race(seed uint64, lines [2]latency) (m moves) {
	rng := rand.New(rand.NewPCG(seed, 7))
	var f uplink.Fastest
	var count hourly
	paths := [2]rules.Path{{Uplink: 1}, {Uplink: 2}}
	began := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	before, saved := rules.Path{}, 0.
	for s := time.Duration(0); s < week; s += time.Second {
		first, second := lines[0].at(s, rng), lines[1].at(s, rng)
		best, known := f.Observe(map[rules.Path]uplink.Contender{paths[0]: {RTT: first}, paths[1]: {RTT: second}}, began.Add(s))
		if known && best == paths[1] {
			saved += float64(first-second) / float64(time.Millisecond)
		}
		if best != before && before != (rules.Path{}) {
			count.add(s)
		}
		before = best
	}
	return moves{count.all, count.most, saved / week.Seconds()}
}

// hourly counts what happens in the hours of a run.
type hourly struct {
	all, most int
	recent    []time.Duration
}

func (h *hourly) add(at time.Duration) {
	h.all++
	h.recent = append(h.recent, at)
	for h.recent[0] <= at-time.Hour {
		h.recent = h.recent[1:]
	}
	h.most = max(h.most, len(h.recent))
}

// demands are what hosts ask for of a line of 100 Mbit/s, with another one of 50 Mbit/s in the next tier, in parts of the first.
var demands = []struct {
	name          string
	night, busy   float64
	downloadBytes float64 // mean of a flow
}{
	{"a household", 0.02, 0.6, 30e6},
	{"a dormitory", 0.2, 1.4, 15e6},
	{"always around the limit", 0.9, 0.95, 10e6},
	{"backups: few, long flows", 0.3, 0.9, 4e9},
}

// flowRate is the most that one flow takes, in bits a second.
const flowRate = 40e6

// overflows simulates a week of flows, with or without overflow to the second line, and returns also what was delivered in each hour, in bytes,
// and in which the first line was full.
func overflows(seed uint64, night, busy, size float64, limit float64) (m moves, delivered [7 * 24]float64, full [7 * 24]bool) {
	rng, side := rand.New(rand.NewPCG(seed, 9)), rand.New(rand.NewPCG(seed, 11)) // the same flows with and without
	var line uplink.Overflow
	var count hourly
	lines := [2]struct {
		rate  float64
		flows []float64 // bytes left
	}{{rate: 100e6}, {rate: 50e6}}
	began := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	for s := time.Duration(0); s < week; s += time.Second {
		hour := math.Mod(s.Hours(), 24)
		demand := night + (busy-night)*math.Exp(-(hour-20)*(hour-20)/18)
		for p := demand * 100e6 / 8 / size; p > 0; p-- {
			if rng.Float64() < p {
				to := 0
				if line.Full() && side.IntN(3) == 0 { // by weights of 2 and 1
					to = 1
				}
				lines[to].flows = append(lines[to].flows, size*rng.ExpFloat64())
			}
		}
		for i := range lines {
			l := &lines[i]
			if len(l.flows) > 300 { // people give up
				l.flows = l.flows[len(l.flows)-300:]
			}
			each := min(flowRate, l.rate/float64(max(len(l.flows), 1))) / 8
			moved, kept := 0., l.flows[:0]
			for _, left := range l.flows {
				moved += min(left, each)
				if left > each {
					kept = append(kept, left-each)
				}
			}
			l.flows = kept
			delivered[int(s.Hours())] += moved
			full[int(s.Hours())] = full[int(s.Hours())] || line.Full()
			if was := line.Full(); i == 0 {
				if line.Observe(8*moved/l.rate, limit, began.Add(s)); line.Full() != was {
					count.add(s)
				}
			}
		}
	}
	return moves{all: count.all, mostInAnHour: count.most}, delivered, full
}

// balance measures how often new flows move between lines, and what that brings.
func (r *report) balance(weeks int) {
	const mostByLatency, mostByLoad = 6, 20
	fmt.Fprint(r, "balance = latency, in a week\tmoves\tmost in an hour\tms saved\t\n")
	for _, x := range races {
		all := parallel(weeks, func(seed uint64) moves { return race(seed, x.of) })
		r.moves(x.name, all, mostByLatency, func(m moves) float64 { return m.gained })
	}
	fmt.Fprint(r, "overflow = 0.9, in a week\tmoves\tmost in an hour\t% more bytes in hours with overflow\t\n")
	for _, x := range demands {
		all := parallel(weeks, func(seed uint64) moves {
			m, with, full := overflows(seed, x.night, x.busy, x.downloadBytes, 0.9)
			_, without, _ := overflows(seed, x.night, x.busy, x.downloadBytes, 0)
			more, less := 0., 0.
			for hour := range full {
				if full[hour] {
					more, less = more+with[hour], less+without[hour]
				}
			}
			m.gained = 100 * (more/less - 1)
			return m
		})
		r.moves(x.name, all, mostByLoad, func(m moves) float64 { return m.gained })
	}
	fmt.Fprintln(r)
}

func (r *report) moves(name string, all []moves, most int, gained func(moves) float64) {
	sum, worst, gain := 0, 0, 0.
	for _, m := range all {
		sum, worst, gain = sum+m.all, max(worst, m.mostInAnHour), gain+gained(m)
	}
	n := float64(len(all))
	fmt.Fprintf(r, "%s\t%.1f\t%d\t%.1f\t\n", name, float64(sum)/n, worst, gain/n)
	r.bar(worst <= most, "%s: %d moves in an hour, at most %d", name, worst, most)
}
