package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
)

// returns are the paths whose uplinks take back what others carry in their place.
type returns struct {
	away map[rules.Path]bool // others carry the default, because of what this path is like
	back map[rules.Path]bool // it does again, and others still have connections of before
}

// observe compares who carries the default with what was before. A path that others of its tier are faster than has not been away.
func (s *returns) observe(cfg rules.Config, r *Result) {
	if s.away == nil {
		s.away, s.back = make(map[rules.Path]bool), make(map[rules.Path]bool)
	}
	takesBack := make(map[int]bool)
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		if takesBack[u.ID] = u.TakesBack; !u.TakesBack {
			continue
		}
		for _, family := range rules.Families {
			path := rules.Path{Uplink: u.ID, Family: family}
			verdict, choice := r.Verdicts[path], r.Report.Defaults[family]
			switch carries := choice.Has(u.ID) && !choice.LastResort; {
			case carries && s.away[path]:
				delete(s.away, path)
				s.back[path] = true
			case !carries:
				delete(s.back, path)
				s.away[path] = s.away[path] || verdict.Health < rules.Good || verdict.Drained
			}
		}
	}
	for _, paths := range []map[rules.Path]bool{s.away, s.back} {
		maps.DeleteFunc(paths, func(p rules.Path, _ bool) bool { return !takesBack[p.Uplink] })
	}
}

// takeBack ends, once new ones go by an uplink that takes back, the connections that others carry in its place: they begin anew.
func (e *Engine) takeBack(cfg rules.Config, r *Result) error {
	e.returns.observe(cfg, r)
	var ready []rules.Path
	for path := range e.returns.back {
		if !r.lacksRoutes(cfg.Kernel, path.Family) && r.Report.Old != nil {
			ready = append(ready, path)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	const moves = "their uplink is back"
	var ended []rules.Connection
	deleted, err := e.o.Kernel.DeleteConnections(func(c *rules.Connection) string {
		if !slices.ContainsFunc(ready, func(p rules.Path) bool { return p.Family == c.Family && r.Report.Old.MovesTo(p.Uplink, c) }) {
			return ""
		}
		ended = append(ended, *c)
		return moves
	})
	if err != nil {
		return err // and tries again
	}
	sockets, err := e.o.Kernel.DestroyConnections(ended)
	if err != nil {
		return fmt.Errorf("telling local connections that their uplink is back: %w", err)
	}
	for _, path := range ready {
		delete(e.returns.back, path)
		e.o.Log.Info("ended what others carried in the place of an uplink that is back", "uplink", path.Uplink, "family", path.Family.String(),
			"connections", deleted[moves], "sockets", sockets)
	}
	return nil
}
