package dhcp4

import (
	"context"
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
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	hardware = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	server   = net.IPv4(198, 51, 100, 1)
)

// line is a wire with a scripted server at its end.
type line struct {
	mu       sync.Mutex
	sent     []*dhcpv4.DHCPv4
	unicast  []bool
	times    []time.Time
	answer   func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 // nil: silence
	replies  chan *dhcpv4.DHCPv4
	closed   chan struct{}
	openings atomic.Int64
	broken   chan error
	hardware net.HardwareAddr // nil: hardware
}

func (l *line) open(string) (Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.openings.Add(1)
	l.replies, l.closed, l.broken = make(chan *dhcpv4.DHCPv4, 8), make(chan struct{}), make(chan error, 1)
	return &end{l, l.replies, l.closed, l.broken}, nil
}

type end struct {
	*line
	replies chan *dhcpv4.DHCPv4
	closed  chan struct{}
	broken  chan error
}

func (e *end) HardwareAddr() net.HardwareAddr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hardware != nil {
		return e.hardware
	}
	return hardware
}

func (e *end) Send(m *dhcpv4.DHCPv4, to, _ netip.Addr) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent, e.unicast, e.times = append(e.sent, m), append(e.unicast, to.IsValid()), append(e.times, time.Now())
	if e.answer != nil {
		if reply := e.answer(m); reply != nil {
			e.replies <- reply
		}
	}
	return nil
}

func (e *end) Receive() (*dhcpv4.DHCPv4, error) {
	select {
	case m := <-e.replies:
		return m, nil
	case err := <-e.broken:
		return nil, err
	case <-e.closed:
		return nil, net.ErrClosed
	}
}

func (e *end) Close() error { close(e.closed); return nil }

// kinds lists what was sent since the last call, "+" for unicast.
func (l *line) kinds() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for i, m := range l.sent {
		k := m.MessageType().String()
		if l.unicast[i] {
			k += "+"
		}
		out = append(out, k)
	}
	l.sent, l.unicast, l.times = nil, nil, nil
	return out
}

func (l *line) script(answer func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// generous offers and confirms one address for the given seconds.
func generous(seconds uint32, more ...dhcpv4.Modifier) func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	return func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(198, 51, 100, 2)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithNetmask(net.CIDRMask(26, 32)),
			dhcpv4.WithOption(dhcpv4.OptRouter(server)), dhcpv4.WithLeaseTime(seconds)}, more...)...)
		if err != nil {
			panic(err)
		}
		return reply
	}
}

func refuse(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)))
	if err != nil {
		panic(err)
	}
	return reply
}

type bench struct {
	*Client
	*line
	mu     sync.Mutex
	leases []*Lease
}

// start runs a client in a bubble; the returned function ends it.
func start(t *testing.T, last *Lease, answer func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4) *bench {
	t.Helper()
	return startWith(t, Config{Last: last}, answer)
}

// startWith does so with more of a configuration.
func startWith(t *testing.T, cfg Config, answer func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4) *bench {
	t.Helper()
	b := &bench{line: &line{answer: answer}}
	cfg.Device, cfg.Log, cfg.Open = "wan1", slog.New(slog.DiscardHandler), b.open
	cfg.OnLease = func(l *Lease) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.leases = append(b.leases, l)
	}
	b.Client = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b.SetLink(2, true)
	synctest.Wait()
	return b
}

func (b *bench) heard() []*Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.leases
	b.leases = nil
	return out
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// sameTerms reports whether two leases configure the device alike, whatever their times.
func sameTerms(a, b *Lease) bool {
	return a != nil && b != nil && a.Address == b.Address && a.Gateway == b.Gateway && a.MTU == b.MTU && slices.Equal(a.Routes, b.Routes)
}

