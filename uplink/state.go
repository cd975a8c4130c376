package uplink

import (
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// State is the verdict on one uplink in one family. Its text is what the status,
// the metrics and the state directory show.
type State string

// The verdicts.
const (
	Init       State = "init"       // not known yet; used
	Up         State = "up"         // answers
	Degraded   State = "degraded"   // answers, and loses much; used
	Suspect    State = "suspect"    // has just stopped answering; no new flows
	Down       State = "down"       // does not answer, or has no path
	Recovering State = "recovering" // answers again, not trusted yet
	Disabled   State = "disabled"   // the family is off, or nobody offers it and nobody asks for it
)

// States lists every verdict, for metrics that have one series each.
var States = [...]State{Init, Up, Degraded, Suspect, Down, Recovering, Disabled}

// Valid reports whether s is one of the verdicts.
func (s State) Valid() bool { return slices.Contains(States[:], s) }

// Health orders verdicts by how much an uplink may be relied on.
type Health uint8

// The levels, worst first. Uplinks of a lower level are used only when there is
// no higher one; HealthNone never.
const (
	HealthNone     Health = iota // disabled
	HealthDead                   // down
	HealthDoubtful               // suspect, recovering
	HealthGood                   // init, up, degraded
)

// String names the level.
func (h Health) String() string {
	return [...]string{"none", "dead", "doubtful", "good"}[h]
}

// Health returns the level of the verdict; an unknown one has none.
func (s State) Health() Health {
	switch s {
	case Init, Up, Degraded:
		return HealthGood
	case Suspect, Recovering:
		return HealthDoubtful
	case Down:
		return HealthDead
	default:
		return HealthNone
	}
}

// Transition is one change of a verdict.
type Transition struct {
	Uplink   string
	Family   rules.Family
	From, To State
	Reason   Reason
	Class    Class    // how well it works, or did
	Evidence []string // one line per target; empty without targets
	At       time.Time
}
