package ndisc

import "time"

// View returns what still holds of a state that an earlier run kept, for use before anybody listens again.
func (s State) View(now time.Time) View {
	m := newMachine("", nil, s, nil)
	m.expire(now)
	return m.view()
}
