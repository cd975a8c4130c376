package config

import (
	"fmt"
	"path/filepath"
	"time"
)

// Recover is [uplink.recover]: what is run to help a line that stays dead. Its pauses double from After on.
type Recover struct {
	After     time.Duration // after: of an outage, 30s..24h
	Run       []string      // run: an absolute path of a program, and what it is given; none: nothing is run
	MaxPerDay int           // max_per_day: runs in 24 h, 1..100
}

const (
	titleRecover   = "[uplink.recover]"
	maxRecoverArgs = 32
)

func defaultRecover() Recover { return Recover{After: 5 * time.Minute, MaxPerDay: 6} }

func recoverSection(x *Recover) section {
	return section{titleRecover, []field{
		duration("after", &x.After, 30*time.Second, 24*time.Hour),
		texts("run", &x.Run, "/usr/local/sbin/reset-modem", maxRecoverArgs, nil),
		integer("max_per_day", &x.MaxPerDay, 1, 100, nil),
	}}
}

// recover reads the section.
func (r *reader) recover(t *table, x *Recover) {
	r.section(t, recoverSection(x))
	v := t.values["run"]
	switch {
	case v == nil && t.usable("run"):
		r.errorf(t.off, `this section has nothing to run: write run = ["/usr/local/sbin/reset-modem", "wwan0"] below, with your own`)
	case v == nil || v.bad:
	case len(x.Run) == 0:
		r.fail(v, v.off, "run is empty: name a program, or remove the section")
	case !filepath.IsAbs(x.Run[0]) || filepath.Clean(x.Run[0]) != x.Run[0]:
		r.fail(v, v.elems[0].off, "run begins with %s, which is no absolute path: no shell and no PATH looks for it", quote(x.Run[0]))
	}
}

// Program is one that the configuration names, and whose it is.
type Program struct {
	User string // what needs it, as in "uplink lte"
	Path string
}

// Programs lists those that may be run.
func (c *Config) Programs() (list []Program) {
	if len(c.Pair.Prepare) > 0 {
		list = append(list, Program{"[pair] prepare", c.Pair.Prepare[0]})
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; len(u.Recover.Run) > 0 {
			list = append(list, Program{fmt.Sprintf("uplink %s: [uplink.recover]", u.Name), u.Recover.Run[0]})
		}
	}
	return list
}
