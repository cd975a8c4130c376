package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/notify/service"
	"github.com/uplinkd/uplinkd/internal/secret"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	document = "notify"
	// queueLimit is how many messages wait for one destination: a newer one pushes out the oldest.
	queueLimit = 100
	// firstPause and maxPause lie between tries to send; a refusal that somebody has to do something about is tried again after refusedPause.
	firstPause, maxPause, refusedPause = 5 * time.Second, 5 * time.Minute, 15 * time.Minute
	// sendTimeout bounds one try.
	sendTimeout = time.Minute
	// patience is how long a destination may not be reached while the router is online until that is a problem.
	patience = 10 * time.Minute
	// stateDelay gathers what changes together, for those who are shown the state.
	stateDelay = 500 * time.Millisecond
)

// moving are the kinds of event after which a destination may be reached that was not.
var moving = []status.EventKind{status.EventVerdict, status.EventSwitch, status.EventCause, status.EventDNS}

// Options are what an Engine is made of.
type Options struct {
	Log *slog.Logger
	// State returns what uplinks do now. It is called by workers.
	State func() *status.Status
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
	// Open makes the service of a URL and a secret; nil: service.Parse.
	Open func(url, secret string) (service.Service, error)
}

// Engine makes messages of events and sends them.
type Engine struct {
	o Options

	mu      sync.Mutex // guards what follows, and what members hold
	kept    map[string]*kept
	members map[string]*member
	changed chan struct{} // closed, and made anew, by Configure
}

// kept is what is kept of a destination over restarts.
type kept struct {
	Digest digest `json:"digest"`
	Queue  []item `json:"queue"`
	Number uint64 `json:"number"` // of messages so far
}

// member is one destination.
type member struct {
	*kept
	of      config.Notify
	wake    chan struct{} // there may be something to send, or to do
	events  bool          // since the worker has last looked: the state may be another
	moved   bool          // and the way to the destination too: it is worth a try at once
	failure error         // of the latest try to send; nil after one that succeeded
	since   time.Time     // of failures in a row
	refused bool          // somebody has to do something about the failure
}

// New makes an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	if o.Open == nil {
		o.Open = service.Parse
	}
	return &Engine{o: o, kept: make(map[string]*kept), members: make(map[string]*member), changed: make(chan struct{})}
}

// Documents returns the documents of the state directory, by name, to be filled before Configure.
func (e *Engine) Documents() map[string]any { return map[string]any{document: &e.kept} }

