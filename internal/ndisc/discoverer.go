package ndisc

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/uplinkd/uplinkd/internal/linksession"
	"github.com/uplinkd/uplinkd/rules/inet"
)

// DiscovererConfig is what a Discoverer is made of.
type DiscovererConfig struct {
	Device string
	// Secret keys the addresses that are formed (RFC 7217): random, at least 16 bytes, the same for ever.
	Secret []byte
	Last   State // of an earlier run; zero for none
	// Follows is true where somebody else, mostly the kernel, configures by what routers say: nobody is asked for an
	// advertisement as long as a router answers. What routers say is watched all the same.
	Follows bool
	Log     *slog.Logger
	// OnChange hears, from the Discoverer's goroutine, of anything new: each advertisement, for it moves
	// ends, and each end that comes. Whatever Last holds that still lasts is told at the start.
	OnChange func(View)
	// Open makes the Conn; nil is a raw socket.
	Open func(device string) (Conn, error)
}

// Discoverer listens to the routers of one uplink.
type Discoverer struct {
	cfg    DiscovererConfig
	socket linkSocket

	mu         sync.Mutex // guards what follows
	failed     []netip.Addr
	gateways   []netip.Addr
	path       Path
	delegating netip.Addr
}

// NewDiscoverer makes a Discoverer that does nothing before Run and a link.
func NewDiscoverer(cfg DiscovererConfig) *Discoverer {
	if cfg.Open == nil {
		cfg.Open = openUplink
	}
	log := cfg.Log
	if cfg.Follows { // a device may have no IPv6 at all, and whoever configures it has a log of its own
		log = slog.New(slog.DiscardHandler)
	}
	return &Discoverer{cfg: cfg, socket: newLinkSocket(cfg.Device, log, cfg.Open)}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (d *Discoverer) SetLink(index int, up bool) { d.socket.SetLink(index, up) }

// SetHardware tells the link-layer address of the device.
func (d *Discoverer) SetHardware(address [6]byte) { d.socket.SetHardware(address) }

// AddressFailed tells that duplicate address detection found an address of the View taken. Another takes
// its place, three times at most.
func (d *Discoverer) AddressFailed(addr netip.Addr) {
	d.mu.Lock()
	d.failed = append(d.failed, addr)
	d.mu.Unlock()
	d.socket.Wake()
}

// SetGateways tells of gateways on the link that somebody else has routes by, the one in use first, so that it is known
// whether they answer.
func (d *Discoverer) SetGateways(gateways []netip.Addr) {
	d.mu.Lock()
	changed := !slices.Equal(d.gateways, gateways)
	d.gateways = slices.Clone(gateways)
	d.mu.Unlock()
	if changed {
		d.socket.Wake()
	}
}

// SetPath tells what probing says of the uplink. When it falls silent the routers are asked whether they are there, and of
// several each has its turn.
func (d *Discoverer) SetPath(p Path) { set(d, &d.path, p) }

// SetDelegatingRouter tells by way of which router prefixes were delegated; zero: not known.
func (d *Discoverer) SetDelegatingRouter(router netip.Addr) { set(d, &d.delegating, router) }

// set sets one of the fields that the mutex guards, and has Run look at it when that is news.
func set[T interface{ Path | netip.Addr }](d *Discoverer, field *T, value T) {
	d.mu.Lock()
	changed := *field != value
	*field = value
	d.mu.Unlock()
	if changed {
		d.socket.Wake()
	}
}

// Run listens and asks until the context ends.
func (d *Discoverer) Run(ctx context.Context) error {
	m := newMachine(d.cfg.Device, d.cfg.Secret, d.cfg.Last, rand.Float64)
	m.follows = d.cfg.Follows
	defer d.socket.Close()
	m.expire(time.Now())
	m.changed = len(m.state.Routers)+len(m.state.Addresses)+len(m.state.Prefixes) > 0
	said := ""
	told := linksession.NewBudget(changesAtOnce, changesEvery)
	heard, heardOfChosen := linksession.NewBudget(messagesAtOnce, time.Second/messagesPerSecond), linksession.NewBudget(messagesAtOnce, time.Second/messagesPerSecond)
	var muted, toldAt time.Time // until then; when a change was last told
	var mutedFor netip.Addr     // the router that was in use then
	var deadline time.Time
	var e linksession.Event[Packet]
	for ; !e.Ended; e = d.socket.Next(ctx, deadline) {
		now := time.Now()
		of := heard
		if e.Message.From == m.state.Chosen {
			of = heardOfChosen
		}
		if e.Received && !isNeighbour(e.Message) && of.Spend(now) > 0 {
			if !now.Before(muted) {
				muted, mutedFor = now.Add(muteSpan), m.state.Chosen
				d.mute(m.state.Chosen, of == heardOfChosen)
			}
			deadline = earlier(deadline, muted)
			continue
		}
		if e.Received {
			said = d.report(d.receive(m, e.Message, now), said)
		}
		d.update(m, now)
		if !muted.IsZero() && (!now.Before(muted) || m.state.Chosen != mutedFor) {
			muted = time.Time{}
			d.unmute()
		}
		if opened, closed := d.socket.Follow(now); opened {
			m.linkUp(d.socket.Conn().Link().MTU, now)
		} else if closed {
			m.linkDown()
		}
		d.check(m, now)
		if m.tick(now) && !d.solicit() {
			m.unsent(now)
		}
		if deadline = m.deadline(); !muted.IsZero() {
			deadline = earlier(deadline, muted)
		}
		if m.changed {
			wait := time.Duration(0)
			if !muted.IsZero() {
				wait = toldAt.Add(floodedEvery).Sub(now)
			}
			if wait <= 0 {
				wait = told.Spend(now)
			}
			if wait > 0 {
				deadline = earlier(deadline, now.Add(wait))
				continue
			}
			m.changed, toldAt = false, now
			d.cfg.OnChange(m.view())
		}
	}
	return nil
}

// Anybody on the link may send as many advertisements as it carries. What is more than routers ever say is not looked at, and
// what changes all the time is told every other second, and more seldom in a flood, for each change costs a plan. The router in
// use is not drowned by others.
const (
	changesAtOnce     = 8
	changesEvery      = 2 * time.Second
	messagesAtOnce    = 100
	messagesPerSecond = 50
	muteSpan          = 5 * time.Second
	floodedEvery      = 5 * time.Second
)

// muter is a Conn that can leave advertisements to the kernel to drop, except those of one router; a zero address is none.
type muter interface {
	Mute(except netip.Addr) error
	Unmute() error
}

// mute has the kernel drop advertisements for a while: reading them only to throw them away costs more than all the rest. The
// router in use is heard meanwhile, unless the flood comes in its name.
func (d *Discoverer) mute(chosen netip.Addr, all bool) {
	if all {
		chosen = netip.Addr{}
	}
	if c, ok := d.socket.Conn().(muter); ok {
		_ = c.Mute(chosen) // else they are read and thrown away
	}
}

func (d *Discoverer) unmute() {
	if c, ok := d.socket.Conn().(muter); ok {
		_ = c.Unmute()
	}
}

// report logs what is wrong with an advertisement, but not the same again with each one.
func (d *Discoverer) report(err error, said string) string {
	if err == nil {
		return said
	}
	level := slog.LevelWarn
	if err.Error() == said || errors.Is(err, errMessage) {
		level = slog.LevelDebug // anybody on the link may send rubbish
	}
	d.cfg.Log.Log(context.Background(), level, "router advertisement not used as a whole", "device", d.cfg.Device, "reason", err)
	return err.Error()
}

// receive takes a message in.
func (d *Discoverer) receive(m *machine, p Packet, now time.Time) error {
	if isNeighbour(p) {
		return m.neighbour(p)
	}
	return m.receive(p, now)
}

// isNeighbour reports whether a message says that its sender is there, which costs nothing and must not be missed.
func isNeighbour(p Packet) bool { return len(p.Data) > 0 && p.Data[0] == typeNeighbourAdvert }

// update hands the machine what other goroutines have told.
func (d *Discoverer) update(m *machine, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, addr := range d.failed {
		m.addressFailed(addr)
	}
	d.failed = nil
	m.follow(d.gateways, now)
	m.setPath(d.path, now)
	m.setDelegating(d.delegating)
}

// check asks the routers whose turn it is whether they are there.
func (d *Discoverer) check(m *machine, now time.Time) {
	unicast, multicast := m.due(now)
	conn := d.socket.Conn()
	if conn == nil || len(unicast)+len(multicast) == 0 {
		return
	}
	hardware := conn.Link().Hardware
	for router, to := range destinations(unicast, multicast) {
		if message, err := solicitNode(router, hardware); err == nil {
			d.socket.send(message, to)
		}
	}
}

// destinations yields each router and where its solicitation is to be sent.
func destinations(unicast, multicast []netip.Addr) iter.Seq2[netip.Addr, netip.Addr] {
	return func(yield func(router, to netip.Addr) bool) {
		for _, router := range unicast {
			if !yield(router, router) {
				return
			}
		}
		for _, router := range multicast {
			if !yield(router, inet.SolicitedNode(router)) {
				return
			}
		}
	}
}

func (d *Discoverer) solicit() bool {
	conn := d.socket.Conn()
	if conn == nil {
		return false
	}
	var options []ndp.Option
	if hardware := conn.Link().Hardware; len(hardware) == 6 {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hardware})
	}
	message, err := ndp.MarshalMessage(&ndp.RouterSolicitation{Options: options})
	return err == nil && d.socket.send(message, allRouters)
}
