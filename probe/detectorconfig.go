package probe

import "time"

// Signal is what a Detector concludes from one event.
type Signal uint8

// The signals.
const (
	// None: nothing new about the uplink.
	None Signal = iota
	// Alive: a reply came, and with it at least MinTargetsUp distinct targets
	// have answered since the last trouble began. With the default of one
	// that is every reply, late ones too.
	Alive
	// Missed: a target that may vote did not answer in time.
	Missed
	// Failing: Fall probes of a burst went unanswered. Given once; the next
	// signal after it is Alive or NoPath.
	Failing
	// NoPath: Fall probes of a burst could not leave for lack of a route or a
	// device. Given once per burst, so repeatedly while that lasts.
	NoPath
)

// String names the signal, for logs and tests.
func (s Signal) String() string {
	return [...]string{"none", "alive", "missed", "failing", "no path"}[s]
}

// The Detector's defaults, those of the configuration.
const (
	DefaultInterval     = time.Second
	DefaultFastInterval = 100 * time.Millisecond
	DefaultTimeout      = time.Second
	DefaultConfirm      = 640 * time.Millisecond
	DefaultFall         = 4
)

const (
	// followUps is how many probes follow at followUpInterval when a burst
	// was answered. One loss is nothing; whether it was one of many is known in
	// seconds instead of a minute, for a tenth more probes on a link that loses
	// one in a hundred.
	followUps        = 10
	followUpInterval = 150 * time.Millisecond
)

const (
	// Listen is how long an answer is listened for, whatever counts as a miss meanwhile: an answer that waits in a
	// full queue is a sign of life, however late. Queues of 5 s are met on LTE.
	Listen = 10 * time.Second
	// MaxInFlight bounds the probes that are listened for at one time.
	MaxInFlight = 128
	// silentPace is how many probes a burst sends in FastInterval when traffic shows silence already.
	silentPace = 4
	// deadFactor is how many idle intervals lie between two probes of a target
	// that is known to be dead.
	deadFactor = 10
	// deadSilences is how often a target must be silent while another one
	// answers a probe sent no earlier, before it is known to be dead.
	deadSilences = 3
	// lagLimit is by how much Tick may be late before that is taken to be our
	// own stall, after which answers may be waiting in the sockets; lagGrace
	// is the time given to fetch them.
	lagLimit = 50 * time.Millisecond
	lagGrace = 25 * time.Millisecond
)

// DetectorConfig configures a Detector. Zero values take the defaults.
type DetectorConfig struct {
	Targets      []Target
	Interval     time.Duration // between probes while all is well
	FastInterval time.Duration // between probes of a burst; at most Interval
	Timeout      time.Duration // upper bound of the adaptive timeout; later answers count all the same
	Confirm      time.Duration // how long FastInterval goes on after Failing, on a link without loss
	Fall         int           // misses in a burst that mean Failing, on a link that loses little
	MinTargetsUp int           // distinct answering targets that mean Alive

	// Phase, when set, is the time that idle probes follow at whole multiples of
	// Interval, so that those of several Detectors are sent together: each time that
	// a processor wakes costs. SetInterval does not change those moments.
	Phase time.Time

	// OnOutcome takes each Outcome, from inside the call that decides it. May be nil.
	OnOutcome func(Outcome)
}

// Outcome is one step in what is known about loss.
type Outcome struct {
	Target int
	Voters int // how many targets may vote
	Kind   OutcomeKind
}

// OutcomeKind is what became of a probe.
type OutcomeKind uint8

// The outcomes.
const (
	Answered  OutcomeKind = iota // in time
	Lost                         // unanswered for its timeout
	Retracted                    // a Lost one of this target was answered late
	Discarded                    // the target is dead by itself: its Lost ones were no loss of the uplink
)

// ListeningWindow returns for how long the answer to a probe is to be listened for: [Listen], unless so many are sent
// meanwhile that they would exceed [MaxInFlight]; never less than timeout. Zero values take the defaults.
func ListeningWindow(timeout, fastInterval time.Duration) time.Duration {
	return max(orDefault(timeout, DefaultTimeout), min(Listen, MaxInFlight*orDefault(fastInterval, DefaultFastInterval)))
}

func (c DetectorConfig) complete() DetectorConfig {
	c.Interval = orDefault(c.Interval, DefaultInterval)
	c.FastInterval = min(orDefault(c.FastInterval, DefaultFastInterval), c.Interval)
	c.Timeout = orDefault(c.Timeout, DefaultTimeout)
	c.Confirm = orDefault(c.Confirm, DefaultConfirm)
	c.Fall = orDefault(c.Fall, DefaultFall)
	c.MinTargetsUp = max(min(c.MinTargetsUp, len(c.Targets)), 1)
	return c
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}
