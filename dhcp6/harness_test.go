package dhcp6

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The messages of the scripted servers are made here byte by byte, so that they can be as wrong as they like;
// ours are read by the library's strict parser.

var (
	ours     = DUID{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	alpha    = DUID{0, 3, 0, 1, 2, 0, 0, 0, 0, 0xa}
	beta     = DUID{0, 3, 0, 1, 2, 0, 0, 0, 0, 0xb}
	alwaysPD = []IAPD{{ID: 1}}
)

const (
	advertise = byte(dhcpv6.MessageTypeAdvertise)
	replies   = byte(dhcpv6.MessageTypeReply)
	forever   = uint32(0xffffffff)

	unspecFail, noAddrs, noBinding, notOnLink, noPrefix = 1, 2, 3, 4, 6
)

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func opt(code uint16, data ...[]byte) []byte {
	all := slices.Concat(data...)
	return slices.Concat(binary.BigEndian.AppendUint16(nil, code), binary.BigEndian.AppendUint16(nil, uint16(len(all))), all)
}

func iaPD(id, t1, t2 uint32, inner ...[]byte) []byte {
	return opt(25, u32(id), u32(t1), u32(t2), slices.Concat(inner...))
}

func iaNA(id, t1, t2 uint32, inner ...[]byte) []byte {
	return opt(3, u32(id), u32(t1), u32(t2), slices.Concat(inner...))
}

func iaPrefix(p string, preferred, valid uint32, inner ...[]byte) []byte {
	pfx := netip.MustParsePrefix(p)
	return opt(26, u32(preferred), u32(valid), []byte{byte(pfx.Bits())}, pfx.Addr().AsSlice(), slices.Concat(inner...))
}

func iaAddr(a string, preferred, valid uint32, inner ...[]byte) []byte {
	return opt(5, netip.MustParseAddr(a).AsSlice(), u32(preferred), u32(valid), slices.Concat(inner...))
}

func stat(code byte, text string) []byte { return opt(13, []byte{0, code}, []byte(text)) }
func pref(v byte) []byte                 { return opt(7, []byte{v}) }
func rapidCommit() []byte                { return opt(14) }

// reply makes an answer to m.
func reply(kind byte, m *dhcpv6.Message, server DUID, options ...[]byte) []byte {
	return slices.Concat([]byte{kind}, m.TransactionID[:], opt(1, ours), opt(2, server), slices.Concat(options...))
}

// kindFor is the message that answers m.
func kindFor(m *dhcpv6.Message) byte {
	if m.MessageType == dhcpv6.MessageTypeSolicit {
		return advertise
	}
	return replies
}

// script answers a message; nil is silence.
type script func(m *dhcpv6.Message) [][]byte

// gives answers everything with the same options.
func gives(server DUID, options ...[]byte) script {
	return func(m *dhcpv6.Message) [][]byte { return [][]byte{reply(kindFor(m), m, server, options...)} }
}

// generous delegates 2001:db8:a::/56 with the given lifetimes, and T1 and T2 of the client's choice.
func generous(preferred, valid uint32) script {
	return gives(alpha, iaPD(1, 0, 0, iaPrefix("2001:db8:a::/56", preferred, valid)))
}

// byKind answers by message type: "SOLICIT", "REQUEST" and so on; the rest is silence.
type byKind map[string]script

func (k byKind) answer(m *dhcpv6.Message) [][]byte {
	if s := k[m.MessageType.String()]; s != nil {
		return s(m)
	}
	return nil
}

type sent struct {
	at  time.Time
	msg *dhcpv6.Message
}

// wire is a link with a scripted server at its end.
type wire struct {
	t        *testing.T
	mu       sync.Mutex
	sent     []sent
	answer   script
	delay    time.Duration
	openings atomic.Int64
	openErr  error
	sendErr  error
	end      *wireEnd
}

type wireEnd struct {
	*wire
	in     chan []byte
	closed chan struct{}
	broken chan error
}

func (w *wire) open(string) (Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.openErr != nil {
		return nil, w.openErr
	}
	w.openings.Add(1)
	w.end = &wireEnd{w, make(chan []byte, 64), make(chan struct{}), make(chan error, 1)}
	return w.end, nil
}

func (e *wireEnd) Send(b []byte) error {
	msg, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		e.t.Errorf("the library cannot read what was sent: %v", err)
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sendErr != nil {
		return e.sendErr
	}
	e.wire.sent = append(e.wire.sent, sent{time.Now(), msg})
	if e.answer != nil {
		answers := e.answer(msg)
		time.AfterFunc(e.delay, func() {
			for _, a := range answers {
				select {
				case e.in <- a:
				case <-e.closed:
				}
			}
		})
	}
	return nil
}

func (e *wireEnd) Receive() ([]byte, error) {
	select {
	case b := <-e.in:
		return b, nil
	case err := <-e.broken:
		return nil, err
	case <-e.closed:
		return nil, net.ErrClosed
	}
}

func (e *wireEnd) Close() error { close(e.closed); return nil }

func (w *wire) script(s script) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = s
}

