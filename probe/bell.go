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

// listenAnyway is how long a pinger trusts the bell: an answer that was not rung is then found by looking.
const listenAnyway = 100 * time.Millisecond

// bell rings for echo replies as they arrive, by their ICMP id. A pinger of pro-bing looks at its socket again and
// again, after 50 µs at first and up to 100 ms later, so a probe that is answered after 15 ms wakes the processor eight
// times. Whoever waits for the bell between two looks is woken once.
//
// The bell is a hint, and decides nothing: it may ring for a forged answer, and not at all when its socket overflows.
type bell struct {
	conn net.PacketConn
	gone chan struct{} // closed when nobody listens any more

	mu      sync.Mutex
	waiting map[uint16]chan struct{}
}

// hang opens a bell for one family in the calling thread's network namespace.
func hang(is4 bool) (*bell, error) {
	network := "ip6:ipv6-icmp"
	if is4 {
		network = "ip4:icmp"
	}
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = onlyReplies(int(fd), is4) })
		return errors.Join(err, set)
	}}
	conn, err := listen.ListenPacket(context.Background(), network, "")
	if err != nil {
		return nil, fmt.Errorf("listening for echo replies: %w", err)
	}
	b := &bell{conn: conn, gone: make(chan struct{}), waiting: make(map[uint16]chan struct{})}
	go b.listen()
	return b, nil
}

// onlyReplies keeps the kernel from waking us for other messages.
func onlyReplies(fd int, is4 bool) error {
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

// expect returns what is closed when a reply with an id arrives. Done is to be called when it is not waited for any more.
func (b *bell) expect(id uint16) (rung <-chan struct{}, done func()) {
	c := make(chan struct{})
	b.mu.Lock()
	b.waiting[id] = c
	b.mu.Unlock()
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.waiting[id] == c {
			delete(b.waiting, id)
		}
	}
}

func (b *bell) listen() {
	defer close(b.gone)
	message := make([]byte, 128) // an IPv4 header with options, and more than the id; the rest is cut off
	for {
		n, _, err := b.conn.ReadFrom(message)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(listenAnyway) // an error that lasts must not keep the processor busy
			continue
		case n < 6:
			continue
		}
		id := uint16(message[4])<<8 | uint16(message[5])
		b.mu.Lock()
		if c, ok := b.waiting[id]; ok {
			close(c)
			delete(b.waiting, id)
		}
		b.mu.Unlock()
	}
}

func (b *bell) close() error {
	err := b.conn.Close()
	<-b.gone
	return err
}

// bells has one for each family, from the first probe on.
type bells struct {
	mu     sync.Mutex
	v4, v6 *bell
}

// of returns the bell for a target, nil where none can be hung: looking does without.
func (b *bells) of(target netip.Addr) *bell {
	b.mu.Lock()
	defer b.mu.Unlock()
	hung := &b.v6
	if target.Is4() {
		hung = &b.v4
	}
	if *hung == nil {
		*hung, _ = hang(target.Is4()) // the probe itself tells why it cannot be sent
	}
	return *hung
}

func (b *bells) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed []error
	for _, hung := range []*bell{b.v4, b.v6} {
		if hung != nil {
			failed = append(failed, hung.close())
		}
	}
	b.v4, b.v6 = nil, nil
	return errors.Join(failed...)
}
