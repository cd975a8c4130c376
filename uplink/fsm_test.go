package uplink

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

const ms = time.Millisecond

var (
	begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	whole = Link{Carrier: true, HasAddress: true, HasGateway: true}
)

// script drives an FSM through steps at times since the beginning.
type script struct {
	t *testing.T
	m *FSM
	// got is every transition as "at from>to: reason".
	got []string
}

func newScript(t *testing.T, cfg FSMConfig) *script {
	cfg.Uplink, cfg.Family = "fiber", rules.IPv4
	return &script{t: t, m: NewFSM(cfg, begin)}
}

func (s *script) note(t Transition, changed bool) {
	s.t.Helper()
	if !changed {
		return
	}
	if t.To != s.m.State() || t.Reason != s.m.Reason() || t.At != s.m.Since() || t.Uplink != "fiber" || t.Family != rules.IPv4 {
		s.t.Errorf("transition %+v does not lead to %v, %q, %v", t, s.m.State(), s.m.Reason(), s.m.Since())
	}
	s.got = append(s.got, t.At.Sub(begin).String()+" "+string(t.From)+">"+string(t.To)+": "+t.Reason.Text)
}

// tick lets all deadlines up to a time pass.
func (s *script) tick(at time.Duration) {
	s.t.Helper()
	for d := s.m.Deadline(); !d.IsZero() && !d.After(begin.Add(at)); d = s.m.Deadline() {
		s.note(s.m.Tick(d))
	}
}

func (s *script) path(at time.Duration, p Link) {
	s.t.Helper()
	s.tick(at)
	s.note(s.m.SetLink(p, begin.Add(at)))
}

func (s *script) see(at time.Duration, signal probe.Signal) {
	s.t.Helper()
	s.tick(at)
	s.note(s.m.Observe(ProbeEvent{Signal: signal, Burst: fourMisses}, begin.Add(at)))
}

// loss sees n probes to three targets, of which every so manieth is lost, 1 s apart.
func (s *script) loss(at time.Duration, every, n int) {
	s.t.Helper()
	for i := range n {
		at := at + time.Duration(i)*time.Second
		s.tick(at)
		if every > 0 && i%every == 0 {
			s.m.Count(probe.Outcome{Target: i % 3, Kind: probe.Lost})
			s.note(s.m.Observe(ProbeEvent{Signal: probe.Missed}, begin.Add(at)))
			continue
		}
		s.m.Count(probe.Outcome{Target: i % 3, Kind: probe.Answered})
		s.note(s.m.Observe(ProbeEvent{Signal: probe.Alive}, begin.Add(at)))
	}
}

var fourMisses = probe.BurstReport{Missed: 4, Targets: 3, Span: 450 * ms}

const noAnswer = "4 of 4 probes to 3 targets unanswered for 450 ms"

