package ndisc

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
)

// DiscovererConfig is what a Discoverer is made of.
type DiscovererConfig struct {
	Device string
	// Secret keys the addresses that are formed (RFC 7217): random, at least 16 bytes, the same for ever.
	Secret []byte
	Last   State // of an earlier run; zero for none
	Log    *slog.Logger
	// OnChange hears, from the Discoverer's goroutine, of anything new: each advertisement, for it moves
	// ends, and each end that comes. Whatever Last holds that still lasts is told at the start.
	OnChange func(View)
	// Open makes the Conn; nil is a raw socket.
	Open func(device string) (Conn, error)
}

// Discoverer listens to the routers of one uplink.
type Discoverer struct {
	cfg  DiscovererConfig
	port *port

	mu        sync.Mutex // guards what follows
	failed    []netip.Addr
	reachable map[netip.Addr]bool
}

// NewDiscoverer makes a Discoverer that does nothing before Run and a link.
func NewDiscoverer(cfg DiscovererConfig) *Discoverer {
	if cfg.Open == nil {
		cfg.Open = openUplink
	}
	return &Discoverer{cfg: cfg, port: newPort(cfg.Device, cfg.Log, cfg.Open), reachable: map[netip.Addr]bool{}}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (d *Discoverer) SetLink(index int, up bool) { d.port.setLink(index, up) }

// AddressFailed tells that duplicate address detection found an address of the View taken. Another takes
// its place, three times at most.
func (d *Discoverer) AddressFailed(addr netip.Addr) {
	d.mu.Lock()
	d.failed = append(d.failed, addr)
	d.mu.Unlock()
	d.port.poke()
}

// SetReachable tells whether a router answers. One that does not is the last choice.
func (d *Discoverer) SetReachable(router netip.Addr, reachable bool) {
	d.mu.Lock()
	d.reachable[router.WithZone("")] = reachable
	d.mu.Unlock()
	d.port.poke()
}

// Run listens and asks until the context ends.
func (d *Discoverer) Run(ctx context.Context) error {
	m := newMachine(d.cfg.Device, d.cfg.Secret, d.cfg.Last, rand.Float64)
	defer d.port.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.expire(time.Now())
	m.changed = len(m.state.Routers)+len(m.state.Addresses)+len(m.state.Prefixes) > 0
	said := ""
	for {
		now := time.Now()
		d.pass(m)
		if d.port.follow(now) {
			m.linkUp(d.port.session.conn.Link().MTU, now)
		} else if d.port.session == nil {
			m.linkDown()
		}
		if m.tick(now) && !d.solicit(now) {
			m.unsent(now)
		}
		if m.changed {
			m.changed = false
			d.cfg.OnChange(m.state.view())
		}
		e := d.port.next(ctx, timer, m.deadline())
		if e.ended {
			return nil
		}
		if e.packet != nil {
			said = d.report(m.receive(*e.packet, time.Now()), said)
		}
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

// pass hands the machine what other goroutines have told.
func (d *Discoverer) pass(m *machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, addr := range d.failed {
		m.addressFailed(addr)
	}
	d.failed = nil
	for router, reachable := range d.reachable {
		m.setReachable(router, reachable)
	}
	clear(d.reachable)
}

func (d *Discoverer) solicit(now time.Time) bool {
	if d.port.session == nil {
		return false
	}
	var options []ndp.Option
	if hardware := d.port.session.conn.Link().Hardware; len(hardware) == 6 {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hardware})
	}
	message, err := ndp.MarshalMessage(&ndp.RouterSolicitation{Options: options})
	return err == nil && d.port.send(message, allRouters, now)
}
