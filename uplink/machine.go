package uplink

import (
	"fmt"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// The Machine's defaults.
const (
	DefaultRise    = 10
	DefaultConfirm = probe.DefaultConfirm
	DefaultHold    = 10 * time.Second
	DefaultStable  = 2 * time.Second

	// routeGrace is how long an uplink that was never judged may lack a route:
	// at start, probing may be ahead of the first applied plan.
	routeGrace = 3 * time.Second

	// lagLimit is by how much Tick may be late before that is taken to be our
	// own stall: answers may be waiting in the sockets, and lagGrace is the
	// time given to fetch them before silence is called confirmed.
	lagLimit = 50 * time.Millisecond
	lagGrace = 25 * time.Millisecond

	// A packet that came in within freshSpan speaks against an outage, but not for
	// longer than vetoLimit: neighbours on the line may be heard when nobody beyond
	// them is.
	freshSpan = 200 * time.Millisecond
	vetoLimit = 10 * time.Second

	// A stream of packets that comes in keeps silent probes even from making an uplink suspect: they wait in the
	// queue of that stream. No queue that is any good is longer than floodLimit, and the other family may be what
	// comes in.
	floodLimit = 2 * time.Second
)

// Path is what the kernel says about an uplink's way out in one family.
type Path struct {
	NoDevice   bool // there is no device of that name
	Carrier    bool // up and running
	HasAddress bool
	HasGateway bool // a default route or a configured gateway; true for point-to-point devices
}

// Whole reports whether nothing is missing.
func (p Path) Whole() bool { return !p.NoDevice && p.Carrier && p.HasAddress && p.HasGateway }

func (p Path) missing() string {
	switch {
	case p.NoDevice:
		return ReasonDevice
	case !p.Carrier:
		return ReasonCarrier
	case !p.HasAddress:
		return ReasonAddress
	case !p.HasGateway:
		return ReasonGateway
	}
	return ""
}

// MachineConfig configures a Machine. Zero values take the defaults.
type MachineConfig struct {
	Uplink   string
	Family   rules.Family
	Disabled bool          // the family is off: the verdict is disabled, for ever
	Unprobed bool          // there are no targets: the path alone decides
	Rise     int           // successes in a row to be trusted again
	Hold     time.Duration // that these must span at least
	Confirm  time.Duration // silence between suspect and down
	Stable   time.Duration // how long a lost path must be whole again
	Classes  Classes       // limits of the classes good and fair
}

func (c MachineConfig) complete() MachineConfig {
	if c.Rise <= 0 {
		c.Rise = DefaultRise
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.Hold, DefaultHold}, {&c.Confirm, DefaultConfirm}, {&c.Stable, DefaultStable}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return c
}

// Observation is one event of the probes with the numbers around it.
type Observation struct {
	Signal   probe.Signal
	Report   probe.Report // of the burst, for reasons
	Loss     float64      // 0..1 over Outcomes calm probes, for reasons
	Outcomes int
	Confirm  time.Duration // silence between suspect and down on this link; 0 for MachineConfig.Confirm
	Bursts   time.Duration // the mean length of its bursts of loss, which that follows from
}

// unanswered is the reason of a silence, with the loss that made it so long.
func (o Observation) unanswered() string {
	if o.Outcomes < 20 || o.Loss < 0.05 {
		return o.Report.String()
	}
	return fmt.Sprintf("%v, on a link that lost %.0f %% of the last %d before", o.Report, 100*o.Loss, o.Outcomes)
}

// Machine is the verdict on one uplink in one family and the rules by which it
// changes. It is pure: it owns no clock, and the times it is told must not run
// backwards. It is not safe for concurrent use. Make one with [NewMachine].
type Machine struct {
	cfg    MachineConfig
	state  State
	reason string
	since  time.Time

	path  Path
	known bool // the path has been whole once, or a verdict was restored

	quality *Quality
	damping Damping
	confirm time.Duration // in force
	bursts  time.Duration // that it follows from; 0 for none

	silentAt  time.Time // Failing: when it was signalled; zero when not
	confirmAt time.Time // Failing: when silence becomes down
	stableAt  time.Time // down for its path: when probes may speak again
	stalled   bool      // Failing: confirmAt was put off for a stall
	noRouteAt time.Time // init: the first NoPath
	received  time.Time // when a packet came in last, if anybody tells
	flooded   time.Time // when a stream of them did
	held      string    // Failing, and a stream comes in: the reason to be suspect
	vetoes    int       // times that this kept a suspect from being down
	successes int       // recovering: in a row
	firstAt   time.Time // recovering: when the row began
}

// NewMachine returns a Machine in state init, or disabled. Its path is unknown
// until SetPath is called.
func NewMachine(cfg MachineConfig, now time.Time) *Machine {
	m := &Machine{cfg: cfg.complete(), state: Init, reason: "not looked at yet", since: now, quality: NewQuality(cfg.Classes)}
	m.confirm = m.cfg.Confirm
	if cfg.Disabled {
		m.state, m.reason = Disabled, fmt.Sprintf("%v is off by configuration", cfg.Family)
	}
	return m
}

// State returns the verdict.
func (m *Machine) State() State { return m.state }

// Reason returns why the verdict is what it is.
func (m *Machine) Reason() string { return m.reason }

// Since returns when the verdict was reached.
func (m *Machine) Since() time.Time { return m.since }

// Restore continues from a verdict of an earlier run of the daemon, before the
// first SetPath. down stays down until the uplink recovers; recovering begins
// its successes anew; suspect becomes up, since only fresh silence can confirm
// it. init, disabled and unknown texts change nothing.
func (m *Machine) Restore(s State, since time.Time) {
	if m.state == Disabled {
		return
	}
	switch s {
	case Suspect:
		s = Up
	case Up, Degraded, Down, Recovering:
	default:
		return
	}
	m.state, m.since, m.known = s, since, true
	m.quality.loss.degraded = s == Degraded
	m.reason = fmt.Sprintf("was %s before the restart", s)
}

// SetPath tells what the kernel says. A loss is down at once. A path that is
// whole for the first time is init; one that was lost before stays down until it
// has been whole for Stable and the probes have found the uplink again.
func (m *Machine) SetPath(p Path, now time.Time) (Transition, bool) {
	before := m.path
	m.path = p
	if m.state == Disabled {
		return Transition{}, false
	}
	if !p.Whole() {
		m.stableAt = time.Time{}
		reason := p.missing()
		if reason == ReasonCarrier && !m.known {
			reason = "no carrier"
		}
		if m.state == Down {
			m.reason = reason
			return Transition{}, false
		}
		return m.to(Down, reason, now), true
	}
	if before.Whole() {
		return Transition{}, false
	}
	first := !m.known
	m.known = true
	switch {
	case m.state != Down && m.state != Up && m.cfg.Unprobed:
		return m.to(Up, reasonUnprobed, now), true
	case m.state != Down: // nothing was known against it
		if m.state == Init {
			m.reason = reasonInit
		}
		return Transition{}, false
	case first && m.cfg.Unprobed:
		return m.to(Up, reasonUnprobed, now), true
	case first:
		return m.to(Init, reasonInit, now), true
	default:
		m.reason = reasonWhole
		m.stableAt = now.Add(m.cfg.Stable)
		if m.cfg.Unprobed {
			m.stableAt = now.Add(max(m.cfg.Stable, m.damping.HoldDown()))
		}
		return Transition{}, false
	}
}

const (
	reasonInit     = "carrier, address and gateway present; waiting for the first answer"
	reasonWhole    = "carrier, address and gateway present again; waiting for answers"
	reasonUnprobed = "carrier, address and gateway present; there are no probe targets"
)

// Moved tells that the probes leave by a changed path from now on, with another
// address for example: silence so far is no evidence against it.
func (m *Machine) Moved(now time.Time) {
	if !m.confirmAt.IsZero() {
		m.confirmAt = now.Add(m.confirm)
	}
}

// Held tells that nobody is asked any more: silence from now on is no evidence.
func (m *Machine) Held() { m.confirmAt = time.Time{} }

// Resumed tells that somebody is asked again, after Held.
func (m *Machine) Resumed(now time.Time) {
	if m.state == Suspect && m.confirmAt.IsZero() {
		m.silentAt, m.confirmAt, m.stalled = now, now.Add(m.confirm), false
	}
}

// Count tells the outcome of one probe, before the Observe of the same event.
func (m *Machine) Count(o probe.Outcome) {
	if m.state == Disabled || !m.path.Whole() {
		return
	}
	// What our own queue loses says nothing about the uplink.
	if o.Kind == probe.Lost && m.quality.congestion.Congested() {
		return
	}
	m.quality.loss.take(o)
}

// Load tells how much the uplink moves. See [Congestion.Load].
func (m *Machine) Load(bits float64, now time.Time) { m.quality.congestion.Load(bits, now) }

// Times tells how long answers take. See [Quality.Times].
func (m *Machine) Times(rtt, jitter time.Duration, now time.Time) {
	m.quality.Times(rtt, jitter, now)
}

// Quality returns what is known about how well the uplink works.
func (m *Machine) Quality() *Quality { return m.quality }

// Observe tells an event of the probes.
func (m *Machine) Observe(o Observation, now time.Time) (Transition, bool) {
	if m.state == Disabled || !m.path.Whole() {
		return Transition{}, false
	}
	switch o.Signal {
	case probe.Alive:
		return m.alive(o, now)
	case probe.Missed:
		m.successes, m.firstAt = 0, time.Time{}
	case probe.Failing:
		return m.failing(o, now)
	case probe.NoPath:
		return m.noPath(now)
	}
	return m.weigh(now)
}

func (m *Machine) alive(o Observation, now time.Time) (Transition, bool) {
	silent := m.silentAt
	m.silentAt, m.confirmAt, m.noRouteAt = time.Time{}, time.Time{}, time.Time{}
	switch m.state {
	case Init:
		return m.to(Up, "first answer", now), true
	case Suspect:
		return m.to(m.working(), fmt.Sprintf("answered again %d ms after it became suspect", now.Sub(silent).Milliseconds()), now), true
	case Down:
		if now.Before(m.stableAt) {
			return Transition{}, false
		}
		t := m.to(Recovering, fmt.Sprintf("answers again after %v down", now.Sub(m.since).Round(time.Second)), now)
		m.quality.forget()
		return t, true
	case Recovering:
		if m.successes++; m.successes == 1 {
			m.firstAt = now
		}
		return m.recover(now)
	}
	return m.weigh(now)
}

// recover trusts the uplink again when its row of answers is long enough and the
// hold-down is over. Only the row begins anew with a miss: nobody goes without one
// for a quarter of an hour.
func (m *Machine) recover(now time.Time) (Transition, bool) {
	span, hold := now.Sub(m.firstAt), m.damping.HoldDown()
	if m.successes < m.cfg.Rise || span < m.cfg.Hold || now.Sub(m.since) < hold {
		return Transition{}, false
	}
	reason := fmt.Sprintf("%d answers in a row over %v", m.successes, span.Round(100*time.Millisecond))
	if hold > m.cfg.Hold {
		reason += fmt.Sprintf(", held down for %v after %d failures", hold, m.damping.downs)
	}
	return m.to(m.working(), reason, now), true
}

// working returns the verdict on an uplink that answers.
func (m *Machine) working() State {
	if m.quality.loss.degraded {
		return Degraded
	}
	return Up
}

// weigh moves between up and degraded.
func (m *Machine) weigh(now time.Time) (Transition, bool) {
	if m.state != Up && m.state != Degraded || m.state == m.working() {
		return Transition{}, false
	}
	reason := m.quality.loss.reason
	if why := m.quality.Reason(); m.state == Up {
		reason += "; class " + why
	}
	return m.to(m.working(), reason, now), true
}

func (m *Machine) failing(o Observation, now time.Time) (Transition, bool) {
	m.confirm, m.bursts = m.cfg.Confirm, 0
	if o.Confirm > 0 && o.Confirm != m.cfg.Confirm {
		m.confirm, m.bursts = o.Confirm, o.Bursts
	}
	switch m.state {
	case Init:
		// It is not known to be bad either; Tick decides after Confirm.
		m.silentAt, m.confirmAt, m.stalled = now, now.Add(m.confirm), false
		m.reason = o.unanswered()
	case Up, Degraded:
		if fresh := m.flooded.Add(freshSpan); fresh.After(now) {
			m.silentAt, m.confirmAt, m.held = now, fresh, o.unanswered()
			return Transition{}, false
		}
		return m.suspect(o.unanswered(), now), true
	case Recovering:
		return m.to(Down, "while recovering, "+o.unanswered(), now), true
	}
	return Transition{}, false
}

func (m *Machine) suspect(reason string, now time.Time) Transition {
	t := m.to(Suspect, reason, now)
	m.silentAt, m.confirmAt = now, now.Add(m.confirm)
	return t
}

// noPath is the end of any trust: traffic would meet the same missing route as
// the probes. Only at the start may the route simply not be there yet.
func (m *Machine) noPath(now time.Time) (Transition, bool) {
	switch m.state {
	case Down:
		m.reason = ReasonRoute
		return Transition{}, false
	case Init:
		if m.noRouteAt.IsZero() {
			m.noRouteAt, m.reason = now, ReasonRoute
		}
		if now.Sub(m.noRouteAt) < routeGrace {
			return Transition{}, false
		}
	}
	return m.to(Down, ReasonRoute, now), true
}

// Deadline returns when Tick has to be called next; zero for never.
func (m *Machine) Deadline() time.Time {
	if m.cfg.Unprobed && m.state == Down && m.path.Whole() {
		return m.stableAt
	}
	return m.confirmAt
}

// Tick tells the time.
func (m *Machine) Tick(now time.Time) (Transition, bool) {
	due := m.Deadline()
	if due.IsZero() || now.Before(due) {
		return Transition{}, false
	}
	if m.state != Down && !m.stalled && now.Sub(due) > lagLimit {
		m.stalled, m.confirmAt = true, now.Add(lagGrace)
		return Transition{}, false
	}
	switch m.state {
	case Up, Degraded:
		if fresh := m.flooded.Add(freshSpan); fresh.After(now) && now.Sub(m.silentAt) < floodLimit {
			m.vetoes++
			m.confirmAt = fresh
			return Transition{}, false
		}
		return m.suspect(m.held, now), true
	case Suspect:
		if fresh := m.received.Add(freshSpan); fresh.After(now) && now.Sub(m.silentAt) < m.confirm+vetoLimit {
			m.vetoes++
			m.confirmAt = fresh
			return Transition{}, false
		}
		return m.to(Down, m.silence(now), now), true
	case Init:
		return m.to(Down, "never answered: "+m.reason, now), true
	case Down: // unprobed
		return m.to(Up, reasonUnprobed, now), true
	}
	return Transition{}, false
}

// silence is the reason of a confirmed down: how long, and why that long.
func (m *Machine) silence(now time.Time) string {
	reason := fmt.Sprintf("no answer for another %d ms", now.Sub(m.silentAt).Milliseconds())
	if m.bursts > 0 {
		reason += fmt.Sprintf(", where loss comes in bursts of %d ms and %d ms are waited", m.bursts.Milliseconds(), m.confirm.Milliseconds())
	}
	if now.Sub(m.received) < freshSpan {
		reason += fmt.Sprintf(", although packets have come in for %v", vetoLimit)
	}
	return reason
}

// Received tells that the device received a packet at a time. Other traffic that
// arrives says that it is the targets or the probes that fail.
func (m *Machine) Received(at time.Time) { m.received = at }

// Flooded tells that the device received a stream of packets up to a time, more than neighbours on the line send.
func (m *Machine) Flooded(at time.Time) { m.flooded = at }

// Damping returns how often the uplink went down.
func (m *Machine) Damping() *Damping { return &m.damping }

// to changes the verdict and forgets what belonged to the old one.
func (m *Machine) to(s State, reason string, now time.Time) Transition {
	t := Transition{Uplink: m.cfg.Uplink, Family: m.cfg.Family, From: m.state, To: s, Reason: reason, Class: m.quality.Class(), At: now}
	// What never worked has not failed, and a line that is being given another address (a redial, a
	// renumbering) has not either.
	readdressed := reason == ReasonAddress || reason == ReasonGateway
	if s == Down && m.state != Init && !readdressed {
		m.damping.Down(now)
	} else if m.state == Down && s == Up || m.state == Recovering && s != Down {
		m.damping.Up(now)
	}
	m.state, m.reason, m.since = s, reason, now
	m.silentAt, m.confirmAt, m.noRouteAt, m.stableAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	m.successes, m.firstAt, m.stalled = 0, time.Time{}, false
	if s == Recovering {
		m.successes, m.firstAt = 1, now
	}
	return t
}