func TestFSM(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  FSMConfig
		do   func(*script)
		want []string
	}{
		{"the first answer makes it up", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(ms, probe.Alive)
		}, []string{"1ms init>up: first answer"}},

		{"it never answered", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(1000*ms, probe.Missed)
			s.see(2300*ms, probe.Failing)
			s.tick(5000 * ms)
		}, []string{"2.94s init>down: never answered: " + noAnswer}},

		{"an answer in the last moment saves init", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(2300*ms, probe.Failing)
			s.see(2900*ms, probe.Alive)
			s.tick(10000 * ms)
		}, []string{"2.9s init>up: first answer"}},

		{"silence is suspect, then down", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(10000*ms, probe.Missed)
			s.see(10450*ms, probe.Failing)
			s.see(10600*ms, probe.Missed)
			s.tick(20000 * ms)
		}, []string{"0s init>up: first answer", "10.45s up>suspect: " + noAnswer, "11.09s suspect>down: no answer from 3 targets since 00:00:10 (1.1 s)"}},

		{"any answer clears suspicion", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(10450*ms, probe.Failing)
			s.see(10570*ms, probe.Alive)
			s.tick(20000 * ms)
		}, []string{"0s init>up: first answer", "10.45s up>suspect: " + noAnswer, "10.57s suspect>up: answered again 120 ms after it became suspect"}},

		{"recovery takes ten answers over ten seconds", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Failing)
			for i := range 50 { // every 250 ms from 10 s on
				s.see(10000*ms+time.Duration(i)*250*ms, probe.Alive)
			}
		}, []string{"640ms init>down: never answered: " + noAnswer, "10s down>recovering: answers again after 9s down", "20s recovering>up: 41 answers in a row over 10s"}},

		{"recovery at a slow pace takes ten answers", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Failing)
			for i := range 12 {
				s.see(10000*ms+time.Duration(i)*5*time.Second, probe.Alive)
			}
		}, []string{"640ms init>down: never answered: " + noAnswer, "10s down>recovering: answers again after 9s down", "55s recovering>up: 10 answers in a row over 45s"}},

		{"a miss begins the row anew", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Failing)
			for i := range 30 {
				s.see(10000*ms+time.Duration(i)*time.Second, probe.Alive)
				if i == 8 {
					s.see(18500*ms, probe.Missed)
				}
			}
		}, []string{"640ms init>down: never answered: " + noAnswer, "10s down>recovering: answers again after 9s down", "29s recovering>up: 11 answers in a row over 10s"}},

		{"failing while recovering is down at once", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Failing)
			s.see(10000*ms, probe.Alive)
			s.see(12000*ms, probe.Failing)
			s.tick(20000 * ms)
		}, []string{"640ms init>down: never answered: " + noAnswer, "10s down>recovering: answers again after 9s down", "12s recovering>down: while recovering, " + noAnswer}},

		{"the path is lost and comes back", FSMConfig{Rise: 2, Hold: time.Second}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.path(5000*ms, Link{HasAddress: true, HasGateway: true})
			s.see(5100*ms, probe.Alive) // a stray answer of an old probe
			s.path(6000*ms, whole)
			s.see(7000*ms, probe.Alive) // not stable yet
			s.see(8000*ms, probe.Alive)
			s.see(9000*ms, probe.Alive)
		}, []string{"0s init>up: first answer", "5s up>down: carrier lost", "8s down>recovering: answers again after 3s down", "9s recovering>up: 2 answers in a row over 1s"}},

		{"a flapping carrier is never stable", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			for i := range 10 {
				at := time.Duration(5+2*i) * time.Second
				s.path(at, Link{})
				s.path(at+100*ms, whole)
				s.see(at+1900*ms, probe.Alive)
			}
		}, []string{"0s init>up: first answer", "5s up>down: carrier lost"}},

		{"each part of the path has its reason", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.path(1000*ms, Link{Carrier: true, HasGateway: true})
		}, []string{"1s init>down: no address"}},

		{"no gateway", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(1000*ms, probe.Failing)
			s.path(1100*ms, Link{Carrier: true, HasAddress: true})
			s.tick(10000 * ms)
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer, "1.1s suspect>down: no gateway"}},

		{"a path that is whole for the first time is init", FSMConfig{}, func(s *script) {
			s.path(0, Link{})
			s.path(3000*ms, Link{Carrier: true})
			s.path(4000*ms, whole)
			s.see(4010*ms, probe.Alive)
		}, []string{"0s init>down: no carrier", "4s down>init: " + reasonInit.Text, "4.01s init>up: first answer"}},

		{"a lost route is down", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(1000*ms, probe.NoPath)
			s.see(9000*ms, probe.Alive)
		}, []string{"0s init>up: first answer", "1s up>down: no route", "9s down>recovering: answers again after 8s down"}},

		{"at the start the route may come later", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(400*ms, probe.NoPath)
			s.see(1700*ms, probe.NoPath)
			s.see(2700*ms, probe.Alive)
		}, []string{"2.7s init>up: first answer"}},

		{"at the start the route does not come", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(400*ms, probe.NoPath)
			s.see(1700*ms, probe.NoPath)
			s.see(3500*ms, probe.NoPath)
		}, []string{"3.5s init>down: no route"}},

		{"loss is found and left by tests with a gap between", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.loss(1*time.Second, 25, 1000)
			s.loss(1001*time.Second, 4, 100)
			s.loss(1101*time.Second, 10, 1000)
			s.loss(2101*time.Second, 0, 200)
		}, []string{"0s init>up: first answer",
			"17m21s up>degraded: 11 of the last 41 probes lost (27 %); class poor: loss above 3 %",
			"36m16s degraded>up: 0 of the last 85 probes lost (0 %)"}},

		{"suspicion does not hide that it was degraded", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.loss(0, 2, 60)
			s.see(70*time.Second, probe.Failing)
			s.see(70500*ms, probe.Alive)
		}, []string{"0s init>up: first answer",
			"12s up>degraded: 7 of the last 13 probes lost (54 %); class poor: loss above 3 %",
			"1m10s degraded>suspect: " + noAnswer, "1m10.5s suspect>degraded: answered again 500 ms after it became suspect"}},

		{"one hole is no gray loss however many probes fall into it", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			for i := range 12 {
				s.m.Count(probe.Outcome{Target: i % 3, Kind: probe.Lost})
				s.see(10*time.Second+time.Duration(i)*100*ms, probe.Missed)
			}
			s.loss(12*time.Second, 0, 60)
		}, []string{"0s init>up: first answer"}},

		{"a link of long bursts is confirmed for longer", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.note(s.m.Observe(ProbeEvent{Signal: probe.Failing, Burst: fourMisses, Confirm: 1740 * ms, Bursts: 210 * ms}, begin.Add(time.Second)))
			s.tick(5000 * ms)
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer,
			"2.74s suspect>down: no answer from 3 targets since 00:00:00 (2.2 s); 1740 ms of it to confirm, for this link loses packets in bursts of 210 ms"}},

		{"what arrives puts off a down", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(10000*ms, probe.Failing)
			for at := 10000 * ms; at <= 12000*ms; at += 50 * ms {
				s.tick(at)
				s.m.Received(begin.Add(at))
			}
			s.tick(20000 * ms)
		}, []string{"0s init>up: first answer", "10s up>suspect: " + noAnswer, "12.2s suspect>down: no answer from 3 targets since 00:00:09 (2.6 s)"}},

		{"what arrives does not put it off for ever", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(10000*ms, probe.Failing)
			for at := 10000 * ms; at <= 30000*ms; at += 50 * ms {
				s.tick(at)
				s.m.Received(begin.Add(at))
			}
		}, []string{"0s init>up: first answer", "10s up>suspect: " + noAnswer,
			"20.7s suspect>down: no answer from 3 targets since 00:00:09 (11.2 s); other packets still come in"}},

		{"the second failure within an hour is held down", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			for _, from := range []time.Duration{10 * time.Minute, 20 * time.Minute, 90 * time.Minute} {
				s.see(from, probe.Failing)
				s.tick(from + time.Second)
				for i := range 70 {
					if i == 15 && from == 20*time.Minute { // does not begin the hold-down anew
						s.see(from+time.Minute+time.Duration(i)*time.Second, probe.Missed)
						continue
					}
					s.see(from+time.Minute+time.Duration(i)*time.Second, probe.Alive)
				}
			}
		}, []string{"0s init>up: first answer",
			"10m0s up>suspect: " + noAnswer, "10m0.64s suspect>down: no answer from 3 targets since 00:09:59 (1.1 s)",
			"11m0s down>recovering: answers again after 59s down", "11m10s recovering>up: 11 answers in a row over 10s",
			"20m0s up>suspect: " + noAnswer, "20m0.64s suspect>down: no answer from 3 targets since 00:19:59 (1.1 s)",
			"21m0s down>recovering: answers again after 59s down",
			"21m30s recovering>up: 15 answers in a row over 14s, held down for 30s after 2 failures",
			"1h30m0s up>suspect: " + noAnswer, "1h30m0.64s suspect>down: no answer from 3 targets since 01:29:59 (1.1 s)",
			"1h31m0s down>recovering: answers again after 59s down", "1h31m10s recovering>up: 11 answers in a row over 10s",
		}},

		{"a carrier that comes and goes is held down too", FSMConfig{Unprobed: true}, func(s *script) {
			s.path(0, whole)
			for _, at := range []time.Duration{time.Minute, 2 * time.Minute} {
				s.path(at, Link{})
				s.path(at+time.Second, whole)
				s.tick(at + 50*time.Second)
			}
		}, []string{"0s init>up: " + reasonUnprobed.Text, "1m0s up>down: carrier lost", "1m3s down>up: " + reasonUnprobed.Text,
			"2m0s up>down: carrier lost", "2m31s down>up: " + reasonUnprobed.Text}},

		{"a moved path gets its own confirmation", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(1000*ms, probe.Failing)
			s.m.PathChanged(begin.Add(1500 * ms))
			s.tick(5000 * ms)
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer, "2.14s suspect>down: no answer from 3 targets since 00:00:00 (1.6 s)"}},

		{"without targets the path decides", FSMConfig{Unprobed: true}, func(s *script) {
			s.path(0, whole)
			s.path(1000*ms, Link{})
			s.path(1500*ms, whole)
			s.path(1600*ms, whole)
			s.tick(10000 * ms)
		}, []string{"0s init>up: " + reasonUnprobed.Text, "1s up>down: carrier lost", "3.5s down>up: " + reasonUnprobed.Text}},

		{"without targets the path comes late", FSMConfig{Unprobed: true}, func(s *script) {
			s.path(0, Link{})
			s.path(1000*ms, whole)
		}, []string{"0s init>down: no carrier", "1s down>up: " + reasonUnprobed.Text}},

		{"its targets are silent and connections get on", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(1000*ms, probe.Failing)
			s.m.Connected(begin.Add(1500 * ms))
			s.tick(1640 * ms)
			s.see(2000*ms, probe.Failing)
			s.m.Connected(begin.Add(20 * time.Second))
			s.tick(32 * time.Second)
			s.tick(50 * time.Second)
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer, "1.64s suspect>degraded: " + reasonConnected.Text,
			"50s degraded>down: no target answers, and no TCP connection has made progress for 30s"}},

		{"the connections got on before the silence", FSMConfig{}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.m.Connected(begin.Add(900 * ms))
			s.see(1000*ms, probe.Failing)
			s.tick(1640 * ms)
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer, "1.64s suspect>down: no answer from 3 targets since 00:00:00 (1.1 s)"}},

		{"its targets answer again while connections get on", FSMConfig{Rise: 3, Hold: time.Second}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.see(1000*ms, probe.Failing)
			s.m.Connected(begin.Add(1500 * ms))
			s.tick(1640 * ms)
			for range 60 {
				s.m.Count(probe.Outcome{Kind: probe.Lost})
			}
			s.see(5000*ms, probe.Alive)
			s.see(5500*ms, probe.Missed)
			for at := 6000 * ms; at <= 8000*ms; at += 1000 * ms {
				s.see(at, probe.Alive)
			}
		}, []string{"0s init>up: first answer", "1s up>suspect: " + noAnswer, "1.64s suspect>degraded: " + reasonConnected.Text,
			"8s degraded>up: 3 answers in a row over 2s"}},

		{"what nobody asks for and never was there is disabled", FSMConfig{Optional: true, Family: rules.IPv6}, func(s *script) {
			s.path(0, Link{Carrier: true})
			s.path(1000*ms, Link{})
			s.path(2000*ms, Link{NoDevice: true})
			s.tick(time.Hour)
			s.path(3*time.Hour, whole)
			s.see(3*time.Hour, probe.Alive)
			s.path(4*time.Hour, Link{Carrier: true})
		}, []string{"0s init>disabled: not offered so far: no address", "3h0m0s disabled>init: " + reasonInit.Text, "3h0m0s init>up: first answer",
			"4h0m0s up>down: no address"}},

		{"without targets it is up once it is there", FSMConfig{Optional: true, Unprobed: true, Family: rules.IPv6}, func(s *script) {
			s.path(0, Link{Carrier: true})
			s.path(1000*ms, whole)
		}, []string{"0s init>disabled: not offered so far: no address", "1s disabled>up: " + reasonUnprobed.Text}},

		{"a part of it is a sign that it should be there", FSMConfig{Optional: true, Family: rules.IPv6}, func(s *script) {
			s.path(0, Link{Carrier: true})
			s.path(1000*ms, Link{Carrier: true, HasGateway: true})
			s.path(2000*ms, Link{Carrier: true})
		}, []string{"0s init>disabled: not offered so far: no address", "1s disabled>down: no address"}},

		{"what was there before the restart is missed", FSMConfig{Optional: true, Family: rules.IPv6}, func(s *script) {
			s.m.Restore(Up, begin.Add(-time.Hour))
			s.path(0, Link{Carrier: true})
		}, []string{"0s up>down: no address"}},

		{"what is gone for a week is not expected any more", FSMConfig{Optional: true, Family: rules.IPv6}, func(s *script) {
			s.path(0, whole)
			s.see(0, probe.Alive)
			s.path(time.Hour, Link{Carrier: true})
			s.path(absentLimit, Link{Carrier: true})
			s.path(absentLimit+time.Hour, Link{})
			s.path(absentLimit+2*time.Hour, Link{Carrier: true})
			s.path(absentLimit+3*time.Hour, Link{Carrier: true})
		}, []string{"0s init>up: first answer", "1h0m0s up>down: no address", "171h0m0s down>disabled: not offered so far: no address"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t, test.cfg)
			test.do(s)
			if diff := cmp.Diff(test.want, s.got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFSMRestore(t *testing.T) {
	earlier := begin.Add(-time.Hour)
	for _, test := range []struct {
		restored, first State
		since           time.Time
		// then is the state after an answer at 1 s and one at 3 s.
		then [2]State
	}{
		{Init, Init, begin, [2]State{Up, Up}},
		{Up, Up, earlier, [2]State{Up, Up}},
		{Degraded, Degraded, earlier, [2]State{Degraded, Degraded}},
		{Suspect, Suspect, earlier, [2]State{Up, Up}},
		{Down, Down, earlier, [2]State{Down, Recovering}},
		{Recovering, Recovering, earlier, [2]State{Recovering, Recovering}},
		{Disabled, Init, begin, [2]State{Up, Up}},
		{"broken", Init, begin, [2]State{Up, Up}},
	} {
		t.Run(string(test.restored), func(t *testing.T) {
			m := NewFSM(FSMConfig{}, begin)
			m.Restore(test.restored, earlier)
			m.SetLink(whole, begin)
			if m.State() != test.first || m.Since() != test.since {
				t.Errorf("%v since %v, want %v since %v", m.State(), m.Since(), test.first, test.since)
			}
			for i, at := range []time.Duration{time.Second, 3 * time.Second} {
				m.Observe(ProbeEvent{Signal: probe.Alive}, begin.Add(at))
				if m.State() != test.then[i] {
					t.Errorf("%v after an answer at %v, want %v", m.State(), at, test.then[i])
				}
			}
		})
	}
}

// What was suspect before a restart carries no new traffic until an answer clears it, and is down by fresh silence only.
func TestFSMSuspectBeforeARestart(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(m *FSM)
		want State
	}{
		"an answer":          {func(m *FSM) { m.Observe(ProbeEvent{Signal: probe.Alive}, begin.Add(100*ms)) }, Up},
		"nothing for a time": {func(m *FSM) { m.Tick(begin.Add(restartSpan - ms)) }, Suspect},
		"nothing at all":     {func(m *FSM) { m.Tick(begin.Add(restartSpan)) }, Up},
		"silence": {func(m *FSM) {
			m.Observe(ProbeEvent{Signal: probe.Failing}, begin.Add(2*time.Second))
			m.Tick(begin.Add(2*time.Second + DefaultConfirm - ms))
		}, Suspect},
		"silence that lasts": {func(m *FSM) {
			m.Observe(ProbeEvent{Signal: probe.Failing}, begin.Add(2*time.Second))
			m.Tick(begin.Add(2*time.Second + DefaultConfirm))
		}, Down},
		"probes that begin later": {func(m *FSM) {
			m.Paused()
			m.Resumed(begin.Add(time.Minute))
			m.Tick(begin.Add(time.Minute + restartSpan - ms))
		}, Suspect},
		"another path": {func(m *FSM) {
			m.PathChanged(begin.Add(time.Second))
			m.Tick(begin.Add(time.Second + restartSpan - ms))
		}, Suspect},
	} {
		m := NewFSM(FSMConfig{}, begin)
		m.Restore(Suspect, begin.Add(-time.Second))
		m.SetLink(whole, begin)
		c.run(m)
		if m.State() != c.want {
			t.Errorf("%s: %s (%v), want %s", name, m.State(), m.Reason(), c.want)
		}
	}
}

func TestFSMCountsDownsAndNeverSuspicions(t *testing.T) {
	m := NewFSM(FSMConfig{}, begin)
	m.SetLink(whole, begin)
	m.Observe(ProbeEvent{Signal: probe.Alive}, begin)
	now := begin
	for range 20 {
		now = now.Add(time.Second)
		m.Observe(ProbeEvent{Signal: probe.Failing}, now)
		m.Observe(ProbeEvent{Signal: probe.Alive}, now.Add(100*ms))
	}
	if got := m.damping.Penalty(now); got != 0 {
		t.Errorf("%v points for suspicions", got)
	}
	for range 3 {
		now = now.Add(20 * time.Second)
		m.SetLink(Link{}, now)
		m.SetLink(whole, now.Add(time.Second))
		for i := range 18 {
			m.Observe(ProbeEvent{Signal: probe.Alive}, now.Add(time.Duration(i+2)*time.Second))
		}
	}
	if until, suppressed := m.damping.Suppressed(now); !suppressed || until.Sub(now) > maxSuppression {
		t.Errorf("a flapping carrier: suppressed %v until %v", suppressed, until)
	}
}

func TestFSMAStallConfirmsNothing(t *testing.T) {
	m := NewFSM(FSMConfig{}, begin)
	m.SetLink(whole, begin)
	m.Observe(ProbeEvent{Signal: probe.Alive}, begin)
	m.Observe(ProbeEvent{Signal: probe.Failing}, begin.Add(time.Second))
	if _, changed := m.Tick(begin.Add(20 * time.Second)); changed {
		t.Error("down without a look at what waits in the sockets")
	}
	if _, changed := m.Tick(m.Deadline()); !changed || m.State() != Down {
		t.Errorf("%v after the grace", m.State())
	}
}

func TestStateHealth(t *testing.T) {
	want := map[State]Health{
		Init: HealthGood, Up: HealthGood, Degraded: HealthGood, Suspect: HealthDoubtful, Recovering: HealthDoubtful,
		Down: HealthDead, Disabled: HealthNone,
	}
	for _, s := range States {
		if s.Health() != want[s] || !s.Valid() {
			t.Errorf("%v: %v", s, s.Health())
		}
	}
	if State("").Valid() || State("").Health() != HealthNone {
		t.Error("an empty verdict is valid")
	}
	if HealthNone >= HealthDead || HealthDead >= HealthDoubtful || HealthDoubtful >= HealthGood {
		t.Error("levels are out of order")
	}
}

// TestFSMProperties feeds random events at random times and checks what must
// hold whatever happens.
func TestFSMProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newModel(t)
		for range rapid.IntRange(1, 150).Draw(t, "events") {
			w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(1500*ms)).Draw(t, "dt")))
			switch kind := rapid.IntRange(0, 12).Draw(t, "event"); {
			case kind == 0:
				w.setPath(Link{})
			case kind <= 2:
				w.setPath(whole)
			case kind == 3:
				w.m.Received(w.now)
				if rapid.Bool().Draw(t, "connected") {
					w.m.Connected(w.now)
				}
			case kind <= 5:
				w.tick()
			default:
				w.observe(probe.Signal(rapid.IntRange(1, 4).Draw(t, "signal")))
			}
		}
	})
}

