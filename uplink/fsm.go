package uplink

import (
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// The FSM's defaults.
const (
	DefaultRise    = 10
	DefaultConfirm = probe.DefaultConfirm
	DefaultHold    = 10 * time.Second
	DefaultStable  = 2 * time.Second

	// routeGrace is how long an uplink without a verdict so far may lack a route:
	// at start, probing may be ahead of the first applied plan.
	routeGrace = 3 * time.Second

	// absentLimit is how long an optional family may be without address or gateway, on a link with carrier, before that
	// is no failure any more: another provider, without IPv6.
	absentLimit = 7 * 24 * time.Hour

	// lagLimit is by how much Tick may be late before that is taken to be our
	// own stall: answers may be waiting in the sockets, and lagGrace is the
	// time given to fetch them before silence is called confirmed.
	lagLimit = 50 * time.Millisecond
	lagGrace = 25 * time.Millisecond

	// A packet that came in within freshSpan speaks against an outage, but not for
	// longer than rxHoldLimit: neighbours on the line may be received when nobody beyond
	// them is.
	freshSpan   = 200 * time.Millisecond
	rxHoldLimit = 10 * time.Second

	// A stream of packets that comes in keeps silent probes even from making an uplink suspect: they wait in the
	// queue of that stream. No queue that is any good is longer than streamHoldLimit, and the other family may be what
	// comes in.
	streamHoldLimit = 2 * time.Second

	// An uplink whose targets are silent while TCP connections by it get on is degraded, until none has for
	// connectionSpan: an admin who is logged in may be reading.
	connectionSpan = 30 * time.Second

	// What a device begins to send at once may fill a queue on the line before a probe is answered. Within stepSpan it
	// is full, and a probe that is sent then is answered within queueLimit: LTE has queues of 5 s. Until then such an
	// uplink may be suspect and is not down. It is not even suspect within stepSuspect: most queues fill more slowly,
	// and the first answer is through.
	stepSpan    = time.Second
	stepSuspect = 1500 * time.Millisecond
	queueLimit  = 6 * time.Second

	// restartSpan is how long an uplink that was suspect before a restart is so without new evidence. Targets whose times
	// are not known yet are found silent after some 2.3 s.
	restartSpan = 5 * time.Second
)

// Link is what the kernel knows of an uplink in one family: what it takes for packets to leave.
type Link struct {
	NoPrefix   bool // IPv4 would have to be translated, and nobody says how
	NoDevice   bool // there is no device of that name
	Carrier    bool // up and running
	HasAddress bool
	HasGateway bool // a default route or a configured gateway; true for point-to-point devices
	// Lack says for people what is missing, with names and addresses; "" for the usual words.
	Lack string
}

// Complete reports whether nothing is missing.
func (l Link) Complete() bool {
	return !l.NoPrefix && !l.NoDevice && l.Carrier && l.HasAddress && l.HasGateway
}

func (l Link) missing() (r Reason) {
	switch {
	case l.NoPrefix:
		r = ReasonPrefix
	case l.NoDevice:
		r = ReasonDevice
	case !l.Carrier:
		r = ReasonCarrier
	case !l.HasAddress:
		r = ReasonAddress
	case !l.HasGateway:
		r = ReasonGateway
	}
	if l.Lack != "" {
		r.Text = l.Lack
	}
	return r
}

// FSMConfig configures an [FSM]. Zero values take the defaults.
type FSMConfig struct {
	Uplink   string
	Family   rules.Family
	Optional bool          // nobody asks for the family: without address or gateway so far the verdict is disabled
	Unprobed bool          // there are no targets: the path alone decides
	Rise     int           // successes in a row to be trusted again
	Hold     time.Duration // that these must span at least
	Confirm  time.Duration // silence between suspect and down
	Stable   time.Duration // how long a lost link must be complete again
	Classes  Classes       // limits of the classes good and fair
}

func (c FSMConfig) complete() FSMConfig {
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

// ProbeEvent is one event of the probes with the numbers around it.
type ProbeEvent struct {
	Signal   probe.Signal
	Burst    probe.BurstReport // of the burst, for reasons
	Loss     float64           // 0..1 over Outcomes probes outside bursts, for reasons
	Outcomes int
	Confirm  time.Duration // silence between suspect and down on this link; 0 for FSMConfig.Confirm
	Bursts   time.Duration // the mean length of its bursts of loss, which that follows from
	Queue    time.Duration // how late answers come through a queue on the link, which it follows from too; 0 for none
}

// FSM is the verdict on one uplink in one family and the rules by which it
// changes. It is pure: it owns no clock, and the times that it gets must not run
// backwards. It is not safe for concurrent use. Make one with [NewFSM].
type FSM struct {
	cfg    FSMConfig
	state  State
	reason Reason
	since  time.Time

	link  Link
	known bool // the link has been complete once, or a verdict was restored
	// offered is true when there has been an address or a gateway, or a verdict was restored; false again after absentLimit.
	offered bool
	// restored is true until the link of a restored verdict is known.
	restored bool

	quality *Quality
	damping Damping
	confirm time.Duration // in force
	silence unansweredSpan

	// connected is true while it is degraded because connections get on and no target answers.
	connected   bool
	connectedAt time.Time // when a connection last got on

	silentAt   time.Time // Failing: when it was signalled; zero when not, also while suspect since before a restart alone
	confirmAt  time.Time // Failing: when silence becomes down
	stableAt   time.Time // down for its path: when probes may speak again
	stalled    bool      // Failing: confirmAt was put off for a stall
	noRouteAt  time.Time // init: the first NoPath
	receivedAt time.Time // when a packet came in last
	streamAt   time.Time // when a stream of them did
	stepAt     time.Time // when the device began to send much, and no probe is answered that tells the queue since
	deferred   Reason    // Failing, and a stream comes in: the reason to be suspect
	successes  int       // recovering: in a row
	firstAt    time.Time // recovering: when the row began
}

// NewFSM returns an FSM in state init. Its link is unknown until SetLink is called.
func NewFSM(cfg FSMConfig, now time.Time) *FSM {
	m := &FSM{cfg: cfg.complete(), state: Init, reason: reasonStart, since: now, quality: NewQuality(cfg.Classes)}
	m.confirm = m.cfg.Confirm
	return m
}

// State returns the verdict.
func (m *FSM) State() State { return m.state }

// Reason returns why the verdict is what it is.
func (m *FSM) Reason() Reason { return m.reason }

// Since returns when the verdict was reached.
func (m *FSM) Since() time.Time { return m.since }

// Restore continues from a verdict of an earlier run of the daemon, before the
// first SetLink. down stays down until the uplink recovers; recovering begins
// its successes anew; suspect is cleared by the first answer, or after 5 s without
// evidence, and becomes down by fresh silence only. init, disabled and unknown texts
// change nothing.
func (m *FSM) Restore(s State, since time.Time) {
	switch s {
	case Up, Degraded, Suspect, Down, Recovering:
	default:
		return
	}
	m.state, m.since, m.known, m.offered, m.restored = s, since, true, true, true
	m.quality.loss.degraded = s == Degraded
	m.reason = reason(CodeRestart, "was %s before the restart", s)
}

// SetLink takes what the kernel knows. A loss is down at once. A path that is
// complete for the first time is init; one that was lost before stays down until it
// has been complete for Stable and the probes have found the uplink again. One that is not there
// yet when the daemon starts has not failed: after a power cut, for example, or a tunnel that is to be made. An optional
// family that never was there is disabled until it is.
func (m *FSM) SetLink(p Link, now time.Time) (Transition, bool) {
	before := m.link
	m.link = p
	defer func() { m.restored = false }()
	if !p.Complete() {
		m.stableAt = time.Time{}
		if p.HasAddress || p.HasGateway {
			m.offered = true
		} else if p.Carrier && m.state == Down && m.reason.Code == CodeNoAddress && now.Sub(m.since) >= absentLimit {
			m.offered, m.known = false, false
		}
		if m.cfg.Optional && !m.offered {
			return m.absent(p, now)
		}
		if m.restored && m.state != Down {
			m.known = false
		}
		reason := p.missing()
		if reason == ReasonCarrier && !m.known {
			reason = reasonNeverCarrier
		}
		if m.state == Down {
			m.reason = reason
			return Transition{}, false
		}
		return m.to(Down, reason, now), true
	}
	if before.Complete() {
		return Transition{}, false
	}
	first := !m.known
	m.known, m.offered = true, true
	switch {
	case m.state != Down && m.state != Up && m.cfg.Unprobed:
		return m.to(Up, reasonUnprobed, now), true
	case m.state != Down && m.state != Disabled: // nothing was known against it
		if m.state == Init {
			m.reason = reasonInit
		}
		if m.fromRestart() {
			m.confirmAt = now.Add(restartSpan)
		}
		return Transition{}, false
	case first && m.cfg.Unprobed:
		return m.to(Up, reasonUnprobed, now), true
	case first:
		return m.to(Init, reasonInit, now), true
	default:
		m.reason = completeAgain(before.missing().Code, now)
		m.stableAt = now.Add(m.cfg.Stable)
		if m.cfg.Unprobed {
			m.stableAt = now.Add(max(m.cfg.Stable, m.damping.HoldDown()))
		}
		return Transition{}, false
	}
}

// absent is the verdict on a family that nobody asks for and the link has never had.
func (m *FSM) absent(p Link, now time.Time) (Transition, bool) {
	why := reason(CodeNotOffered, "not offered so far: %v", p.missing())
	if m.state == Disabled {
		m.reason = why
		return Transition{}, false
	}
	return m.to(Disabled, why, now), true
}

// PathChanged notes that probes leave by a changed path from now on, with another
// address for example: silence so far is no evidence against it.
func (m *FSM) PathChanged(now time.Time) {
	switch {
	case m.confirmAt.IsZero():
	case m.fromRestart():
		m.confirmAt = now.Add(restartSpan)
	default:
		m.confirmAt = now.Add(m.confirm)
	}
}

// fromRestart reports whether it is suspect for what was seen before a restart, and for nothing else.
func (m *FSM) fromRestart() bool { return m.state == Suspect && m.silentAt.IsZero() }

// Paused notes that probing has stopped: silence from now on is no evidence.
func (m *FSM) Paused() { m.confirmAt = time.Time{} }

// Resumed notes that probing goes on, after Paused.
func (m *FSM) Resumed(now time.Time) {
	switch {
	case !m.Silent() || !m.confirmAt.IsZero():
	case m.fromRestart():
		m.confirmAt = now.Add(restartSpan)
	default:
		m.silentAt, m.confirmAt, m.stalled = now, now.Add(m.confirm), false
	}
}

// Count takes the outcome of one probe, before the Observe of the same event.
func (m *FSM) Count(o probe.Outcome) {
	if !m.link.Complete() {
		return
	}
	// What our own queue loses says nothing about the uplink.
	if o.Kind == probe.Lost && m.quality.congestion.Congested() {
		return
	}
	m.quality.loss.observe(o)
}

// Load notes how much the uplink moves. See [Congestion.Load].
func (m *FSM) Load(load Load, now time.Time) { m.quality.congestion.Load(load, now) }

// Times notes how long answers take. See [Quality.Times].
func (m *FSM) Times(nearest probe.Times, now time.Time) {
	m.quality.Times(nearest, now)
}

// Observe takes an event of the probes.
func (m *FSM) Observe(o ProbeEvent, now time.Time) (Transition, bool) {
	if !m.link.Complete() {
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
	return m.updateLoss(now)
}

func (m *FSM) alive(o ProbeEvent, now time.Time) (Transition, bool) {
	silent, fromRestart := m.silentAt, m.fromRestart()
	m.silentAt, m.confirmAt, m.noRouteAt = time.Time{}, time.Time{}, time.Time{}
	switch m.state {
	case Init:
		return m.to(Up, reasonFirst, now), true
	case Suspect:
		if fromRestart {
			return m.to(m.working(), reason(CodeAnswer, "answered after the restart"), now), true
		}
		return m.to(m.working(), reason(CodeAnswer, "answered again %d ms after it became suspect", now.Sub(silent).Milliseconds()), now), true
	case Down:
		if now.Before(m.stableAt) {
			return Transition{}, false
		}
		t := m.to(Recovering, reason(CodeAnswer, "answers again after %v down", now.Sub(m.since).Round(time.Second)), now)
		m.quality.forget()
		return t, true
	case Recovering:
		return m.recover(now)
	}
	if m.connected {
		m.confirmAt = now.Add(connectionSpan)
		return m.recover(now)
	}
	return m.updateLoss(now)
}

// recover takes an answer, and trusts the uplink again when its row of answers is long enough and the
// hold-down is over. Only the row begins anew with a miss: nobody goes without one
// for a quarter of an hour.
func (m *FSM) recover(now time.Time) (Transition, bool) {
	if m.successes++; m.successes == 1 {
		m.firstAt = now
	}
	span, hold := now.Sub(m.firstAt), m.damping.HoldDown()
	if m.successes < m.cfg.Rise || span < m.cfg.Hold || now.Sub(m.since) < hold {
		return Transition{}, false
	}
	if hold <= m.cfg.Hold {
		hold = 0
	}
	if m.connected {
		m.quality.forget()
	}
	return m.to(m.working(), steady(m.successes, span, hold, m.damping.s.Downs), now), true
}

// working returns the verdict on an uplink that answers.
func (m *FSM) working() State {
	if m.quality.loss.degraded {
		return Degraded
	}
	return Up
}

// updateLoss moves between up and degraded.
func (m *FSM) updateLoss(now time.Time) (Transition, bool) {
	if m.state != Up && m.state != Degraded || m.connected || m.state == m.working() {
		return Transition{}, false
	}
	why := Reason{CodeLoss, m.quality.loss.reason}
	if m.state == Up {
		why.Text += "; class " + m.quality.Reason()
	}
	return m.to(m.working(), why, now), true
}

func (m *FSM) failing(o ProbeEvent, now time.Time) (Transition, bool) {
	m.confirm, m.silence = m.cfg.Confirm, unansweredSpan{o.Burst.Targets, now.Add(-o.Burst.Span), 0, o.Queue}
	if o.Confirm > 0 && o.Confirm != m.cfg.Confirm {
		m.confirm, m.silence.bursts = o.Confirm, o.Bursts
	}
	switch m.state {
	case Init:
		// It is not known to be bad either; Tick decides after Confirm.
		m.silentAt, m.confirmAt, m.stalled = now, now.Add(m.confirm), false
		m.reason = unanswered(o)
	case Up, Degraded:
		if m.connected {
			return Transition{}, false
		}
		until := m.streamAt.Add(freshSpan)
		if filling := m.stepAt.Add(stepSuspect); filling.After(until) {
			until = filling
		}
		if until.After(now) {
			m.silentAt, m.confirmAt, m.deferred = now, until, unanswered(o)
			return Transition{}, false
		}
		return m.suspect(unanswered(o), now), true
	case Suspect:
		if m.fromRestart() { // connections have been looked at since then
			m.silentAt, m.confirmAt, m.stalled = m.silence.since, now.Add(m.confirm), false
			m.reason = unanswered(o)
		}
	case Recovering:
		return m.to(Down, reason(CodeSilence, "while recovering, %s", unanswered(o).Text), now), true
	}
	return Transition{}, false
}

func (m *FSM) suspect(reason Reason, now time.Time) Transition {
	t := m.to(Suspect, reason, now)
	m.silentAt, m.confirmAt = now, now.Add(m.confirm)
	return t
}

// noPath is the end of any trust: traffic would meet the same missing route as
// the probes. Only at the start may the route simply not be there yet.
func (m *FSM) noPath(now time.Time) (Transition, bool) {
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
func (m *FSM) Deadline() time.Time {
	if m.cfg.Unprobed && m.state == Down && m.link.Complete() {
		return m.stableAt
	}
	return m.confirmAt
}

// Tick does what is due.
func (m *FSM) Tick(now time.Time) (Transition, bool) {
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
		if m.connected {
			if until := m.connectedAt.Add(connectionSpan); until.After(now) {
				m.confirmAt = until
				return Transition{}, false
			}
			return m.to(Down, reason(CodeSilence, "no target answers, and no TCP connection has made progress for %v", connectionSpan), now), true
		}
		if fresh := m.streamAt.Add(freshSpan); fresh.After(now) && now.Sub(m.silentAt) < streamHoldLimit {
			m.confirmAt = fresh
			return Transition{}, false
		}
		return m.suspect(m.deferred, now), true
	case Suspect:
		if m.fromRestart() {
			return m.to(m.working(), reason(CodeRestart, "was suspect before the restart, and nothing has shown it since"), now), true
		}
		if m.connectedAt.After(m.silentAt) {
			t := m.to(Degraded, reasonConnected, now)
			m.connected, m.confirmAt = true, m.connectedAt.Add(connectionSpan)
			return t, true
		}
		if fresh := m.receivedAt.Add(freshSpan); fresh.After(now) && now.Sub(m.silentAt) < m.confirm+rxHoldLimit {
			m.confirmAt = fresh
			return Transition{}, false
		}
		if filled := m.stepAt.Add(stepSpan + queueLimit); !m.stepAt.IsZero() && filled.After(now) {
			m.confirmAt = filled
			return Transition{}, false
		}
		return m.to(Down, m.silence.down(m.confirm, now.Sub(m.receivedAt) < freshSpan, now), now), true
	case Init:
		return m.to(Down, Reason{m.reason.Code, "never answered: " + m.reason.Text}, now), true
	case Down: // unprobed
		return m.to(Up, reasonUnprobed, now), true
	}
	return Transition{}, false
}

// Received notes that the device received a packet at a time. Other traffic that
// arrives says that it is the targets or the probes that fail.
func (m *FSM) Received(at time.Time) { m.receivedAt = at }

// Silent reports whether the targets are silent while the uplink is not down for it.
func (m *FSM) Silent() bool { return m.state == Suspect || m.connected }

// Connected notes that a TCP connection by the uplink got on at a time, in both directions, while it was Silent.
func (m *FSM) Connected(at time.Time) { m.connectedAt = at }

// InboundStream notes that the device received a stream of packets up to a time, more than neighbours on the line send.
func (m *FSM) InboundStream(at time.Time) { m.streamAt = at }

// LoadStep notes that the device has begun to send much more at a time. What was silent before is silent for another
// reason.
func (m *FSM) LoadStep(at time.Time) {
	if (m.state == Up || m.state == Degraded) && m.silentAt.IsZero() {
		m.stepAt = at
	}
}

// Answered notes that a probe is answered that was sent at a time.
func (m *FSM) Answered(sent time.Time) {
	if sent.After(m.stepAt.Add(stepSpan)) {
		m.stepAt = time.Time{}
	}
}

// to changes the verdict and forgets what belonged to the old one.
func (m *FSM) to(s State, reason Reason, now time.Time) Transition {
	t := Transition{Uplink: m.cfg.Uplink, Family: m.cfg.Family, From: m.state, To: s, Reason: reason, Class: m.quality.Class(), At: now}
	// What never worked has not failed, and a line that is being given another address (a redial, a
	// renumbering) has not either.
	readdressed := reason.Code == CodeNoAddress || reason.Code == CodeNoGateway
	if s == Down && m.state != Init && !readdressed && !m.restored {
		m.damping.Down(now)
	} else if m.state == Down && s == Up || m.state == Recovering && s != Down {
		m.damping.Up(now)
	}
	m.state, m.reason, m.since = s, reason, now
	m.silentAt, m.confirmAt, m.noRouteAt, m.stableAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	m.successes, m.firstAt, m.stalled, m.connected = 0, time.Time{}, false, false
	if s == Recovering {
		m.successes, m.firstAt = 1, now
	}
	return t
}
