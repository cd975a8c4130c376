package ndisc

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/ndp"
)

var (
	gateway  = netip.MustParseAddr("fe80::1")
	gateway2 = netip.MustParseAddr("fe80::2")
	ourAddr  = netip.MustParseAddr("fe80::ff:fe00:1")
	hardware = net.HardwareAddr{2, 0, 0, 0, 0, 1}

	// comparable lets cmp look at netip values.
	comparable = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}
)

// says is an advertisement in the terms of its options.
type says struct {
	lifetime   time.Duration
	preference ndp.Preference
	options    []ndp.Option
}

// packet makes an advertisement.
func (s says) packet(from netip.Addr) Packet {
	m, err := ndp.MarshalMessage(&ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: s.lifetime,
		RouterSelectionPreference: s.preference, Options: s.options})
	if err != nil {
		panic(err)
	}
	return Packet{Data: m, From: from, HopLimit: 255}
}

// plain is the advertisement of a router that offers a default for the given time, and one prefix.
func plain(lifetime time.Duration) says {
	return says{lifetime: lifetime, options: []ndp.Option{pio("2001:db8:a:1::/64", 2700*time.Second, 5400*time.Second)}}
}

func pio(prefix string, preferred, valid time.Duration) *ndp.PrefixInformation {
	p := netip.MustParsePrefix(prefix)
	return &ndp.PrefixInformation{Prefix: p.Addr(), PrefixLength: uint8(p.Bits()), OnLink: true,
		AutonomousAddressConfiguration: true, PreferredLifetime: preferred, ValidLifetime: valid}
}

func rio(prefix string, preference ndp.Preference, lifetime time.Duration) *ndp.RouteInformation {
	p := netip.MustParsePrefix(prefix)
	return &ndp.RouteInformation{Prefix: p.Addr(), PrefixLength: uint8(p.Bits()), Preference: preference, RouteLifetime: lifetime}
}

func solicitation(from string) Packet {
	return Packet{Data: []byte{typeSolicit, 0, 0, 0, 0, 0, 0, 0}, From: netip.MustParseAddr(from), HopLimit: 255}
}

// sending is a message that was sent.
type sending struct {
	at      time.Time
	to      netip.Addr
	message []byte
}

const typeNeighbourSolicit = 135

// present is a router's answer to a neighbour solicitation.
func present(router netip.Addr) Packet {
	m, err := ndp.MarshalMessage(&ndp.NeighborAdvertisement{Router: true, Solicited: true, Override: true, TargetAddress: router})
	if err != nil {
		panic(err)
	}
	return Packet{Data: m, From: router, HopLimit: 255}
}

// wire is a link in memory.
type wire struct {
	mu       sync.Mutex
	log      []sending
	answer   func() *Packet   // to a solicitation; nil: silence
	absent   []netip.Addr     // routers that answer no neighbour solicitation
	asked    []sending        // neighbour solicitations
	replaced net.HardwareAddr // the link-layer address that the device has by now; nil: hardware
	refuse   error            // of Send
	missing  error            // of Open
	attempts atomic.Int64     // to open
	openings atomic.Int64
	current  *wireEnd
}

func (w *wire) open(string) (Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts.Add(1)
	if w.missing != nil {
		return nil, w.missing
	}
	w.openings.Add(1)
	w.current = &wireEnd{wire: w, in: make(chan Packet, 16), closed: make(chan struct{}), broken: make(chan error, 1)}
	return w.current, nil
}

type wireEnd struct {
	*wire
	in     chan Packet
	closed chan struct{}
	broken chan error

	muted  bool // as the kernel's filter would
	except netip.Addr
}

func (e *wireEnd) Mute(except netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.muted, e.except = true, except
	return nil
}

func (e *wireEnd) Unmute() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.muted = false
	return nil
}

func (e *wireEnd) Link() Link {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.replaced != nil {
		return Link{Addr: ourAddr, Hardware: e.replaced, MTU: 1500}
	}
	return Link{Addr: ourAddr, Hardware: hardware, MTU: 1500}
}

func (e *wireEnd) Send(message []byte, to netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return e.refuse
	}
	if message[0] == typeNeighbourSolicit {
		e.asked = append(e.asked, sending{time.Now(), to, slices.Clone(message)})
		if target := netip.AddrFrom16([16]byte(message[8:24])); !slices.Contains(e.absent, target) {
			e.in <- present(target)
		}
		return nil
	}
	e.log = append(e.log, sending{time.Now(), to, slices.Clone(message)})
	if e.answer != nil {
		if p := e.answer(); p != nil {
			e.in <- *p
		}
	}
	return nil
}

func (e *wireEnd) Receive() (Packet, error) {
	select {
	case p := <-e.in:
		return p, nil
	case err := <-e.broken:
		return Packet{}, err
	case <-e.closed:
		return Packet{}, net.ErrClosed
	}
}

func (e *wireEnd) Close() error { close(e.closed); return nil }

// script sets how the wire behaves from now on.
func (w *wire) script(set func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set(w)
}

// deliver lets our side hear a message.
func (w *wire) deliver(p Packet) {
	w.mu.Lock()
	end := w.current
	dropped := end.muted && p.Data[0] == typeAdvert && p.From != end.except
	w.mu.Unlock()
	if !dropped {
		end.in <- p
	}
	synctest.Wait()
}

// sent lists what was sent since the last call.
func (w *wire) sent() []sending {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.log
	w.log = nil
	return out
}

// gaps are the times between sendings.
func gaps(list []sending) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(list); i++ {
		out = append(out, list[i].at.Sub(list[i-1].at))
	}
	return out
}

// start runs an engine in a bubble until the test ends.
func start(t *testing.T, engine interface{ Run(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// pios reads the prefixes of an advertisement that we sent: preferred and valid in seconds.
func pios(t *testing.T, message []byte) map[string][2]uint32 {
	t.Helper()
	found := make(map[string][2]uint32)
	err := walk(message[advertHeader:], func(kind byte, o []byte) {
		if kind == optPrefix {
			p := netip.PrefixFrom(netip.AddrFrom16([16]byte(o[16:32])), int(o[2]))
			found[p.String()] = [2]uint32{binary.BigEndian.Uint32(o[8:]), binary.BigEndian.Uint32(o[4:])}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var errBroken = errors.New("broken")
