package dns

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules"
)

// server is a DNS server of an uplink with what is known of it.
type server struct {
	rules.Resolver
	uplink string // name
	index  int    // of the device, 0 while there is none
	state  State
}

// State says how a server answers.
type State string

// The states. Only what answers, or has not been asked yet, is told to anybody while there is such a one.
const (
	Unasked State = ""
	OK      State = "ok"
	Silent  State = "silent"  // nothing comes back
	Lies    State = "lies"    // it invents addresses for names that do not exist
	Refuses State = "refuses" // it answers that it will not, or cannot
)

func (s State) bad() bool { return s != Unasked && s != OK }

// choose returns the servers to be asked, the first first. Of a list in the order of planning it takes those of the best uplinks: of the
// ones that work, else of those that may, else of drained ones. A server that is no good is passed over; while none is any good all stay, and
// so they do while no uplink is alive: nothing is better than what there was.
func choose(list []server) []server {
	list = slices.DeleteFunc(slices.Clone(list), func(s server) bool { return s.Aside })
	for _, fits := range []func(*server) bool{
		func(s *server) bool { return !s.Dead() && !s.state.bad() },
		func(s *server) bool { return !s.Dead() },
		func(s *server) bool { return true },
	} {
		best := 0
		for i := range list {
			if fits(&list[i]) {
				best = max(best, trust(list[i].Code))
			}
		}
		if best > 0 {
			return slices.DeleteFunc(list, func(s server) bool { return !fits(&s) || trust(s.Code) != best })
		}
	}
	return nil
}

// trust puts the codes of uplinks into groups of which one is used; larger is better. What loses packets resolves names.
func trust(c rules.ChoiceCode) int {
	switch c {
	case rules.ChoiceGood, rules.ChoiceImpaired:
		return 4
	case rules.ChoiceDoubtful:
		return 3
	case rules.ChoiceDrained:
		return 2
	}
	return 1
}
