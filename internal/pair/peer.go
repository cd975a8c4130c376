package pair

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Role is what this router is.
type Role string

// The roles. Alone is a primary that does not hear the other router.
const (
	Primary Role = "primary"
	Backup  Role = "backup"
	Alone   Role = "alone"
)

const (
	// silentFor is how long the other router may be gone before that is a problem, and settle how long two primaries, or none, are what a
	// handover looks like.
	silentFor = 10 * time.Second
	settle    = 4 * time.Second
	// maxSkew is by how much the clocks may differ: leases end by them.
	maxSkew = 5 * time.Second
)

// peer is what is known of the other router.
type peer struct {
	since time.Time // when it came, or went
	heard time.Time // the latest message; zero: none yet
	there bool
	err   string // why it is not
	told  string // of that, in the log
	message
	skew    time.Duration // its clock before ours
	skipped bool          // records of it were not taken, for both were primary
	agree   time.Time     // when exactly one of both was primary last
}

// lives reports whether the other router is heard.
func (p *peer) lives(now time.Time) bool { return p.there && now.Sub(p.heard) < silence }

// hear takes a message in.
func (e *Engine) hear(m *message) error {
	now := time.Now()
	e.mu.Lock()
	if m.Node == e.ledger.Node {
		e.mu.Unlock()
		return errSelf
	}
	p := &e.peer
	came := !p.lives(now)
	var again error
	if came {
		p.since, p.agree = now, now
	}
	records := m.Records
	p.message, p.message.Records = *m, nil
	p.there, p.heard, p.skew, p.err = true, now, m.Now.Sub(now.Round(0)), ""
	if m.Primary != e.primary {
		p.agree = now
	}
	if m.Protocol != protocol {
		p.err = errVersion.Error()
	} else if m.Primary && e.primary {
		p.skipped = p.skipped || len(records) > 0
	} else {
		if p.skipped {
			p.skipped, again = false, errAgain
		}
		grown := false
		for _, r := range records {
			if e.wanted[r.Key] {
				grown = e.ledger.merge(r, e.acting && e.confirmed[r.Key]) || grown
			}
		}
		if grown {
			e.grown()
		}
	}
	e.heardOfHandover(m)
	e.stir()
	peer := e.pair.Peer
	e.mu.Unlock()
	if came {
		e.o.Log.Info("pair: the other router is there", "peer", peer, "version", m.Version)
		e.o.OnEvent(status.Event{Kind: status.EventPair, Code: "peer-there", Message: fmt.Sprintf("the other router, %v, is heard", peer)})
	}
	return again
}

// lost notes that the other router is not heard any more.
func (e *Engine) lost(err error) {
	now := time.Now()
	e.mu.Lock()
	p := &e.peer
	went := p.there
	p.there, p.err = false, err.Error()
	if went {
		p.since = now
	}
	e.prepareFor(nil)
	e.stir()
	peer, news := e.pair.Peer, p.told != p.err
	p.told = p.err
	e.mu.Unlock()
	if news {
		e.o.Log.Warn("pair: the other router is not heard", "peer", peer, "err", err)
	}
	if went {
		e.o.OnEvent(status.Event{Kind: status.EventPair, Code: "peer-silent", Message: fmt.Sprintf("the other router, %v, is not heard", peer), Reason: err.Error()})
	}
}

// Status tells of the pair; nil without one.
func (e *Engine) Status(now time.Time) *status.Pair {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pair.On() {
		return nil
	}
	s := &status.Pair{Role: string(Backup), Peer: e.pair.Peer.String(), Virtual: e.pair.Virtual[0].String(), Heard: status.At(e.peer.heard), Yielding: e.handover != nil}
	p := &e.peer
	switch {
	case e.primary && p.lives(now):
		s.Role = string(Primary)
	case e.primary:
		s.Role = string(Alone)
	}
	var lag int64
	switch {
	case p.heard.IsZero():
		return s
	case e.primary && p.Clock < e.wroteAt:
		lag = now.Sub(e.wrote).Milliseconds()
	case !e.primary:
		lag = max(0, now.Sub(p.heard)-heartbeat).Milliseconds()
	}
	s.LagMS = &lag
	return s
}

// Problems lists what keeps one of the routers from standing in for the other.
func (e *Engine) Problems(now time.Time) []rules.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pair.On() {
		return nil
	}
	var list []rules.Problem
	add := func(code, severity, fix, message string, args ...any) {
		list = append(list, rules.Problem{Code: code, Severity: severity, Message: fmt.Sprintf(message, args...), Fix: fix})
	}
	if e.keyErr != nil {
		add("pair-key", "error", "write the same secret into the file on both routers, readable by root alone, and restart", "the other router is not asked and not told anything: %v", e.keyErr)
		return list
	}
	p := &e.peer
	if !p.lives(now) {
		if now.Sub(p.since) >= silentFor {
			add("pair-peer-silent", "warning", "start uplinkd there; compare [pair] peer and key_file on both, and let TCP pass between the two",
				"the other router, %v, has not been heard since %s: %s", e.pair.Peer, p.since.Format(time.TimeOnly), p.err)
		}
		return list
	}
	if p.Protocol != protocol {
		add("pair-version", "error", "bring both to the same version", "the other router runs uplinkd %s, whose records this one does not take", p.Version)
		return list
	}
	if e.primary == p.Primary && now.Sub(p.agree) >= settle {
		if e.primary {
			add("pair-both-primary", "error", "look for what keeps VRRP's advertisements from the other router: a switch, a firewall, another virtual_router_id; or for a keepalived that was killed",
				"both routers have %v: hosts may reach either, and neither takes anything from the other", e.pair.Virtual[0])
		} else {
			add("pair-no-primary", "error", "start keepalived", "neither router has %v: hosts have no router", e.pair.Virtual[0])
		}
	}
	if difference := e.setup.differs(&p.Setup); difference != "" {
		add("pair-differs", "error", "write the same uplinks, ids and LANs into both configurations", "the other router has another configuration, so connections would not go on there: %s", difference)
	}
	if p.skew.Abs() > maxSkew {
		add("pair-clock", "warning", "synchronise both by NTP", "the clock of the other router differs by %v: leases end too soon, or too late, when it takes over", p.skew.Round(time.Second))
	}
	return list
}

// differs says in what two routers are not set up alike; "": in nothing.
func (s *Setup) differs(o *Setup) string {
	if s.MarkMask != o.MarkMask {
		return fmt.Sprintf("mark_mask is %#x here and %#x there", s.MarkMask, o.MarkMask)
	}
	for _, of := range []struct {
		what, number string
		here, there  map[string]int
	}{{"uplink", "id", s.Uplinks, o.Uplinks}, {"LAN", "subnet_id", s.LANs, o.LANs}} {
		names := slices.AppendSeq(slices.Collect(maps.Keys(of.here)), maps.Keys(of.there))
		slices.Sort(names)
		for _, name := range names {
			here, is := of.here[name]
			there, isThere := of.there[name]
			switch {
			case !isThere:
				return fmt.Sprintf("it has no %s %s", of.what, name)
			case !is:
				return fmt.Sprintf("%s %s is there alone", of.what, name)
			case here != there:
				return fmt.Sprintf("%s %s has %s %d here and %d there", of.what, name, of.number, here, there)
			}
		}
	}
	if !slices.Equal(s.Moving, o.Moving) {
		return fmt.Sprintf("shared or primary_only are %q here and %q there", s.Moving, o.Moving)
	}
	return ""
}
