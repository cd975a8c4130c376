package dhcp6

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// serverWire is a ServerConn in memory.
type serverWire struct {
	in     chan Datagram
	out    chan []byte
	closed chan struct{}
}

func (w *serverWire) Send(b []byte, _ netip.Addr) error { w.out <- b; return nil }
func (w *serverWire) Close() error                      { close(w.closed); return nil }
func (w *serverWire) Receive() (Datagram, error) {
	select {
	case d := <-w.in:
		return d, nil
	case <-w.closed:
		return Datagram{}, net.ErrClosed
	}
}

// A server answers while its link is up, as much as a network of routers needs, and says why it cannot.
func TestAServerAnswersAndBoundsWhatCostsTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := &serverWire{make(chan Datagram), make(chan []byte, 1000), make(chan struct{})}
		refused := errors.New("the port is taken")
		var free atomic.Bool
		s := NewServer(ServerConfig{Device: "lan0", Log: slog.New(slog.DiscardHandler), Open: func(string) (ServerConn, error) {
			if !free.Load() {
				return nil, refused
			}
			return wire, nil
		}, Answer: func(d Datagram, _ time.Time) ([]byte, error) { return d.Data, nil }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		s.SetLink(3, true)
		synctest.Wait()
		if !errors.Is(s.Failure(), refused) {
			t.Errorf("failure %v", s.Failure())
		}
		free.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Failure() != nil {
			t.Errorf("failure %v", s.Failure())
		}
		send := func(kind dhcpv6.MessageType, n int) int {
			for range n {
				wire.in <- Datagram{Data: []byte{byte(kind), 0, 0, 0}}
			}
			synctest.Wait()
			answered := len(wire.out)
			for range answered {
				<-wire.out
			}
			return answered
		}
		if n := send(dhcpv6.MessageTypeRequest, bindAtOnce+50); n < bindAtOnce || n > bindAtOnce+10 {
			t.Errorf("%d requests answered at once", n)
		}
		if n := send(dhcpv6.MessageTypeSolicit, 50); n != 50 {
			t.Errorf("%d solicitations answered", n)
		}
		time.Sleep(time.Second)
		if n := send(dhcpv6.MessageTypeRenew, 20); n < 10 || n > 15 {
			t.Errorf("%d renewals answered a second later", n)
		}
		cancel()
		<-done
	})
}
