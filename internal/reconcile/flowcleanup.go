package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// flowCleanup is what remains to be done for a path that died, or that an operator has ended: its flows have to be told.
type flowCleanup struct {
	mark       uint32
	addrs      []netip.Addr
	reassigned bool // the mark is that of another uplink now: no connection with it can go on
}

// trackDeadPaths remembers the paths that have just died or were ended, and forgets those that live again. A path
// that is already dead when we first see it has no flows of ours to be told, unless its device, carrier or address went away
// while nobody looked, or an earlier run had not moved them.
func (e *Engine) trackDeadPaths(cfg rules.Config, r *Result) {
	e.trackRemovedUplinks(cfg)
	for _, id := range cfg.Elsewhere { // when it comes back, its connections do, perhaps before its address: it has not died here
		for _, family := range rules.Families {
			path := rules.Path{Uplink: id, Family: family}
			delete(e.verdicts, path)
			if !e.cleanups[path].reassigned {
				delete(e.cleanups, path)
			}
		}
	}
	for path, verdict := range r.Verdicts {
		if slices.Contains(cfg.Elsewhere, path.Uplink) {
			continue
		}
		before, known := e.verdicts[path]
		e.verdicts[path] = verdict
		info := r.Report.Paths[path]
		if len(info.Addresses) > 0 {
			e.addrs[path] = info.Addresses
		}
		gone := !info.Present || !info.Carrier || !info.HasAddress()
		switch {
		case e.cleanups[path].reassigned:
		case verdict.Health > rules.Dead && verdict.Ended == 0:
			delete(e.cleanups, path)
		case known && before.Health > rules.Dead && verdict.Health == rules.Dead, !known && (gone || verdict.Unmoved) && verdict.Health == rules.Dead, verdict.Ended > before.Ended:
			a := flowCleanup{mark: cfg.Kernel.Mark(path.Uplink)}
			for _, p := range e.addrs[path] {
				a.addrs = append(a.addrs, p.Addr())
			}
			e.cleanups[path] = a
		}
	}
}

// trackRemovedUplinks remembers the uplinks that left the configuration: connections that are pinned to one
// have lost their table, and its id may be given to another.
func (e *Engine) trackRemovedUplinks(cfg rules.Config) {
	for id := range e.uplinks {
		if slices.ContainsFunc(cfg.Uplinks, func(u rules.Uplink) bool { return u.ID == id }) || slices.Contains(cfg.Elsewhere, id) {
			continue
		}
		for _, family := range rules.Families {
			path := rules.Path{Uplink: id, Family: family}
			e.cleanups[path] = flowCleanup{mark: cfg.Kernel.Mark(id)}
			delete(e.verdicts, path)
			delete(e.addrs, path)
		}
	}
	clear(e.uplinks)
	for i := range cfg.Uplinks {
		e.uplinks[cfg.Uplinks[i].ID] = true
	}
}

// cleanUpFlows moves the flows that are stuck on dead paths: their conntrack entries go, so that the next packet is
// routed and translated anew, and then local TCP connections and connected UDP sockets are aborted. The routes and rules
// that lead them elsewhere have been read back by then, whatever else is not as it should be. Nothing is killed while
// there is nowhere to go.
func (e *Engine) cleanUpFlows(cfg rules.Config, r *Result) []error {
	var failed []error
	for path, a := range e.cleanups {
		choice := r.Report.Defaults[path.Family]
		if !a.reassigned && (choice.LastResort || choice.Has(path.Uplink)) || r.lacksRoutes(cfg.Kernel, path.Family) {
			continue
		}
		delete(e.cleanups, path)
		failed = append(failed, e.o.Kernel.FlushConntrack(path.Family, a.mark, cfg.Kernel.MarkMask))
		sockets, err := e.o.Kernel.DestroySockets(a.addrs)
		if err != nil {
			failed = append(failed, fmt.Errorf("telling local connections of dead addresses %v: %w", a.addrs, err))
		}
		e.o.Log.Info("ended connections of a path", "uplink", path.Uplink, "family", path.Family.String(), "sockets", sockets)
	}
	return failed
}

// pinEarlier pins the connections that began before there was anything of ours, so that those whose source somebody else has translated
// stay where their answers come in. It must be done before routes and marks of ours lead any of their packets.
func (e *Engine) pinEarlier(report *rules.Report) error {
	if report.Old == nil {
		return nil
	}
	pinned, err := e.o.Kernel.PinConnections(report.Old.Began)
	if pinned > 0 {
		e.o.Log.Info("connections of before stay by the uplink that they began by", "connections", pinned)
	}
	return err
}

// renew restarts connections that the former packet filter let begin, or that began while there was none: it is
// not asked about them again. It looks when the packet filter has changed; when only by which networks are local, as that of a host whose
// containers come and go does all the time, not before renewal.next.
func (e *Engine) renew(r *Result) error {
	w := &e.renewal
	for _, op := range r.Changes {
		switch op := op.(type) {
		case netcfg.PutTable:
			w.due = w.due || op.Table != nil
		case netcfg.PutPolicies:
			w.due = w.due || op.Table != nil
			w.atOnce = w.atOnce || op.Table != nil
		}
	}
	if !w.due || !r.Settled || r.Report.Old == nil {
		return nil
	}
	if left := time.Until(w.next); left > 0 && !w.atOnce {
		if w.later == nil {
			w.later = time.AfterFunc(left, e.Hint)
		}
		w.later.Reset(left)
		return nil
	}
	began := time.Now()
	renewed, err := e.o.Kernel.DeleteConnections(r.Report.Old.Old)
	w.next = began.Add(max(renewPause, renewShare*time.Since(began)))
	if err != nil {
		w.atOnce = true
		return err // and tries again
	}
	w.due, w.atOnce = false, false
	for why, n := range renewed {
		e.o.Log.Info("connections are restarted", "connections", n, "why", why)
	}
	return nil
}

// lacksRoutes reports whether a change is outstanding that new flows of a family need. A packet filter that the kernel
// refuses as a whole leaves the one of before in force.
func (r *Result) lacksRoutes(k rules.Kernel, family rules.Family) bool {
	choice := r.Report.Defaults[family]
	needed := func(table uint32) bool {
		return table == k.TableBase || slices.ContainsFunc(choice.Members, func(m rules.Member) bool { return k.Table(m.Uplink) == table })
	}
	return slices.ContainsFunc(r.left, func(op netcfg.Op) bool {
		switch op := op.(type) {
		case netcfg.PutRoute:
			return op.Family == family && op.IsDefault() && needed(op.Table)
		case netcfg.AddRule:
			return op.Family == family && (op.Table == netcfg.TableMain || needed(op.Table))
		case netcfg.PutTable:
			return !r.Settled
		}
		return false
	})
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
