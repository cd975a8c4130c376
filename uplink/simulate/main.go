package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

func main() {
	os.Exit(simulate(os.Args[1:], os.Stdout, os.Stderr))
}

// size says how much is simulated.
type size struct {
	trials, weeks, hours, uploads int
}

func simulate(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	flags.SetOutput(errs)
	var n size
	flags.IntVar(&n.trials, "trials", 3000, "runs for each fault")
	flags.IntVar(&n.weeks, "weeks", 4, "runs of a week for each kind of loss")
	flags.IntVar(&n.hours, "hours", 168, "runs of an hour for moves and flapping")
	flags.IntVar(&n.uploads, "uploads", 200, "runs for each upload that fills a queue")
	year := flags.Bool("year", false, "watch each kind of loss for a year, and nothing else")
	asJSON := flags.Bool("json", false, "print how fast the shipped defaults find faults, and nothing else")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *asJSON {
		if err := json.NewEncoder(out).Encode(detections(n.trials)); err != nil {
			fmt.Fprintln(errs, err)
			return 1
		}
		return 0
	}
	r := newReport(out)
	if *year {
		r.year(52, week)
	} else {
		r.all(n)
	}
	r.Flush()
	for _, m := range r.missed {
		fmt.Fprintln(errs, "missed:", m)
	}
	if len(r.missed) > 0 {
		return 1
	}
	return 0
}

// detection is how fast a fault is found, for a comparison with measurements.
type detection struct {
	Fault  string  `json:"fault"`
	Signal string  `json:"signal"` // the verdict that counts: "suspect" where nothing comes back, else "degraded"
	P50ms  float64 `json:"p50_ms"`
	P99ms  float64 `json:"p99_ms"`
}

// detections are those of the shipped defaults on an idle line.
func detections(trials int) []detection {
	var list []detection
	for _, f := range faults {
		all := parallel(trials, func(seed uint64) found { return find(settings{}, seed, f.do) })
		d := detection{Fault: f.name, Signal: "degraded"}
		ts := times(all, func(f found) time.Duration { return f.bad })
		if f.total {
			d.Signal, ts = "suspect", times(all, func(f found) time.Duration { return f.suspect })
		}
		d.P50ms, d.P99ms = float64(ts.p(50).at)/float64(ms), float64(ts.p(99).at)/float64(ms)
		list = append(list, d)
	}
	return list
}

// report prints tables and collects which bars were missed.
type report struct {
	*tabwriter.Writer
	missed []string
}

func newReport(out io.Writer) *report {
	return &report{Writer: tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)}
}

func (r *report) all(n size) {
	defaults := settings{name: "defaults"}
	quick := settings{name: "interval 250 ms", interval: 250 * ms}
	busy := settings{name: "defaults, with traffic", traffic: true}
	for _, s := range []settings{defaults, busy, quick} {
		r.detection(s, n.trials)
	}
	r.falseVerdicts(defaults, n.weeks, week)
	r.falseVerdicts(busy, n.weeks, day) // which takes twenty times as long
	r.falseVerdicts(quick, n.weeks, week)
	for _, s := range []settings{defaults, quick} {
		r.steadyLoss(s, n.hours)
	}
	r.fullLines(n.uploads)
	r.balance(n.weeks)
}

