package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of linux/icmp.h and linux/icmpv6.h.
const (
	icmpFilter = 1 // ICMP_FILTER, at level SOL_RAW: the types that are not wanted, as bits
	solRaw     = 255

	echoReply4 = 0
	echoReply6 = 129
)

// pollInterval is how long a pinger waits for the listener: a reply that it has missed is then found by polling.
const pollInterval = 100 * time.Millisecond

// After lateAnswer a pinger polls at latePollInterval: few answers come so late, and a dead line has ten waited for.
const (
	lateAnswer       = 2 * time.Second
	latePollInterval = time.Second
)

// echoListener signals echo replies as they arrive, by their ICMP id. A pinger of pro-bing polls its socket, after 50 µs
// at first and up to 100 ms later, so that a probe that is answered after 15 ms wakes the processor eight times. One that
// waits for the listener between two polls is woken once.
//
// The signal is a hint, and decides nothing: a forged reply gives it too, and a socket that overflows gives none.
type echoListener struct {
	conn net.PacketConn
	done chan struct{} // closed when nobody listens any more

	mu       sync.Mutex
	expected map[uint16]chan struct{}
}

// listenEcho opens a listener for one family in the calling thread's network namespace.
func listenEcho(is4 bool) (*echoListener, error) {
	network := "ip6:ipv6-icmp"
	if is4 {
		network = "ip4:icmp"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = filterReplies(int(fd), is4) })
		return errors.Join(err, set)
	}}
	conn, err := config.ListenPacket(context.Background(), network, "")
	if err != nil {
		return nil, fmt.Errorf("listening for echo replies: %w", err)
	}
	l := &echoListener{conn: conn, done: make(chan struct{}), expected: make(map[uint16]chan struct{})}
	go l.listen()
	return l, nil
}

// filterReplies has the kernel pass echo replies only.
func filterReplies(fd int, is4 bool) error {
	if is4 {
		unwanted := ^uint32(1 << echoReply4)
		return unix.SetsockoptInt(fd, solRaw, icmpFilter, int(int32(unwanted)))
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
	return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
}

// expect returns a channel that is closed when a reply with an id arrives. Cancel ends the wait for it.
func (l *echoListener) expect(id uint16) (received <-chan struct{}, cancel func()) {
	c := make(chan struct{})
	l.mu.Lock()
	l.expected[id] = c
	l.mu.Unlock()
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.expected[id] == c {
			delete(l.expected, id)
		}
	}
}

func (l *echoListener) listen() {
	defer close(l.done)
	message := make([]byte, 128) // an IPv4 header with options, and more than the id; the rest is cut off
	for {
		n, _, err := l.conn.ReadFrom(message)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(pollInterval) // an error that lasts must not keep the processor busy
			continue
		case n < 6:
			continue
		}
		id := uint16(message[4])<<8 | uint16(message[5])
		l.mu.Lock()
		if c, ok := l.expected[id]; ok {
			close(c)
			delete(l.expected, id)
		}
		l.mu.Unlock()
	}
}

func (l *echoListener) close() error {
	err := l.conn.Close()
	<-l.done
	return err
}

// echoListeners has one for each family, from the first probe on.
type echoListeners struct {
	mu     sync.Mutex
	v4, v6 *echoListener
}

// forTarget returns the listener for a target, nil where none can be opened: polling does without.
func (l *echoListeners) forTarget(target netip.Addr) *echoListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	listener := &l.v6
	if target.Is4() {
		listener = &l.v4
	}
	if *listener == nil {
		*listener, _ = listenEcho(target.Is4()) // the probe itself returns why it cannot be sent
	}
	return *listener
}

func (l *echoListeners) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed []error
	for _, listener := range []*echoListener{l.v4, l.v6} {
		if listener != nil {
			failed = append(failed, listener.close())
		}
	}
	l.v4, l.v6 = nil, nil
	return errors.Join(failed...)
}
