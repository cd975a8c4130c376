package uplink

import (
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// device draws readings of counters: so much is moved a second, for a time.
type device struct {
	DeviceCounters
	rest [2]float64 // packets received and sent that are not whole yet
}

// read moves on and returns the next reading.
func (d *device) read(after time.Duration, received, sent, bytesSent float64) DeviceCounters {
	d.At = d.At.Add(after)
	s := after.Seconds()
	d.rest[0] += received * s
	d.rest[1] += sent * s
	d.Received, d.Sent = uint64(d.rest[0]), uint64(d.rest[1])
	d.ReceivedBytes += uint64(received * s * 64)
	d.SentBytes += uint64(bytesSent * s)
	return d.DeviceCounters
}

func newDevice() *device {
	return &device{DeviceCounters: DeviceCounters{At: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}}
}

func TestAStreamIsMoreThanNeighboursSendOrAnswersToALoad(t *testing.T) {
	for name, c := range map[string]struct {
		received, sent, bytes float64 // a second
		want                  bool
	}{
		"a download":                       {800, 400, 26e3, true},
		"neighbours":                       {60, 1, 100, false},
		"neighbours, and a line to nobody": {0, 160, 240e3, false},
		"an upload of 2 Mbit/s":            {83, 166, 250e3, true},
		"an upload that nobody answers":    {0, 166, 250e3, false},
		"a shell session":                  {40, 40, 4e3, false},
	} {
		t.Run(name, func(t *testing.T) {
			var s StreamDetector
			d, got := newDevice(), 0
			for range 100 {
				if s.Observe(d.read(50*ms, c.received, c.sent, c.bytes)) {
					got++
				}
			}
			if c.want && got < 90 || !c.want && got > 0 {
				t.Errorf("in %d of 100 readings", got)
			}
		})
	}
}

func TestAStepIsALoadThatWasNotThereBefore(t *testing.T) {
	for name, c := range map[string]struct {
		before, after float64 // bytes a second
		want          bool
	}{
		"nothing, then a line's worth": {100, 250e3, true},
		"more of the same":             {100e3, 250e3, false},
		"four times the same":          {100e3, 500e3, true},
		"little, then a little more":   {100, 10e3, false},
		"a load that ends":             {250e3, 100, false},
	} {
		for _, each := range []time.Duration{50 * ms, 500 * ms} {
			t.Run(name+" "+each.String(), func(t *testing.T) {
				var s StepDetector
				d, steps := newDevice(), 0
				for range int(10 * time.Second / each) {
					if _, ok := s.Observe(d.read(each, 1, 1, c.before)); ok {
						t.Fatal("a step before there is one")
					}
				}
				begins := d.At
				for range int(10 * time.Second / each) {
					if began, ok := s.Observe(d.read(each, 1, 1, c.after)); ok {
						steps++
						if off := began.Sub(begins).Abs(); off > 500*ms {
							t.Errorf("it began %v off", off)
						}
					}
				}
				if (steps == 1) != c.want || steps > 1 {
					t.Errorf("%d steps", steps)
				}
			})
		}
	}
}

func TestCountersThatBeginAnewAreNoLoad(t *testing.T) {
	var l LoadMeter
	var s StepDetector
	d := newDevice()
	for range 100 {
		l.Observe(d.read(100*ms, 10, 10, 1e6))
		s.Observe(d.DeviceCounters)
	}
	d.DeviceCounters = DeviceCounters{At: d.At}
	d.rest = [2]float64{}
	for range 100 {
		c := d.read(100*ms, 10, 10, 1e6)
		if load, ok := l.Observe(c); ok && (load.Sent < 7.9e6 || load.Sent > 8.1e6) {
			t.Errorf("%v", load)
		}
		if _, ok := s.Observe(c); ok {
			t.Error("a step")
		}
	}
}

// A load that fills a queue of seconds before a probe is answered makes an uplink suspect, not down; what was silent
// before that load is down as always.
func TestALoadThatBeginsMayFillAQueue(t *testing.T) {
	began := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	run := func(step, answer time.Duration) (states []State) {
		m := NewFSM(FSMConfig{}, began)
		m.SetLink(Link{Carrier: true, HasAddress: true, HasGateway: true}, began)
		m.Observe(ProbeEvent{Signal: probe.Alive}, began)
		note := func(t Transition, ok bool) {
			if ok {
				states = append(states, t.To)
			}
		}
		for at := time.Second; at < 20*time.Second; at += 10 * ms {
			now := began.Add(at)
			if at == step {
				m.LoadStep(now)
			}
			switch {
			case at == 10*time.Second:
				note(m.Observe(ProbeEvent{Signal: probe.Failing}, now))
			case answer > 0 && at == answer:
				m.Answered(now.Add(-5 * time.Second))
				note(m.Observe(ProbeEvent{Signal: probe.Alive}, now))
			}
			if due := m.Deadline(); !due.IsZero() && !now.Before(due) {
				note(m.Tick(now))
			}
		}
		return states
	}
	for name, c := range map[string]struct {
		step, answer time.Duration
		want         []State
	}{
		"a queue of 5 s":          {9500 * ms, 15500 * ms, []State{Suspect, Up}},
		"a queue of a second":     {9500 * ms, 10500 * ms, nil},
		"no queue is so long":     {9500 * ms, 0, []State{Suspect, Down}},
		"silent before the load":  {10500 * ms, 15500 * ms, []State{Suspect, Down, Recovering}},
		"no load":                 {0, 15500 * ms, []State{Suspect, Down, Recovering}},
		"a load of some time ago": {2 * time.Second, 15500 * ms, []State{Suspect, Down, Recovering}},
	} {
		if got := run(c.step, c.answer); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
