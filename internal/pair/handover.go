package pair

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	// catchUpTimeout is how long a handover waits for the other router to know the latest, and readyTimeout for it to be ready.
	catchUpTimeout = 3 * time.Second
	readyTimeout   = 8 * time.Second
	// moveTimeout is how long keepalived may take: with advert_int 1, four seconds.
	moveTimeout = 10 * time.Second
	// preparedFor is how long the other router stays prepared without a word.
	preparedFor = 30 * time.Second
	// prepareAgain is how soon it prepares for what has begun since.
	prepareAgain = 200 * time.Millisecond
)

// Line is one family of a line whose address moves, as the primary has it.
type Line struct {
	Uplink    string         `json:"uplink"`
	Addresses []netip.Prefix `json:"addresses"`        // with host bits, the source of new packets first
	Gateway   netip.Addr     `json:"gateway,omitzero"` // zero: on-link
	// Delegations are what it has for LANs, in IPv6.
	Delegations []rules.Delegation `json:"delegations,omitempty"`
}

func (l *Line) family() rules.Family {
	if len(l.Addresses) > 0 && l.Addresses[0].Addr().Is6() {
		return rules.IPv6
	}
	return rules.IPv4
}

// usable reports whether it has addresses, all of one family.
func (l *Line) usable() bool {
	is6 := l.family() == rules.IPv6
	return len(l.Addresses) > 0 && (!l.Gateway.IsValid() || l.Gateway.Is6() == is6) &&
		!slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return !p.IsValid() || p.Addr().Is6() != is6 })
}

// same reports whether two lines have the same addresses, in whatever order.
func (l *Line) same(o *Line) bool {
	return l.Uplink == o.Uplink && l.Gateway == o.Gateway && reflect.DeepEqual(l.Delegations, o.Delegations) && len(l.Addresses) == len(o.Addresses) &&
		!slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return !slices.Contains(o.Addresses, p) })
}

// handover is a primary's word that the other router is to take over.
type handover struct {
	ID    string `json:"id"` // of this attempt
	Lines []Line `json:"lines"`
}

// readiness is the other router's answer.
type readiness struct {
	ID  string `json:"id"`
	Err string `json:"err,omitempty"` // why it is not ready
}

// ErrNoHandover is in each error of [Engine.Yield]: this router is primary as before, or nobody knows better.
var ErrNoHandover = errors.New("no handover")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrNoHandover, fmt.Errorf(format, args...))
}

// Yield has the other router take over, and returns when it has, after some 20 s at most. It has to be there, set up alike, and to know what this one
// knows; it prepares for the lines, and then keepalived here is told by YieldFile to rank behind it. An error is [ErrNoHandover], and has a
// sentence for the operator.
func (e *Engine) Yield(ctx context.Context, lines []Line) error {
	e.mu.Lock()
	err := e.cannotYield(time.Now())
	h := &handover{ID: newNode(), Lines: lines}
	if err == nil {
		e.handover = h
	}
	peer, virtual := e.pair.Peer.Addr(), e.pair.Virtual
	e.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		e.mu.Lock()
		e.handover = nil
		e.news()
		e.mu.Unlock()
	}()
	tell := func(code, reason, message string, args ...any) {
		e.o.OnEvent(status.Event{Kind: status.EventPair, Code: code, Message: fmt.Sprintf(message, args...), Reason: reason})
	}
	tell("yielding", "", "%v is to go to the other router, %v", virtual[0], peer)
	if err = e.handOver(ctx, h); err != nil {
		tell("yield-failed", err.Error(), "%v stays here", virtual[0])
		return err
	}
	tell("yielded", "", "the other router, %v, has %v", peer, virtual[0])
	return nil
}

func (e *Engine) handOver(ctx context.Context, h *handover) error {
	e.mu.Lock()
	peer, virtual := e.pair.Peer.Addr(), e.pair.Virtual[0]
	e.mu.Unlock()
	goes := func() error { return e.cannotHandOver(time.Now()) }
	if !e.await(ctx, catchUpTimeout, func() bool { return goes() != nil || e.peer.Clock >= e.wroteAt }) {
		return refused("the other router, %v, does not know yet what this one knows: try again when lag_ms of uplinkd status is 0", peer)
	}
	e.mu.Lock()
	err := goes()
	e.news()
	e.mu.Unlock()
	if err != nil {
		return err
	}
	answered := func() bool { return e.peer.Ready != nil && e.peer.Ready.ID == h.ID }
	ready := e.await(ctx, readyTimeout, func() bool { return goes() != nil || answered() })
	e.mu.Lock()
	err = goes()
	if err == nil && answered() && e.peer.Ready.Err != "" {
		err = refused("the other router, %v, is not ready: %s", peer, e.peer.Ready.Err)
	}
	e.mu.Unlock()
	switch {
	case err != nil:
		return err
	case !ready:
		return refused("the other router, %v, does not answer that it is ready: upgrade uplinkd there, if it is older", peer)
	}
	if err := e.rank(true); err != nil {
		return refused("keepalived cannot be told: %w", err)
	}
	if e.await(ctx, moveTimeout, func() bool { return !e.primary && e.peer.Primary && e.peer.lives(time.Now()) }) {
		return nil
	}
	err = refused("keepalived did not move %v within %v after %s was written. It has to track this file on both routers, and the other one must preempt: "+
		"compare track_file with examples/pair/keepalived.conf, and write neither nopreempt nor preempt_delay", virtual, moveTimeout, e.o.YieldFile)
	e.mu.Lock()
	stays := e.primary
	e.mu.Unlock()
	if stays {
		err = errors.Join(err, e.rank(false))
	}
	return err
}