func wantKinds(t *testing.T, l *line, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, l.kinds()); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func TestALeaseIsObtainedRenewedReboundAndLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil, generous(800))
		wantKinds(t, b.line, "DISCOVER", "REQUEST")
		got := b.heard()
		want := &Lease{Address: netip.MustParsePrefix("198.51.100.2/26"), Gateway: netip.MustParseAddr("198.51.100.1"),
			Server: netip.MustParseAddr("198.51.100.1"), Client: append([]byte{1}, hardware...), Renew: time.Now().Add(400 * time.Second),
			Rebind: time.Now().Add(700 * time.Second), Expires: time.Now().Add(800 * time.Second)}
		if diff := cmp.Diff([]*Lease{want}, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("lease (-want +got):\n%s", diff)
		}
		sleep(400 * time.Second)
		wantKinds(t, b.line, "REQUEST+")
		if got := b.heard(); len(got) != 1 || !got[0].Expires.Equal(time.Now().Add(800*time.Second)) {
			t.Errorf("after T1: %+v", got)
		}
		b.script(nil)
		sleep(700*time.Second - time.Millisecond)
		if kinds := b.kinds(); len(kinds) < 4 || slices.Contains(kinds, "REQUEST") || slices.Contains(kinds, "DISCOVER") {
			t.Errorf("between T1 and T2, unanswered: %q", kinds)
		}
		sleep(100*time.Second - time.Millisecond)
		if kinds := b.kinds(); len(kinds) < 2 || slices.ContainsFunc(kinds, func(k string) bool { return k != "REQUEST" }) {
			t.Errorf("between T2 and the end: %q", kinds)
		}
		if got := b.heard(); got != nil {
			t.Errorf("before the end: %+v", got)
		}
		sleep(3 * time.Millisecond)
		if got := b.heard(); len(got) != 1 || got[0] != nil {
			t.Errorf("at the end: %+v", got)
		}
		wantKinds(t, b.line, "DISCOVER")
	})
}

func TestDiscoverIsRetransmittedAtDoublingIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil, nil)
		sleep(10 * time.Minute)
		for i, base := range []time.Duration{2, 4, 8, 16, 32, 64, 64, 64} {
			wait := b.times[i+1].Sub(b.times[i])
			if wait < (base-1)*time.Second || wait > (base+1)*time.Second {
				t.Errorf("wait %d is %v, want %d s give or take one", i, wait, base)
			}
			if want := uint16(b.times[i].Sub(b.times[0]) / time.Second); b.sent[i].NumSeconds != want {
				t.Errorf("message %d: secs %d, want %d", i, b.sent[i].NumSeconds, want)
			}
			if b.sent[i].TransactionID != b.sent[0].TransactionID {
				t.Errorf("message %d has another transaction id", i)
			}
		}
	})
}

func TestALeaseOfAnEarlierRunIsConfirmedAndNotLost(t *testing.T) {
	last := func() *Lease {
		return &Lease{Address: netip.MustParsePrefix("198.51.100.2/26"), Gateway: netip.MustParseAddr("198.51.100.1"),
			Server: netip.MustParseAddr("198.51.100.1"), Renew: time.Now().Add(100 * time.Second),
			Rebind: time.Now().Add(175 * time.Second), Expires: time.Now().Add(200 * time.Second)}
	}
	t.Run("confirmed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, last(), generous(800))
			if b.sent[0].ServerIdentifier() != nil || !b.sent[0].ClientIPAddr.IsUnspecified() || !b.sent[0].RequestedIPAddress().Equal(net.IPv4(198, 51, 100, 2)) {
				t.Errorf("RFC 2131 section 4.3.2 wants no server id and no ciaddr in INIT-REBOOT: %v", b.sent[0].Summary())
			}
			wantKinds(t, b.line, "REQUEST")
			if got := b.heard(); len(got) != 1 || !sameTerms(got[0], last()) {
				t.Errorf("%+v", got)
			}
		})
	})
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, last(), nil)
			sleep(199 * time.Second)
			if got := b.heard(); got != nil {
				t.Errorf("the lease was given up while it lasted: %+v", got)
			}
			if kinds := b.kinds(); slices.Contains(kinds, "DISCOVER") || len(kinds) < 4 {
				t.Errorf("%q", kinds)
			}
			sleep(2 * time.Second)
			if got := b.heard(); len(got) != 1 || got[0] != nil {
				t.Errorf("%+v", got)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, last(), refuse)
			if got := b.heard(); len(got) != 1 || got[0] != nil {
				t.Errorf("%+v", got)
			}
			b.script(generous(800))
			sleep(nakPause)
			wantKinds(t, b.line, "REQUEST", "DISCOVER", "REQUEST")
		})
	})
	t.Run("expired", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := last()
			l.Expires = time.Now().Add(-time.Second)
			b := start(t, l, generous(800))
			wantKinds(t, b.line, "DISCOVER", "REQUEST")
		})
	})
}