// Configure takes a configuration. What waits for a destination stays when its URL changes; it goes with the destination.
func (e *Engine) Configure(c *config.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	former := e.members
	e.members = make(map[string]*member, len(c.Notify))
	for _, n := range c.Notify {
		m := former[n.Name]
		if m == nil || !m.of.Equal(&n) {
			m = &member{of: n, wake: make(chan struct{}, 1), kept: e.kept[n.Name]}
			if m.kept == nil {
				m.kept = new(kept)
				e.kept[n.Name] = m.kept
			}
			m.restore(&n, time.Now())
		}
		e.members[n.Name] = m
	}
	for name := range e.kept {
		if e.members[name] == nil {
			delete(e.kept, name)
		}
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

// restore has a destination go on where it was. What the disk held is believed as far as it makes sense.
func (k *kept) restore(n *config.Notify, now time.Time) {
	d := &k.Digest
	d.after, d.kinds = n.After, make(map[string]bool, len(n.Events))
	for _, kind := range n.Events {
		d.kinds[kind] = true
	}
	strange := func(t time.Time) bool { return t.After(now.Add(flapWindow)) } // the clock was wrong
	maps.DeleteFunc(d.Lines, func(_ string, l *line) bool {
		return l == nil || strange(l.NextDigest.Add(-flapWindow)) || l.Open != nil && (strange(l.Open.Begin) || strange(l.Open.Over)) ||
			slices.ContainsFunc(l.Recent, func(s span) bool { return strange(s.Begin) || s.Took < 0 })
	})
	maps.DeleteFunc(d.Moves, func(_ string, m *move) bool { return m == nil || strange(m.At) })
	maps.DeleteFunc(d.Singles, func(_ string, s *singles) bool { return s == nil || strange(s.Since) })
	if strange(d.Settled) {
		d.Settled = time.Time{}
	}
	d.anchor(now)
	k.Queue = k.Queue[max(0, len(k.Queue)-queueLimit):]
}

// Seen returns the latest event that every destination has taken, of those up to last, the latest that there is.
func (e *Engine) Seen(last uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := last
	for _, m := range e.members {
		if m.Digest.Seen == 0 || m.Digest.Seen > last { // a new destination, or a log that was lost
			m.Digest.Seen = last
		}
		first = min(first, m.Digest.Seen)
	}
	return first
}

// Event takes an event, in the order of the log. It never waits.
func (e *Engine) Event(event status.Event) {
	var now *status.Status
	if event.Kind == status.EventGap {
		now = e.o.State()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		switch {
		case now != nil:
			m.Digest.resync(time.Now(), worksIn(now))
		case event.ID > m.Digest.Seen:
			event.Time.Time = past(event.Time.Time, time.Now())
			m.Digest.event(event)
		default:
			continue
		}
		m.events = true
		m.moved = m.moved || slices.Contains(moving, event.Kind)
		m.poke()
	}
}

// worksIn answers for the uplinks of a status whether they work; one that is not there is not waited for.
func worksIn(s *status.Status) func(name, family string) bool {
	return func(name, family string) bool {
		i := slices.IndexFunc(s.Uplinks, func(u status.Uplink) bool { return u.Name == name })
		if i < 0 {
			return true
		}
		f := s.Uplinks[i].Family(rules.IPv4)
		if family == rules.IPv6.String() {
			f = s.Uplinks[i].Family(rules.IPv6)
		}
		return f.State != uplink.Down && f.State != uplink.Suspect && f.State != uplink.Recovering
	}
}

func (m *member) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run sends until the context ends.
func (e *Engine) Run(ctx context.Context) error {
	type running struct {
		stop context.CancelFunc
		done chan struct{}
	}
	workers := make(map[*member]running)
	end := func(m *member) {
		workers[m].stop()
		<-workers[m].done
		delete(workers, m)
	}
	defer func() {
		for m := range workers {
			end(m)
		}
	}()
	for {
		e.mu.Lock()
		changed, wanted := e.changed, make(map[*member]bool, len(e.members))
		for _, m := range e.members {
			wanted[m] = true
		}
		e.mu.Unlock()
		for m := range workers { // first: two of them would share what is kept
			if !wanted[m] {
				end(m)
			}
		}
		for m := range wanted {
			if _, is := workers[m]; !is {
				ctx, stop := context.WithCancel(ctx)
				w := running{stop, make(chan struct{})}
				workers[m] = w
				go func() {
					defer close(w.done)
					w := worker{e: e, m: m}
					w.run(ctx)
				}()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// worker sends to one destination. Its fields are its goroutine's own.
type worker struct {
	e       *Engine
	m       *member
	service service.Service // nil: not made yet
	shown   *service.State
	pause   time.Duration // after the latest failure; 0 for none
	next    time.Time     // the next try after it
}

func (w *worker) run(ctx context.Context) {
	defer func() {
		if w.service != nil {
			w.service.Close()
		}
	}()
	for {
		next := w.collect(time.Now())
		again := w.deliver(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := make(<-chan time.Time)
		switch {
		case again > 0:
			wait = time.After(again)
			if !next.IsZero() {
				wait = time.After(min(again, max(0, time.Until(next))))
			}
		case !next.IsZero():
			wait = time.After(max(0, time.Until(next)))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.m.wake:
			select { // what happens together is looked at together
			case <-ctx.Done():
				return
			case <-time.After(stateDelay):
			}
		case <-wait:
		}
	}
}

// collect moves what is due into the queue, and keeps it on disk before anything is sent. It returns when something else may be due.
func (w *worker) collect(now time.Time) time.Time {
	e, m := w.e, w.m
	e.mu.Lock()
	messages, next := m.Digest.due(now)
	for _, i := range messages {
		m.enqueue(i, now)
	}
	seen := m.events || len(messages) > 0
	e.mu.Unlock()
	if seen {
		w.save()
	}
	return next
}

func (w *worker) save() {
	w.e.o.Save(document, func() any {
		w.e.mu.Lock()
		defer w.e.mu.Unlock()
		for _, k := range w.e.kept {
			k.Digest.anchor(time.Now())
		}
		text, err := json.Marshal(w.e.kept) // what it holds goes on changing
		if err != nil {
			w.e.o.Log.Warn("messages are not kept", "err", err)
			return nil
		}
		return json.RawMessage(text)
	})
}

// enqueue appends a message, in the place of what it has overtaken.
func (m *member) enqueue(i item, now time.Time) {
	m.Number++
	i.Message.ID = m.of.Name + "-" + strconv.FormatInt(now.Unix(), 10) + "-" + strconv.FormatUint(m.Number, 10)
	if i.Key != "" {
		m.Queue = slices.DeleteFunc(m.Queue, func(q item) bool {
			return q.Key == i.Key && (q.Opens || !i.Opens && strings.HasSuffix(i.Key, " flaps"))
		})
	}
	m.Queue = append(m.Queue, i)
	if over := len(m.Queue) - queueLimit; over > 0 {
		m.Queue = slices.Delete(m.Queue, 0, over)
	}
}

// deliver shows the state and sends what waits, until something fails. It returns after which time to try again, 0 for not before there is something.
func (w *worker) deliver(ctx context.Context) time.Duration {
	m := w.m
	w.e.mu.Lock()
	changed := m.events
	if m.moved && !m.refused {
		w.pause, w.next = 0, time.Time{}
	}
	m.events, m.moved = false, false
	w.e.mu.Unlock()
	if w.pause > 0 {
		if left := time.Until(w.next); left > 0 {
			return left
		}
	}
	err := w.open()
	if err == nil {
		if p, ok := w.service.(service.Publisher); ok && (changed || w.shown == nil || w.pause > 0) {
			err = w.publish(ctx, p)
		}
	}
	for err == nil {
		w.e.mu.Lock()
		if len(m.Queue) == 0 {
			m.failure, m.refused = nil, false
			w.e.mu.Unlock()
			w.pause = 0
			return 0
		}
		first := m.Queue[0]
		w.e.mu.Unlock()
		within, cancel := context.WithTimeout(ctx, sendTimeout)
		err = w.service.Send(within, first.Message)
		cancel()
		refusal, refused := errors.AsType[*service.Refusal](err)
		if refused && refusal.Message {
			w.e.o.Log.Warn("a message is refused, and dropped", "notify", m.of.Name, "title", first.Message.Title, "err", err)
			err = nil
		}
		if err == nil {
			w.e.mu.Lock()
			m.Queue = slices.DeleteFunc(m.Queue, func(q item) bool { return q.Message.ID == first.Message.ID })
			w.e.mu.Unlock()
			w.save()
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	return w.failed(err)
}

// open makes the service, whose secret may have come only now.
func (w *worker) open() error {
	if w.service != nil {
		return nil
	}
	var text string
	if file := w.m.of.SecretFile; file != "" {
		var err error
		if text, err = secret.Read("secret_file", file); err != nil {
			return &service.Refusal{Reason: err.Error()}
		}
	}
	s, err := w.e.o.Open(w.m.of.URL, text)
	if err != nil {
		return &service.Refusal{Reason: err.Error()}
	}
	w.service = s
	return nil
}

func (w *worker) publish(ctx context.Context, p service.Publisher) error {
	now := stateOf(w.e.o.State())
	if w.shown != nil && w.shown.Equal(now) {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := p.Publish(within, now); err != nil {
		w.shown = nil
		return err
	}
	w.shown = &now
	return nil
}

// failed notes a failure, and returns the pause until the next try.
func (w *worker) failed(err error) time.Duration {
	_, refused := errors.AsType[*service.Refusal](err)
	if w.pause = min(max(2*w.pause, firstPause), maxPause); refused {
		w.pause = refusedPause
		if w.service != nil { // the secret is read again
			w.service.Close()
			w.service = nil
		}
	}
	w.next = time.Now().Add(w.pause)
	m := w.m
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	if m.failure == nil {
		m.since = time.Now()
	}
	if m.failure == nil || m.failure.Error() != err.Error() {
		w.e.o.Log.Warn("messages are not sent", "notify", m.of.Name, "waiting", len(m.Queue), "err", err)
	}
	m.failure, m.refused = err, refused
	return w.pause
}

// Problems names the destinations that are not reached.
func (e *Engine) Problems() []rules.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	var problems []rules.Problem
	for _, m := range e.members {
		if m.failure == nil || !m.refused && time.Since(m.since) < patience {
			continue
		}
		problems = append(problems, rules.Problem{Code: "notify-failed", Severity: "warning",
			Message: fmt.Sprintf("messages to %s are not sent, %d wait: %v", m.of.Name, len(m.Queue), m.failure),
			Fix:     "look at url and secret_file of this [[notify]], and at the service itself; it is tried again by itself"})
	}
	slices.SortFunc(problems, func(a, b rules.Problem) int { return strings.Compare(a.Message, b.Message) })
	return problems
}

// stateOf is what is shown of a status.
func stateOf(s *status.Status) service.State {
	state := service.State{Headline: s.Headline}
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		works := func(f *status.FamilyStatus) bool {
			return f.State == uplink.Up || f.State == uplink.Degraded
		}
		state.Uplinks = append(state.Uplinks, service.UplinkState{Name: u.Name, Online: works(&u.IPv4) || works(&u.IPv6),
			IPv4: string(u.IPv4.State), IPv6: string(u.IPv6.State), Share: max(u.IPv4.Share, u.IPv6.Share)})
	}
	return state
}
