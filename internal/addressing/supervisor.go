package addressing

import (
	"context"
	"maps"
	"sync"

	"github.com/uplinkd/uplinkd/rules"
)

// client speaks a protocol on one device until its context ends.
type client interface {
	Run(ctx context.Context) error
	// SetLink tells the index of the device, 0 while there is none, and whether it has carrier.
	SetLink(index int, up bool)
}

// supervisor runs a client for each of some names: DHCP clients by uplink, advertisers by LAN.
type supervisor[C client] struct {
	mu        sync.Mutex
	ctx       context.Context // of run; nil before and after
	instances map[string]*instance[C]
	leaving   map[string]*instance[C] // what is removed, and still has something to do
	running   sync.WaitGroup
}

// instance is a client with what it was made from.
type instance[C client] struct {
	spec[C]
	client C
	after  <-chan struct{}    // closed when the instance that it replaces has ended: both would want the same port
	done   chan struct{}      // closed when it has ended
	cancel context.CancelFunc // nil before it was started
}

// spec is what an instance is made from. One of which device, hardware or key have changed is replaced.
type spec[C client] struct {
	device   string
	hardware [6]byte // the link-layer address by which alone the client may be heard; zero: whichever there is
	key      any     // comparable: what else the client was made from
	// make makes the client, and takes no lock. Current reports whether it is still the one in force: what a client says
	// after it was replaced does not count.
	make func(current func() bool) C
	// onRemove, when set, is what a client has to do before it is removed for good; one that is replaced does
	// nothing. Until it returns, or the context ends, the client works on.
	onRemove func(ctx context.Context, c C)
}

// apply sees to it that exactly the instances of specs are there.
func (s *supervisor[C]) apply(specs map[string]spec[C]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instances == nil {
		s.instances, s.leaving = make(map[string]*instance[C]), make(map[string]*instance[C])
	}
	for name, i := range s.instances {
		if _, wanted := specs[name]; !wanted {
			s.remove(name, i)
			delete(s.instances, name)
		}
	}
	for name, p := range specs {
		have := s.instances[name]
		if have != nil && p.device == have.device && p.hardware == have.hardware && p.key == have.key {
			continue
		}
		i := &instance[C]{spec: p, done: make(chan struct{})}
		if left := s.leaving[name]; have == nil {
			have = left
		}
		if delete(s.leaving, name); have != nil {
			i.after = have.stop()
		}
		i.client = p.make(func() bool { return s.get(name) == i })
		s.instances[name] = i
		s.start(i)
	}
}

// stop has an instance end, and returns what tells that it has; nil: it was never started.
func (i *instance[C]) stop() <-chan struct{} {
	if i.cancel == nil {
		return nil
	}
	i.cancel()
	return i.done
}

// leave has the client of a name, if it is removed, do that instead of its onRemove; nil: nothing, for another router goes on where it was.
func (s *supervisor[C]) leave(name string, how func(ctx context.Context, c C)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.instances[name]; i != nil {
		i.onRemove = how
	}
}

// remove stops an instance, after its onRemove. The lock is held.
func (s *supervisor[C]) remove(name string, i *instance[C]) {
	if i.onRemove == nil || i.cancel == nil || s.ctx == nil {
		i.stop()
		return
	}
	ctx := s.ctx
	s.leaving[name] = i
	s.running.Go(func() {
		i.onRemove(ctx, i.client)
		i.cancel()
	})
}

// get returns the instance of a name; nil: there is none.
func (s *supervisor[C]) get(name string) *instance[C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[name]
}

// sameLink reports whether what was learned under a name still holds when specs are applied: a lease, like what routers say,
// belongs to the network behind a device.
func (s *supervisor[C]) sameLink(name string, specs map[string]spec[C]) bool {
	i, p := s.get(name), specs[name]
	return p.make != nil && (i == nil || i.device == p.device)
}

// start has an instance work if the supervisor does. The lock is held.
func (s *supervisor[C]) start(i *instance[C]) {
	if s.ctx == nil || i.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	i.cancel = cancel
	s.running.Go(func() {
		defer close(i.done)
		if i.after != nil {
			<-i.after
		}
		_ = i.client.Run(ctx) // ends with the context alone
	})
}

// run has the instances work until the context ends.
func (s *supervisor[C]) run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	for _, i := range s.instances {
		s.start(i)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil // nobody starts any more
	s.mu.Unlock()
	s.running.Wait()
}

// observe tells the clients of their devices.
func (s *supervisor[C]) observe(obs *rules.Observed) {
	for _, i := range s.all() {
		link, _ := obs.Link(i.device)
		if c, ok := any(i.client).(interface{ SetHardware([6]byte) }); ok {
			c.SetHardware(link.Hardware)
		}
		known := i.hardware == [6]byte{} || link.Hardware == [6]byte{} || link.Hardware == i.hardware
		i.client.SetLink(link.Index, link.Up && link.Carrier && known)
	}
}

// all returns the instances, by name.
func (s *supervisor[C]) all() map[string]*instance[C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.instances)
}