// messages returns what was sent since the last call.
func (w *wire) messages() []sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.sent
	w.sent = nil
	return out
}

// kinds lists the types of what was sent since the last call, repetitions as one.
func (w *wire) kinds() string { return kindsOf(w.messages()) }

func kindsOf(messages []sent) string {
	var out []string
	for _, s := range messages {
		out = append(out, s.msg.MessageType.String())
	}
	return strings.Join(slices.Compact(out), " ")
}

// bench is a client on a wire in a synctest bubble.
type bench struct {
	t *testing.T
	*Client
	*wire
	began time.Time
	step  time.Duration // of the wall clock
	log   strings.Builder
	done  chan error
	stop  func()

	mu       sync.Mutex
	changes  []Change
	listener func(Change) // hears them too
}

// start runs a client; modify may be nil.
func start(t *testing.T, answer script, modify func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, wire: &wire{t: t, answer: answer}, began: time.Now(), done: make(chan error, 1)}
	cfg := Config{Device: "wan1", DUID: ours, IAPD: alwaysPD, Open: b.open, OnChange: b.hear,
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		Clock: func() (time.Duration, time.Time) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return time.Hour + time.Since(b.began), time.Now().Add(b.step)
		}}
	if modify != nil {
		modify(&cfg)
	}
	b.Client = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() { b.done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-b.done; err != nil {
			t.Error(err)
		}
	})
	b.SetLink(2, true)
	synctest.Wait()
	return b
}

func (b *bench) hear(ch Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, ch)
	if b.listener != nil {
		b.listener(ch)
	}
}

// heard tells the changes since the last call, one a line: "granted 2001:db8:a::/56 added".
func (b *bench) heard() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for _, ch := range b.changes {
		line := string(ch.Reason)
		for _, p := range ch.Prefixes {
			line += fmt.Sprintf(" %v %s", p.Prefix, p.Outcome)
		}
		if ch.Lease == nil {
			line += " (nothing left)"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func (b *bench) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = nil
}

// lease is the latest that was told.
func (b *bench) lease() *Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.changes) == 0 {
		return nil
	}
	return b.changes[len(b.changes)-1].Lease
}

func (b *bench) wantHeard(lines ...string) {
	b.t.Helper()
	if diff := cmp.Diff(strings.Join(lines, "\n"), b.heard()); diff != "" {
		b.t.Errorf("heard (-want +got):\n%s\nlog:\n%s", diff, b.log.String())
	}
	b.clear()
}

func (b *bench) wantKinds(want string) {
	b.t.Helper()
	if got := b.kinds(); got != want {
		b.t.Errorf("sent %q, want %q\nlog:\n%s", got, want, b.log.String())
	}
}

func (b *bench) wantLog(text string) {
	b.t.Helper()
	if !strings.Contains(b.log.String(), text) {
		b.t.Errorf("the log lacks %q:\n%s", text, b.log.String())
	}
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// stepClock moves the wall clock.
func (b *bench) stepClock(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.step += d
}

// pdOf returns the IA_PD with an IAID in a message of ours.
func pdOf(m *dhcpv6.Message, id uint32) *dhcpv6.OptIAPD {
	for _, ia := range m.Options.IAPD() {
		if binary.BigEndian.Uint32(ia.IaId[:]) == id {
			return ia
		}
	}
	return nil
}

// included lists the prefixes in an IA_PD of ours.
func included(m *dhcpv6.Message, id uint32) string {
	var out []string
	if ia := pdOf(m, id); ia != nil {
		for _, p := range ia.Options.Prefixes() {
			out = append(out, p.Prefix.String())
		}
	}
	return strings.Join(out, " ")
}

var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// seconds returns a lifetime as a test writes it, rounded up, for times are told in whole seconds.
func seconds(t *testing.T, until time.Time) int {
	t.Helper()
	return int((time.Until(until) + time.Second - 1) / time.Second)
}

func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }
