package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// interval is how often lines are looked at.
	interval = 5 * time.Second
	// longestRun is how long a program may take: modems are slow.
	longestRun = 3 * time.Minute
	// docRecovery is the document of the state directory for the runs.
	docRecovery = "recovery"
)

// Options are what an Engine is made of. All are required.
type Options struct {
	Phase time.Time // lines are looked at at whole intervals after it
	Log   *slog.Logger
	// Verdicts returns those of all paths.
	Verdicts func() []status.PathVerdict
	// Drained returns the uplinks, by name, that the operator has taken out of use.
	Drained func() map[string]bool
	// OnEvent takes what belongs into the decision log.
	OnEvent func(status.Event)
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
}

// Engine runs the owner's programs. Make one with [New]; all methods may be called by any goroutine.
type Engine struct {
	o Options

	running sync.WaitGroup // programs

	mu      sync.Mutex // guards what follows; no callback is called under it
	uplinks []config.Uplink
	kept    map[string]*uplink.Recovery // by uplink name
	lines   map[string]*line            // likewise, of those that are configured
}

// line is what is known of an uplink that may be helped.
type line struct {
	busy   bool
	worked map[rules.Family]bool // in this run
	hold   uplink.RecoveryHold
	told   uplink.RecoveryHold // of this outage
	next   time.Time
	failed string // the latest run; "" when it has not
}

// New returns an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	return &Engine{o: o, kept: make(map[string]*uplink.Recovery), lines: make(map[string]*line)}
}

// Documents returns the documents of the state directory, by name, to be filled before Configure.
func (e *Engine) Documents() map[string]any { return map[string]any{docRecovery: &e.kept} }

// Configure sets the uplinks of a configuration, which is not changed any more.
func (e *Engine) Configure(c *config.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.uplinks = c.Uplinks
	lines := make(map[string]*line)
	for i := range c.Uplinks {
		name := c.Uplinks[i].Name
		if len(c.Uplinks[i].Recover.Run) == 0 {
			continue
		}
		if lines[name] = e.lines[name]; lines[name] == nil {
			lines[name] = &line{worked: make(map[rules.Family]bool)}
		}
		if e.kept[name] == nil {
			e.kept[name] = new(uplink.Recovery)
		}
	}
	e.lines = lines
	maps.DeleteFunc(e.kept, func(name string, _ *uplink.Recovery) bool { return lines[name] == nil })
}

// Run looks at the lines until the context ends, which ends the programs too.
func (e *Engine) Run(ctx context.Context) error {
	schedule.Every(ctx, e.o.Phase, interval, func(now time.Time) { e.look(ctx, now) })
	e.running.Wait()
	return nil
}

// look decides about each line.
func (e *Engine) look(ctx context.Context, now time.Time) {
	e.mu.Lock()
	none := len(e.lines) == 0
	e.mu.Unlock()
	if none {
		return
	}
	verdicts, drained := e.o.Verdicts(), e.o.Drained()
	var events []status.Event
	var start []config.Uplink
	e.mu.Lock()
	for i := range e.uplinks {
		u := &e.uplinks[i]
		l := e.lines[u.Name]
		if l == nil || l.busy {
			continue
		}
		in := e.input(u, l, verdicts)
		in.Operator = drained[u.Name]
		policy := uplink.RecoveryPolicy{After: u.Recover.After, MaxPerDay: u.Recover.MaxPerDay}
		run, hold, next := e.kept[u.Name].Decide(policy, in, now)
		if l.hold, l.next = hold, next; in.Since.IsZero() {
			l.told = uplink.HoldNothing
			continue
		}
		if run {
			e.kept[u.Name].Started(now)
			l.busy = true
			start = append(start, *u)
			events = append(events, status.Event{Kind: status.EventRecover, Uplink: u.Name, Code: string(status.RecoverStarted),
				Message: fmt.Sprintf("runs %s (%d of %d in a day)", strings.Join(u.Recover.Run, " "), len(e.kept[u.Name].Runs), u.Recover.MaxPerDay),
				Reason:  fmt.Sprintf("down for %v", now.Sub(in.Since).Round(time.Second))})
			continue
		}
		due := now.Sub(in.Since) >= u.Recover.After
		if due && hold != uplink.HoldPause && hold != uplink.HoldNothing && hold != l.told {
			l.told = hold
			events = append(events, status.Event{Kind: status.EventRecover, Uplink: u.Name, Code: string(hold), Message: "is not helped: " + heldBecause[hold]})
		}
	}
	e.mu.Unlock()
	if len(start) > 0 {
		e.save() // before they run: the bound holds whatever they do to this machine
	}
	for _, event := range events {
		e.o.OnEvent(event)
	}
	for _, u := range start {
		e.running.Go(func() { e.help(ctx, u) })
	}
}

var heldBecause = map[uplink.RecoveryHold]string{
	uplink.HoldCommon:   "every uplink is silent, so that the cause is not this line",
	uplink.HoldCutsRest: "what still works by it is all that works",
	uplink.HoldBound:    "it was helped as often as it may be in a day",
	uplink.HoldOperator: "it is drained",
}

// input says how a line is. A family that has never worked is no outage while the other one works: nothing would bring it. The lock is held.
func (e *Engine) input(u *config.Uplink, l *line, verdicts []status.PathVerdict) (in uplink.RecoveryInput) {
	works := func(v *status.PathVerdict) bool {
		return !v.Suspended && (v.Verdict.State == uplink.Up || v.Verdict.State == uplink.Degraded || v.Verdict.State == uplink.Recovering)
	}
	isp := make(map[string]bool) // a tunnel may be carried by this very line
	for i := range e.uplinks {
		isp[e.uplinks[i].Name] = e.uplinks[i].Kind == config.KindISP
	}
	carries, others := make(map[rules.Family]bool), make(map[rules.Family]bool)
	var down []*status.PathVerdict
	for i := range verdicts {
		v := &verdicts[i]
		switch {
		case v.Uplink != u.Name:
			others[v.Family] = others[v.Family] || works(v) && isp[v.Uplink]
		case works(v):
			carries[v.Family], l.worked[v.Family] = true, true
		case v.Verdict.State == uplink.Down && v.Current():
			down = append(down, v)
		}
	}
	for _, v := range down {
		if len(carries) > 0 && !l.worked[v.Family] {
			continue
		}
		if in.Since.IsZero() || v.Verdict.Since.Before(in.Since) {
			in.Since = v.Verdict.Since
		}
		in.Common = in.Common || v.Common
	}
	for family := range carries {
		in.CutsRest = in.CutsRest || !others[family]
	}
	return in
}

// help runs the program of an uplink, and tells how that went.
func (e *Engine) help(ctx context.Context, u config.Uplink) {
	e.o.Log.Info("helping a line", "uplink", u.Name, "program", u.Recover.Run[0])
	err := hooks.Command{Program: u.Recover.Run[0], Args: u.Recover.Run[1:], Timeout: longestRun, Vars: map[string]string{"UPLINK": u.Name, "DEVICE": u.Device}}.Run(ctx)
	e.mu.Lock()
	if l := e.lines[u.Name]; l != nil {
		l.busy = false
		if l.failed = ""; err != nil {
			l.failed = err.Error()
		}
	}
	e.mu.Unlock()
	event := status.Event{Kind: status.EventRecover, Uplink: u.Name, Code: string(status.RecoverDone), Message: u.Recover.Run[0] + " is done"}
	if err != nil {
		e.o.Log.Warn("helping a line failed", "uplink", u.Name, "err", err)
		event.Code, event.Message, event.Reason = string(status.RecoverFailed), u.Recover.Run[0]+" failed", err.Error()
	}
	if ctx.Err() == nil {
		e.o.OnEvent(event)
	}
}

func (e *Engine) save() {
	e.o.Save(docRecovery, func() any {
		e.mu.Lock()
		defer e.mu.Unlock()
		kept := make(map[string]uplink.Recovery, len(e.kept))
		for name, r := range e.kept {
			kept[name] = uplink.Recovery{Runs: slices.Clone(r.Runs), Streak: r.Streak}
		}
		return kept
	})
}

// Status returns what is known of each uplink that may be helped, by name.
func (e *Engine) Status() map[string]*status.Recovery {
	e.mu.Lock()
	defer e.mu.Unlock()
	found := make(map[string]*status.Recovery, len(e.lines))
	for i := range e.uplinks {
		u := &e.uplinks[i]
		l := e.lines[u.Name]
		if l == nil {
			continue
		}
		s := &status.Recovery{Running: l.busy, RunsToday: len(e.kept[u.Name].Runs), MaxPerDay: u.Recover.MaxPerDay, Held: string(l.hold), Next: status.At(l.next), Error: l.failed}
		if n := len(e.kept[u.Name].Runs); n > 0 {
			s.Last = status.At(e.kept[u.Name].Runs[n-1])
		}
		found[u.Name] = s
	}
	return found
}

// Problems lists programs that cannot be run, or have failed.
func (e *Engine) Problems() (list []rules.Problem) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.uplinks {
		u := &e.uplinks[i]
		l := e.lines[u.Name]
		if l == nil {
			continue
		}
		if err := hooks.Runnable(u.Recover.Run[0]); err != nil {
			list = append(list, rules.Problem{Code: "recover-program", Severity: "warning", Message: fmt.Sprintf("%s could not be helped: %v", u.Name, err),
				Fix: "install the program, as root's, or correct run in [uplink.recover]"})
		} else if l.failed != "" {
			list = append(list, rules.Problem{Code: "recover-failed", Severity: "warning", Message: fmt.Sprintf("helping %s failed: %s", u.Name, l.failed),
				Fix: "run it by hand: " + strings.Join(u.Recover.Run, " ")})
		}
	}
	return list
}