// cannotYield says why no handover can begin; nil when one can. The lock is held.
func (e *Engine) cannotYield(now time.Time) error {
	switch {
	case !e.pair.On():
		return refused("there is no [pair] in the configuration")
	case e.handover != nil:
		return refused("one is under way")
	case e.keyErr != nil:
		return refused("%w", e.keyErr)
	}
	return e.cannotHandOver(now)
}

// cannotHandOver says what is in the way of a handover. The lock is held.
func (e *Engine) cannotHandOver(now time.Time) error {
	p, peer := &e.peer, e.pair.Peer.Addr()
	switch {
	case !e.primary:
		return refused("this router is the backup: yield at the other one, %v", peer)
	case !e.acting:
		return refused("this router is only about to become primary: try again")
	case !p.lives(now):
		return refused("the other router, %v, is not heard: %s", peer, p.err)
	case p.Protocol != protocol:
		return refused("the other router, %v, runs uplinkd %s, which does not understand this one: upgrade it first", peer, p.Version)
	case p.Primary:
		return refused("both routers have %v: see the problem pair-both-primary", e.pair.Virtual[0])
	}
	if difference := e.setup.differs(&p.Setup); difference != "" {
		return refused("the other router, %v, has another configuration: %s", peer, difference)
	}
	return nil
}

// await waits until something is so, which is asked under the lock, and reports whether it came to be.
func (e *Engine) await(ctx context.Context, d time.Duration, so func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		e.mu.Lock()
		is, stirred := so(), e.stirred
		e.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-stirred:
		}
	}
}

// stir wakes those who await something. The lock is held.
func (e *Engine) stir() {
	close(e.stirred)
	e.stirred = make(chan struct{})
}

// heardOfHandover takes what the other router says of a handover. The lock is held.
func (e *Engine) heardOfHandover(m *message) {
	switch {
	case e.primary || m.Protocol != protocol:
		e.prepareFor(nil)
	case m.Primary: // else it has let go, and keepalived here is about to bring all
		e.prepareFor(m.Handover)
	}
}

// prepareFor has this router prepared to take over, nil: no more. The lock is held.
func (e *Engine) prepareFor(h *handover) {
	if h == nil && e.coming == nil || h != nil && e.coming != nil && h.ID == e.coming.ID {
		return
	}
	e.coming, e.came, e.ready = h, time.Now(), nil
	e.wakePreparer()
}

func (e *Engine) wakePreparer() {
	select {
	case e.prepares <- struct{}{}:
	default:
	}
}

// prepare prepares for handovers, and keeps the rank of this router, until the context ends.
func (e *Engine) prepare(ctx context.Context) {
	for {
		e.mu.Lock()
		h, answer := e.coming, e.ready
		resumes := h != nil || e.primary && e.handover == nil
		e.mu.Unlock()
		var err error
		if resumes || e.unranked() {
			if err = e.rank(false); err != nil {
				e.o.Log.Warn("pair: keepalived cannot be told", "err", err)
			}
		}
		if h == nil {
			e.o.Prepare(ctx, nil)
		} else {
			err = errors.Join(err, e.o.Prepare(ctx, append([]Line{}, h.Lines...)))
			e.mu.Lock()
			if e.coming == h && answer == nil {
				e.ready = &readiness{ID: h.ID}
				if err != nil {
					e.ready.Err = err.Error()
				}
				e.news()
			}
			e.mu.Unlock()
		}
		var again <-chan time.Time
		if h != nil {
			again = time.After(prepareAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-e.prepares:
		case <-again:
			e.mu.Lock()
			if e.coming == h && time.Since(e.came) > preparedFor {
				e.coming, e.ready = nil, nil
			}
			e.mu.Unlock()
		}
	}
}

// YieldFile is the file, in the state directory, by which keepalived ranks this router: 1 behind the other one, 0 as its priority says.
const YieldFile = "yield"

// rank has keepalived rank this router behind the other one, or as its priority says.
func (e *Engine) rank(behind bool) error {
	if e.o.YieldFile == "" {
		return errors.New("there is no state directory")
	}
	want := "0\n"
	if behind {
		want = "1\n"
	}
	if have, err := os.ReadFile(e.o.YieldFile); err == nil && strings.TrimSpace(string(have)) == strings.TrimSpace(want) {
		return nil
	}
	return os.WriteFile(e.o.YieldFile, []byte(want), 0o600)
}

// unranked reports whether keepalived has nothing to track yet.
func (e *Engine) unranked() bool {
	_, err := os.Stat(e.o.YieldFile)
	return e.o.YieldFile != "" && errors.Is(err, fs.ErrNotExist)
}