func TestALinkBlipKeepsTheLeaseAndANewDeviceGetsANewSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil, generous(800))
		b.heard()
		b.kinds()
		b.SetLink(2, false)
		sleep(10 * time.Second)
		if got := b.heard(); got != nil {
			t.Errorf("the blip lost the lease: %+v", got)
		}
		b.SetLink(2, true)
		synctest.Wait()
		wantKinds(t, b.line, "REQUEST")
		b.SetLink(7, true)
		synctest.Wait()
		wantKinds(t, b.line, "REQUEST")
		b.SetLink(7, false) // and over before anybody has looked
		b.SetLink(7, true)
		synctest.Wait()
		wantKinds(t, b.line, "REQUEST")
		if b.openings.Load() != 4 {
			t.Errorf("%d sockets were opened, want 4", b.openings.Load())
		}
	})
}

// A lease belongs to whom it was lent: asked for under another name, it would be refused at best.
func TestALeaseOfAnotherHardwareAddressIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil, generous(800))
		wantKinds(t, b.line, "DISCOVER", "REQUEST")
		lease := b.heard()[0]
		if got := append([]byte{1}, hardware...); !slices.Equal(lease.Client, got) {
			t.Errorf("it was lent to %v", lease.Client)
		}
		b.line.mu.Lock()
		b.line.hardware = net.HardwareAddr{2, 0, 0, 0, 0, 9}
		b.line.mu.Unlock()
		b.SetHardware([6]byte{2, 5: 9})
		synctest.Wait()
		b.line.mu.Lock()
		discover := b.line.sent[0]
		b.line.mu.Unlock()
		if got := discover.Options.Get(dhcpv4.OptionClientIdentifier); !slices.Equal(got, []byte{1, 2, 0, 0, 0, 0, 9}) || discover.ClientHWAddr.String() != "02:00:00:00:00:09" {
			t.Errorf("it asks as %v, %v", got, discover.ClientHWAddr)
		}
		wantKinds(t, b.line, "DISCOVER", "REQUEST")
		got := b.heard()
		if len(got) != 2 || got[0] != nil || !slices.Equal(got[1].Client, []byte{1, 2, 0, 0, 0, 0, 9}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("over a restart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			last := &Lease{Address: netip.MustParsePrefix("198.51.100.2/26"), Server: netip.MustParseAddr("198.51.100.1"),
				Client: []byte{1, 2, 0, 0, 0, 0, 9}, Renew: time.Now().Add(time.Hour), Rebind: time.Now().Add(time.Hour), Expires: time.Now().Add(2 * time.Hour)}
			b := start(t, last, generous(800))
			wantKinds(t, b.line, "DISCOVER", "REQUEST")
		})
	})
}

func TestABrokenSocketIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil, generous(800))
		b.kinds()
		b.broken <- errors.New("network is down")
		sleep(time.Second)
		wantKinds(t, b.line, "REQUEST")
	})
}