// fullLines measures how links are judged that an upload fills, and how fast it is found that nothing comes through
// such a link any more.
func (r *report) fullLines(runs int) {
	fmt.Fprint(r, "a full line: in three minutes\tsuspect\tdown\tdegraded\tcongested\tprobes a second\tblackhole: suspect p50\tp99\tdown p50\tp99\t\n")
	for _, u := range uploads {
		most, leastCongested := 1500*ms, 0.99
		if u.collapses { // and is not full meanwhile
			most, leastCongested = 2000*ms, 0.75
		}
		var all filled
		for _, f := range parallel(runs, func(seed uint64) filled { return fill(seed, u) }) {
			all.add(f.tally)
			all.congested, all.looks = all.congested+f.congested, all.looks+f.looks
		}
		holes := parallel(runs, func(seed uint64) found { return findInFull(seed, u) })
		suspect := times(holes, func(f found) time.Duration { return f.suspect })
		down := times(holes, func(f found) time.Duration { return f.down })
		congested := float64(all.congested) / float64(max(all.looks, 1))
		fmt.Fprintf(r, "%s\t%.3f\t%.3f\t%.3f\t%.0f %%\t%.2f\t%v\t%v\t%v\t%v\t\n", u.name, float64(all.suspects)/float64(runs), float64(all.downs)/float64(runs),
			float64(all.degradations)/float64(runs), 100*congested, float64(all.probes)/float64(runs)/(settled+uploadSpan).Seconds(),
			suspect.p(50), suspect.p(99), down.p(50), down.p(99))
		r.bar(all.downs*u.onceDown <= runs && (all.downs == 0 || u.onceDown > 0), "%s: %d times down in %d runs", u.name, all.downs, runs)
		r.bar(u.maybeSuspect || all.suspects == 0, "%s: %d times suspect in %d runs", u.name, all.suspects, runs)
		r.bar(u.others || congested >= leastCongested, "%s: called congested for %.0f %% of the time", u.name, 100*congested)
		r.bar(suspect.p(99).at <= most, "%s: a blackhole is suspect after %v, at most %v", u.name, suspect.p(99), most)
	}
	fmt.Fprintln(r)
}

// detection measures how fast faults are found.
func (r *report) detection(s settings, trials int) {
	most50, most99 := 1200*ms, 1800*ms
	switch {
	case s.traffic:
		most50, most99 = 500*ms, 800*ms
	case s.interval == 250*ms:
		most50, most99 = 900*ms, 900*ms
	}
	fmt.Fprintf(r, "%s: found after\tdegraded p50\tp99\tsuspect p50\tp99\tdown p50\tp99\t\n", s.name)
	for _, f := range faults {
		all := parallel(trials, func(seed uint64) found { return find(s, seed, f.do) })
		bad := times(all, func(f found) time.Duration { return f.bad })
		suspect := times(all, func(f found) time.Duration { return f.suspect })
		down := times(all, func(f found) time.Duration { return f.down })
		if f.total {
			fmt.Fprintf(r, "%s\t\t\t%v\t%v\t%v\t%v\t\n", f.name, suspect.p(50), suspect.p(99), down.p(50), down.p(99))
			r.bar(suspect.p(50).at <= most50, "%s, %s: p50 %v, at most %v", s.name, f.name, suspect.p(50), most50)
			r.bar(suspect.p(99).at <= most99, "%s, %s: p99 %v, at most %v", s.name, f.name, suspect.p(99), most99)
		} else {
			fmt.Fprintf(r, "%s\t%v\t%v\t\t\t\t\t\n", f.name, bad.p(50), bad.p(99))
		}
		if f.name == "50 % loss" {
			r.bar(bad.p(99).at <= 10*time.Second, "%s, %s: p99 %v, at most 10 s", s.name, f.name, bad.p(99))
		}
	}
	fmt.Fprintln(r)
}

// falseVerdicts measures how often links that work are called broken, in runs of a span.
func (r *report) falseVerdicts(s settings, runs int, span time.Duration) {
	fmt.Fprintf(r, "%s: in a week\tsuspect\tdown\tdegraded\tprobes a second\t\n", s.name)
	for _, c := range quietLinks {
		all := sum(parallel(runs, func(seed uint64) tally { return observe(s, seed, c.link(), 0, span) }))
		per := func(n int) float64 { return float64(n) / float64(max(runs, 1)) * float64(week/span) }
		fmt.Fprintf(r, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t\n", c.name, per(all.suspects), per(all.downs), per(all.degradations),
			per(all.probes)/week.Seconds())
		r.bar(c.suspects == 0 || per(all.suspects) < c.suspects, "%s, %s: %.2f suspect a week, below %v", s.name, c.name, per(all.suspects), c.suspects)
		r.bar(c.downs == 0 || per(all.downs) < c.downs, "%s, %s: %.2f down a week, below %v", s.name, c.name, per(all.downs), c.downs)
	}
	fmt.Fprintln(r)
}