// model checks an FSM against what it may not do.
type model struct {
	*rapid.T
	m   *FSM
	cfg FSMConfig
	now time.Time

	path     Link
	told     bool      // SetPath was called
	known    bool      // the path was whole once, or there was an earlier verdict
	offered  bool      // a part of it was there, or there was an earlier verdict
	regained time.Time // when a lost path was whole again
	failing  time.Time // the failing signal after which no answer came
	row      int       // answers without a miss while recovering
	rowAt    time.Time
}

func newModel(t *rapid.T) *model {
	cfg := FSMConfig{
		Optional: rapid.Bool().Draw(t, "optional"),
		Rise:     rapid.IntRange(1, 12).Draw(t, "rise"),
		Hold:     time.Duration(rapid.Int64Range(1, int64(10*time.Second)).Draw(t, "hold")),
	}
	w := &model{T: t, m: NewFSM(cfg, begin), cfg: cfg, now: begin}
	if rapid.Bool().Draw(t, "restored") {
		w.m.Restore(rapid.SampledFrom(States[:]).Draw(t, "state"), begin.Add(-time.Minute))
		w.known = w.m.State() != Init
		w.offered = w.known
	}
	return w
}

// verify checks one change and returns it.
func (w *model) verify(before State, tr Transition, changed bool) {
	if changed != (before != w.m.State()) || changed && (tr.From != before || tr.To != w.m.State() || tr.Reason == (Reason{}) || tr.At != w.now) {
		w.Fatalf("from %v to %v, told %v: %+v", before, w.m.State(), changed, tr)
	}
	if w.m.State() == Disabled && (!w.cfg.Optional || w.offered) {
		w.Fatalf("disabled, optional %v, offered %v", w.cfg.Optional, w.offered)
	}
	if w.told && !w.path.Complete() && w.m.State().Health() > HealthDead {
		w.Fatalf("%v without a path", w.m.State())
	}
	if w.told && w.m.Silent() && w.m.Deadline().IsZero() {
		w.Fatalf("%s for ever, whatever is silent", w.m.State())
	}
	if changed && before == Recovering && tr.To.Health() == HealthGood && (w.row < w.cfg.Rise || w.now.Sub(w.rowAt) < w.cfg.Hold) {
		w.Fatalf("trusted after %d answers over %v, want %d over %v", w.row, w.now.Sub(w.rowAt), w.cfg.Rise, w.cfg.Hold)
	}
	if changed && tr.To == Recovering {
		w.row, w.rowAt = 1, w.now
		if w.now.Sub(w.regained) < DefaultStable {
			w.Fatalf("recovering %v after the path was whole again", w.now.Sub(w.regained))
		}
	}
	if changed && before == Down && tr.To.Health() == HealthGood && w.regained != (time.Time{}) {
		w.Fatalf("down to %v without recovering", tr.To)
	}
}

