package ndproxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/internal/ndproxy"
)

// fakeLink is a link on which one host has an address, and answers for it.
type fakeLink struct {
	mu       sync.Mutex
	heard    chan ndproxy.Packet
	closed   chan struct{}
	hardware net.HardwareAddr
	asked    []byte // the last byte of each target that was asked for
	answers  map[byte][]byte
}

func newFakeLink(id byte) *fakeLink {
	return &fakeLink{heard: make(chan ndproxy.Packet, 16), closed: make(chan struct{}), hardware: net.HardwareAddr{2, 0, 0, 0, 0, id}, answers: make(map[byte][]byte)}
}

func (w *fakeLink) Link() ndproxy.Link {
	return ndproxy.Link{Addr: netip.MustParseAddr("fe80::9"), Hardware: w.hardware}
}

func (w *fakeLink) Send(p ndproxy.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	target := p.Data[63]
	w.asked = append(w.asked, target)
	if answer := w.answers[target]; answer != nil && p.Data[40] == 135 {
		w.heard <- ndproxy.Packet{Data: answer, Hardware: net.HardwareAddr{2, 0, 0, 0, 1, target}}
	}
	return nil
}

func (w *fakeLink) Receive() (ndproxy.Packet, error) {
	select {
	case p := <-w.heard:
		return p, nil
	case <-w.closed:
		return ndproxy.Packet{}, errors.New("closed")
	}
}

func (w *fakeLink) Close() error { close(w.closed); return nil }

// neighbour makes a solicitation (135) or an advertisement (136) about 2001:db8:b::id.
func neighbour(kind, id byte) []byte {
	b := make([]byte, 64)
	b[0], b[5], b[6], b[7] = 0x60, 24, 58, 255
	copy(b[8:], netip.MustParseAddr("fe80::7").AsSlice())
	copy(b[24:], netip.MustParseAddr("ff02::1").AsSlice())
	b[40] = kind
	copy(b[48:], netip.MustParseAddr("2001:db8:b::").AsSlice())
	b[63] = id
	return b
}

// TestAProxyJoinsTwoLinks has a host found that the line asks for, and a neighbour of the line that the LAN asks for.
func TestAProxyJoinsTwoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := map[string]*fakeLink{"lan0": newFakeLink(1), "wan0": newFakeLink(2)}
		links["lan0"].answers[7] = neighbour(136, 7)
		links["wan0"].answers[8] = neighbour(136, 8)
		var changes atomic.Int32 // from either link
		p := ndproxy.New(ndproxy.Config{Line: "wan0", LAN: "lan0", Network: netip.MustParsePrefix("2001:db8:b::/64"), Own: netip.MustParseAddr("2001:db8:b::9"),
			Log: slog.New(slog.DiscardHandler), OnChange: func() { changes.Add(1) }, Open: func(device string) (ndproxy.Conn, error) { return links[device], nil }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = p.Run(ctx) }()
		p.SetLink(2, true)
		p.SetLAN(1, true, [6]byte{2, 0, 0, 0, 0, 1})
		synctest.Wait()
		links["wan0"].heard <- ndproxy.Packet{Data: neighbour(135, 7), Hardware: net.HardwareAddr{2, 0, 0, 0, 1, 1}}
		links["lan0"].heard <- ndproxy.Packet{Data: neighbour(135, 8), Hardware: net.HardwareAddr{2, 0, 0, 0, 1, 1}}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want := ndproxy.Hosts{LAN: []netip.Addr{netip.MustParseAddr("2001:db8:b::7")}, Line: []netip.Addr{netip.MustParseAddr("2001:db8:b::8")}}
		if diff := cmp.Diff(want, p.Hosts(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("hosts (-want +got):\n%s", diff)
		}
		if changes.Load() < 2 {
			t.Errorf("%d changes were told", changes.Load())
		}
		if asked := links["wan0"].asked; !cmp.Equal(asked, []byte{7, 8}) && !cmp.Equal(asked, []byte{8, 7}) { // an answer, and a question
			t.Errorf("the line has heard of %d", asked)
		}
		if p.Looped(time.Now()) || p.Crowded(time.Now()) {
			t.Error("a problem is told")
		}
		links["wan0"].heard <- ndproxy.Packet{Data: neighbour(135, 5), Hardware: links["lan0"].hardware}
		synctest.Wait()
		if !p.Looped(time.Now()) || len(p.Hosts().LAN) > 0 {
			t.Error("that both links are one is not told")
		}
		cancel()
		<-done
	})
}
