package daemon

import (
	"context"
	"sync"

	"github.com/uplinkd/uplinkd/rules"
)

// worker is a protocol engine that works on one device until its context ends.
type worker interface {
	Run(ctx context.Context) error
	// SetLink tells the index of the device, 0 while there is none, and whether it has carrier.
	SetLink(index int, up bool)
}

// crew runs a worker for each of some names: DHCP clients by uplink, advertisers by LAN.
type crew[W worker] struct {
	mu      sync.Mutex
	ctx     context.Context // of run; nil before
	members map[string]*member[W]
	running sync.WaitGroup
}

// member is a worker at its post.
type member[W worker] struct {
	post[W]
	worker W
	after  <-chan struct{} // closed when the worker that it replaces has gone: both would want the same port
	done   chan struct{}
	stop   context.CancelFunc // nil before it was started
}

// post is what a worker is wanted for. A worker whose post has changed is replaced.
type post[W worker] struct {
	device string
	terms  any // comparable: what else the worker was made of
	// make makes the worker. Current reports whether it is still the one at the post: what a worker says
	// after it was replaced does not count.
	make func(current func() bool) W
	// goodbye, when set, is what a worker has to do before it is sent away for good; one that is replaced does
	// nothing. Until it returns, or the context ends, the worker works on.
	goodbye func(ctx context.Context, w W)
}

// staff sees to it that exactly the posts are filled.
func (c *crew[W]) staff(posts map[string]post[W]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members == nil {
		c.members = make(map[string]*member[W])
	}
	for name, m := range c.members {
		if _, wanted := posts[name]; !wanted {
			c.dismiss(m)
			delete(c.members, name)
		}
	}
	for name, p := range posts {
		have := c.members[name]
		if have != nil && p.device == have.device && p.terms == have.terms {
			continue
		}
		m := &member[W]{post: p, done: make(chan struct{})}
		if have != nil {
			m.after = have.end()
		}
		m.worker = p.make(func() bool { return c.current(name) == m })
		c.members[name] = m
		c.start(m)
	}
}

// end has a member stop, and returns what tells that it has.
func (m *member[W]) end() <-chan struct{} {
	if m.stop == nil {
		return nil
	}
	m.stop()
	return m.done
}

// dismiss has a member say goodbye and stop. The lock is held.
func (c *crew[W]) dismiss(m *member[W]) {
	if m.goodbye == nil || m.stop == nil || c.ctx == nil {
		m.end()
		return
	}
	ctx := c.ctx
	c.running.Go(func() {
		m.goodbye(ctx, m.worker)
		m.stop()
	})
}

func (c *crew[W]) current(name string) *member[W] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name]
}

// start has a member work if the crew does. The lock is held.
func (c *crew[W]) start(m *member[W]) {
	if c.ctx == nil || m.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(c.ctx)
	m.stop = stop
	c.running.Go(func() {
		defer close(m.done)
		if m.after != nil {
			<-m.after
		}
		_ = m.worker.Run(ctx) // ends with the context alone
	})
}

// run has the crew work until the context ends.
func (c *crew[W]) run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	for _, m := range c.members {
		c.start(m)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil // nobody starts any more
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// observe tells the workers of their devices.
func (c *crew[W]) observe(obs *rules.Observed) {
	for _, m := range c.all() {
		link, _ := obs.Link(m.device)
		if w, ok := any(m.worker).(interface{ SetHardware([6]byte) }); ok {
			w.SetHardware(link.Hardware)
		}
		m.worker.SetLink(link.Index, link.Up && link.Carrier)
	}
}

// all returns the members, by name.
func (c *crew[W]) all() map[string]*member[W] {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*member[W], len(c.members))
	for name, m := range c.members {
		all[name] = m
	}
	return all
}