func (w *model) setPath(p Link) {
	if p.Complete() {
		if w.known && !w.path.Complete() && w.m.State() == Down {
			w.regained = w.now
		}
		w.known = true
	} else if !w.told && w.m.State() != Down {
		w.known = false // it is not there yet
	}
	w.offered = w.offered || p.HasAddress || p.HasGateway
	before := w.m.State()
	w.path, w.told = p, true
	tr, changed := w.m.SetLink(p, w.now)
	w.verify(before, tr, changed)
	if w.m.State() != Disabled && !p.Complete() && w.m.State() != Down {
		w.Fatalf("%v after the path was lost", w.m.State())
	}
}

func (w *model) tick() {
	before := w.m.State()
	tr, changed := w.m.Tick(w.now)
	w.verify(before, tr, changed)
	if changed && tr.To == Down && w.now.Sub(w.failing) < DefaultConfirm {
		w.Fatalf("down %v after the burst, confirmation takes %v", w.now.Sub(w.failing), DefaultConfirm)
	}
	if changed && before == Suspect && tr.To == Down && w.failing.IsZero() {
		w.Fatal("down without fresh silence")
	}
	if w.m.State() == Suspect && w.failing.IsZero() {
		if w.m.Deadline().Sub(w.now) > restartSpan {
			w.Fatalf("suspect without evidence until %v", w.m.Deadline())
		}
	} else if w.m.State() == Suspect && w.m.Deadline().Sub(w.failing) > DefaultConfirm+rxHoldLimit+freshSpan+lagGrace+1500*ms {
		w.Fatalf("suspect from %v to %v", w.failing, w.m.Deadline())
	}
	if d := w.m.Deadline(); !d.IsZero() && !d.After(w.now) {
		w.Fatalf("Tick left its own deadline %v in the past: a watcher would spin", w.now.Sub(d))
	}
}