func TestUnusableRepliesChangeNothing(t *testing.T) {
	foreign := func(m *dhcpv4.DHCPv4, change func(*dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 {
		reply := generous(800)(m)
		change(reply)
		return reply
	}
	for name, change := range map[string]func(*dhcpv4.DHCPv4){
		"another transaction":     func(m *dhcpv4.DHCPv4) { m.TransactionID[0] ^= 1 },
		"another client":          func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 9} },
		"a request, not a reply":  func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest },
		"no address":              func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero },
		"a multicast address":     func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(224, 0, 0, 1) },
		"a loopback address":      func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(127, 0, 0, 1) },
		"no server":               func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionServerIdentifier) },
		"no lease time":           func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionIPAddressLeaseTime) },
		"a lease time of nothing": func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(0)) },
		"a short lease time": func(m *dhcpv4.DHCPv4) {
			m.Options.Update(dhcpv4.OptGeneric(dhcpv4.OptionIPAddressLeaseTime, []byte{1}))
		},
		"its own router": func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptRouter(net.IPv4(198, 51, 100, 2))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, nil, func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return foreign(m, change) })
				sleep(time.Minute)
				if got := b.heard(); got != nil {
					t.Errorf("%+v", got)
				}
				if kinds := b.kinds(); slices.Contains(kinds, "REQUEST") {
					t.Errorf("%q", kinds)
				}
			})
		})
	}
}

func TestLeaseTermsAreReadWithCare(t *testing.T) {
	now := time.Now()
	m, err := dhcpv4.New()
	if err != nil {
		t.Fatal(err)
	}
	ack := func(more ...dhcpv4.Modifier) *Lease {
		t.Helper()
		l, err := leaseOf(generous(1000, more...)(m), now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	seconds := func(code dhcpv4.OptionCode, n byte) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(code, []byte{0, 0, 0, n}))
	}
	_, everything, _ := net.ParseCIDR("0.0.0.0/0")
	_, some, _ := net.ParseCIDR("192.0.2.0/24")
	route := func(dest *net.IPNet) *dhcpv4.Route {
		return &dhcpv4.Route{Dest: dest, Router: net.IPv4(198, 51, 100, 9)}
	}
	for _, c := range []struct {
		name     string
		got, has any
	}{
		{"T1 and T2 of the server", ack(seconds(dhcpv4.OptionRenewTimeValue, 10), seconds(dhcpv4.OptionRebindingTimeValue, 20)).Rebind, now.Add(20 * time.Second)},
		{"T1 after T2 is nonsense", ack(seconds(dhcpv4.OptionRenewTimeValue, 30), seconds(dhcpv4.OptionRebindingTimeValue, 20)).Renew, now.Add(500 * time.Second)},
		{"a default in the classless routes wins", ack(dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(route(some), route(everything)))).Gateway, netip.MustParseAddr("198.51.100.9")},
		{"classless routes without a default mean none", ack(dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(route(some)))).Gateway, netip.Addr{}},
		{"and are kept, the default left out", ack(dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(route(some), route(everything)))).Routes[0], Route{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("198.51.100.9")}},
		{"an MTU", ack(dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 0})).MTU, 1280},
		{"an MTU that is for others to judge", ack(dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})).MTU, 68},
		{"a mask with holes", ack(dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))).Address.Bits(), 32},
	} {
		if c.got != c.has {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.has)
		}
	}
	servers := ack(dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53), net.IPv4(10, 0, 1, 1), net.IPv4(192, 0, 2, 53)), dhcpv4.WithDNS(net.IPv4(10, 0, 1, 2))).DNS
	if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("10.0.1.2")}, servers, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("DNS servers (-want +got):\n%s", diff)
	}
	many := make([]net.IP, 40)
	for i := range many {
		many[i] = net.IPv4(10, 0, 2, byte(i/2)) // each twice
	}
	if got := ack(dhcpv4.WithDNS(many...)).DNS; len(got) != maxServers || got[1] != netip.MustParseAddr("10.0.2.1") {
		t.Errorf("of many DNS servers: %v", got)
	}
	l, err := leaseOf(generous(infinite)(m), now)
	if err != nil || l.Expires.Sub(now) != infiniteTime {
		t.Errorf("an endless lease: %+v, %v", l, err)
	}
}

func FuzzReply(f *testing.F) {
	m, _ := dhcpv4.New()
	f.Add(generous(800)(m).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		now := time.Now()
		l, err := leaseOf(reply, now)
		if err != nil {
			return
		}
		if !l.Address.IsValid() || !now.Before(l.Renew) || !l.Renew.Before(l.Rebind) || l.Expires.Before(l.Rebind) {
			t.Errorf("%+v", l)
		}
	})
}
