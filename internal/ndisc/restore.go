package ndisc

import (
	"slices"
	"time"
)

// maxLife is how long something that was learned lasts at most after a restart: routers say again in time what holds.
const maxLife = 30 * 24 * time.Hour

// View makes the View of a state that was kept over a restart, without what is over by now.
func (s State) View(now time.Time) View {
	m := newMachine("", nil, s, nil)
	m.expire(now)
	return m.view()
}

// Usable returns a state that was read from a file without what no advertisement can have said, and with its ends on the
// monotonic clock: setting the time of day neither ends nor prolongs anything.
func (s State) Usable(now time.Time) State {
	s = s.usable()
	ends := func(list ...*time.Time) {
		for _, end := range list {
			if !end.IsZero() {
				*end = now.Add(max(-maxLife, min(maxLife, end.Sub(now))))
			}
		}
	}
	for i := range s.Routers {
		ends(&s.Routers[i].Expires)
		if s.Routers[i].Heard.After(now) {
			s.Routers[i].Heard = now
		}
	}
	for i := range s.Prefixes {
		ends(&s.Prefixes[i].Preferred, &s.Prefixes[i].Valid)
	}
	for i := range s.Addresses {
		ends(&s.Addresses[i].Preferred, &s.Addresses[i].Valid)
	}
	for i := range s.Routes {
		ends(&s.Routes[i].Expires)
	}
	for i := range s.DNS {
		ends(&s.DNS[i].Expires)
	}
	for i := range s.NAT64 {
		ends(&s.NAT64[i].Expires)
	}
	for i := range s.Search {
		ends(&s.Search[i].Expires)
	}
	return s
}

// Usable drops what no host can have been told from what was read from a file, and puts its ends on the monotonic clock.
func (l *Advertised) Usable(now time.Time) {
	l.Entries = slices.DeleteFunc(l.Entries, func(e Entry) bool {
		a := e.Prefix.Addr()
		return e.Prefix.Bits() != 64 || !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() || e.Prefix != e.Prefix.Masked()
	})
	for i := range l.Entries {
		e := &l.Entries[i]
		for _, end := range []*time.Time{&e.Preferred, &e.Valid, &e.Held} {
			if !end.IsZero() {
				*end = now.Add(max(-maxLife, min(maxLife, end.Sub(now))))
			}
		}
	}
}