func (w *model) observe(signal probe.Signal) {
	before := w.m.State()
	switch signal {
	case probe.Alive:
		w.m.Count(probe.Outcome{Kind: probe.Answered})
	case probe.Missed, probe.Failing:
		w.m.Count(probe.Outcome{Kind: probe.Lost})
	}
	switch {
	case signal == probe.Missed:
		w.row = 0
	case signal == probe.Alive && before == Recovering:
		if w.row++; w.row == 1 {
			w.rowAt = w.now
		}
	}
	tr, changed := w.m.Observe(ProbeEvent{Signal: signal}, w.now)
	w.verify(before, tr, changed)
	switch signal {
	case probe.Alive:
		w.failing = time.Time{}
		if w.path.Complete() && w.m.State() == Suspect {
			w.Fatal("an answer did not clear suspicion")
		}
	case probe.Failing:
		if before != Suspect || w.failing.IsZero() { // a second one tells nothing new
			w.failing = w.now
		}
		if changed && tr.To == Down && before != Recovering {
			w.Fatalf("%v to down without confirmation", before)
		}
	case probe.Missed:
		if changed && w.m.State().Health() < HealthGood {
			w.Fatalf("one miss made it %v", w.m.State())
		}
	}
}

// A power cut is no failure of the uplinks, and a tunnel's device is not there until it is made.
func TestALinkThatIsNotThereYetAtTheStartHasNotFailed(t *testing.T) {
	whole := Link{Carrier: true, HasAddress: true, HasGateway: true}
	for restored, want := range map[State]State{Up: Init, Degraded: Init, Suspect: Init, Recovering: Init, Down: Down} {
		m := NewFSM(FSMConfig{}, begin)
		m.Restore(restored, begin.Add(-time.Hour))
		m.SetLink(Link{NoDevice: true}, begin)
		if m.State() != Down {
			t.Errorf("%s: %s without a device", restored, m.State())
		}
		m.SetLink(whole, begin.Add(time.Second))
		if m.State() != want || m.damping.s.Downs != 0 {
			t.Errorf("%s: %s once it is there, want %s; %d failures", restored, m.State(), want, m.damping.s.Downs)
		}
	}
	m := NewFSM(FSMConfig{}, begin)
	m.Restore(Up, begin.Add(-time.Hour))
	m.SetLink(whole, begin)
	m.SetLink(Link{NoDevice: true}, begin.Add(time.Second))
	if m.damping.s.Downs != 1 {
		t.Errorf("%d failures of one that went away later", m.damping.s.Downs)
	}
}