// year measures how often links that work are called down by the shipped defaults, and for how long, in runs of a span.
func (r *report) year(runs int, span time.Duration) {
	fmt.Fprint(r, "defaults: in a year\tsuspect\tdown\tlongest down\tdegraded\tmoves\t\n")
	for _, c := range quietLinks {
		all := sum(parallel(runs, func(seed uint64) tally { return observe(settings{}, seed, c.link(), 0, span) }))
		fmt.Fprintf(r, "%s\t%d\t%d\t%v\t%d\t%d\t\n", c.name, all.suspects, all.downs, all.longestDown.Round(time.Second), all.degradations, all.moves)
		r.bar(c.yearly < 0 || all.downs <= c.yearly, "%s: %d times down in a year, at most %d", c.name, all.downs, c.yearly)
		r.bar(all.longestDown < time.Hour, "%s: down for %v, below an hour", c.name, all.longestDown)
	}
}

// steadyLoss measures moves and flapping over an hour.
func (r *report) steadyLoss(s settings, hours int) {
	fmt.Fprintf(r, "%s: in an hour\tmoves\tmost\ttransitions\tmost\tprobes a second\t\n", s.name)
	for _, c := range []struct {
		name               string
		link               func() *link
		before             time.Duration // how long it is so already
		moves, transitions int           // at most; negative for no bar
	}{
		{"2 % each way", eachWay(0.02), 0, 0, 0},
		{"15 %, from the start", lossy(0.15), 0, -1, -1},
		{"15 %, steady", lossy(0.15), settled, -1, 2},
		{"50 %, steady", lossy(0.50), settled, -1, -1},
	} {
		each := parallel(hours, func(seed uint64) tally { return observe(s, seed, c.link(), c.before, time.Hour) })
		all := sum(each)
		moves, transitions := 0, 0
		for _, t := range each {
			moves, transitions = max(moves, t.moves), max(transitions, t.transitions)
		}
		fmt.Fprintf(r, "%s\t%.3f\t%d\t%.3f\t%d\t%.2f\t\n", c.name, float64(all.moves)/float64(hours), moves,
			float64(all.transitions)/float64(hours), transitions, float64(all.probes)/float64(hours)/3600)
		r.bar(c.moves < 0 || moves <= c.moves, "%s, %s: %d moves in an hour, at most %d", s.name, c.name, moves, c.moves)
		r.bar(c.transitions < 0 || transitions <= c.transitions, "%s, %s: %d transitions in an hour, at most %d", s.name, c.name, transitions, c.transitions)
	}
	fmt.Fprintln(r)
}

func (r *report) bar(met bool, format string, args ...any) {
	if !met {
		r.missed = append(r.missed, fmt.Sprintf(format, args...))
	}
}

// moment is a time since a fault began; forever is never.
type moment struct{ at time.Duration }

func (m moment) String() string {
	if m.at == forever {
		return "never"
	}
	return fmt.Sprintf("%.2f s", m.at.Seconds())
}

// sorted are times in order.
type sorted []time.Duration

func times(all []found, of func(found) time.Duration) sorted {
	ts := make(sorted, len(all))
	for i, f := range all {
		ts[i] = of(f)
	}
	slices.Sort(ts)
	return ts
}

// p returns a percentile: the time within which that share was found.
func (s sorted) p(percent int) moment {
	return moment{s[max((len(s)*percent+99)/100-1, 0)]}
}

func sum(all []tally) tally {
	var total tally
	for _, t := range all {
		total.add(t)
	}
	return total
}

// parallel runs f for the seeds 1..n on all cores and returns the results in
// their order.
func parallel[T any](n int, f func(seed uint64) T) []T {
	results := make([]T, n)
	seeds := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range seeds {
				results[i] = f(uint64(i) + 1)
			}
		})
	}
	for i := range n {
		seeds <- i
	}
	close(seeds)
	workers.Wait()
	return results
}
