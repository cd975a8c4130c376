package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/icmpecho"
)

// Numbers of linux/icmp.h and linux/icmpv6.h.
const (
	icmpFilter = 1 // ICMP_FILTER, at level SOL_RAW: the types that are not wanted, as bits
	solRaw     = 255

	echoReply4 = 0
	echoReply6 = 129
)

// echoHops is the TTL of echo requests, pro-bing's.
const echoHops = 64

// echoSocket has the echo requests of a family that are asked in calm, and signals every echo reply by its ICMP id. A
// socket for each probe costs ten times what one packet does.
//
// To pingers of pro-bing, which have sockets of their own, the signal is a hint and decides nothing: a forged reply gives
// it too, and a socket that overflows gives none. They poll, after 50 µs at first and up to 100 ms later, so that a probe
// that is answered after 15 ms wakes the processor eight times. One that waits for the signal between two polls is woken
// once.
type echoSocket struct {
	is4  bool
	conn *net.IPConn
	raw  syscall.RawConn
	done chan struct{} // closed when nobody reads any more

	sending sync.Mutex
	mark    uint32 // that the socket has; guarded by sending

	mu       sync.Mutex
	expected map[uint16]*expectedReply
}

// expectedReply is what is waited for with one id.
type expectedReply struct {
	received chan time.Time // gets when the reply came
	request  icmpecho.Request
	payload  []byte // that the reply must bring back; nil for a pinger's, which looks for itself
}

// openEcho opens the socket of a family in the calling thread's network namespace.
func openEcho(is4 bool) (*echoSocket, error) {
	network := "ip6:ipv6-icmp"
	if is4 {
		network = "ip4:icmp"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = setEchoOptions(int(fd), is4) })
		return errors.Join(err, set)
	}}
	conn, err := config.ListenPacket(context.Background(), network, "")
	if err != nil {
		return nil, fmt.Errorf("opening a socket for echo requests: %w", err)
	}
	s := &echoSocket{is4: is4, conn: conn.(*net.IPConn), done: make(chan struct{}), expected: make(map[uint16]*expectedReply)}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go s.read()
	return s, nil
}

// setEchoOptions has the kernel pass echo replies only.
func setEchoOptions(fd int, is4 bool) error {
	if is4 {
		unwanted := ^uint32(1 << echoReply4)
		return errors.Join(unix.SetsockoptInt(fd, solRaw, icmpFilter, int(int32(unwanted))),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, echoHops))
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
	return errors.Join(unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, echoHops))
}

// expect has the reply with an id signalled; cancel ends that. Without a payload any with the id is.
func (s *echoSocket) expect(id uint16, payload []byte) (received <-chan time.Time, cancel func()) {
	e := &expectedReply{make(chan time.Time, 1), icmpecho.Request{IPv6: !s.is4, ID: id}, payload}
	s.mu.Lock()
	s.expected[id] = e
	s.mu.Unlock()
	return e.received, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.expected[id] == e {
			delete(s.expected, id)
		}
	}
}

// send sends an echo request. It waits for nothing: an error also means that the socket's buffer is full.
func (s *echoSocket) send(mark uint32, source, target netip.Addr, message []byte) error {
	var to unix.Sockaddr
	var control []byte // the source address; none leaves it to the kernel
	if s.is4 {
		to = &unix.SockaddrInet4{Addr: target.As4()}
		if source.IsValid() {
			control = (&ipv4.ControlMessage{Src: source.AsSlice()}).Marshal()
		}
	} else {
		to = &unix.SockaddrInet6{Addr: target.As16()}
		if source.IsValid() {
			control = (&ipv6.ControlMessage{Src: source.AsSlice()}).Marshal()
		}
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		if mark != s.mark {
			if sent = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)); sent != nil {
				return true
			}
			s.mark = mark
		}
		_, sent = unix.SendmsgN(int(fd), message, control, to, unix.MSG_DONTWAIT)
		return true
	})
	return errors.Join(err, sent)
}

// read signals replies until the socket is closed.
func (s *echoSocket) read() {
	defer close(s.done)
	message := make([]byte, 128) // more than the payload of ours; the rest is cut off
	var n int
	var failed error
	receive := func(fd uintptr) bool {
		n, failed = recvNow(int(fd), message)
		return !errors.Is(failed, unix.EAGAIN)
	}
	for {
		err := errors.Join(s.raw.Read(receive), failed)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(pollInterval) // an error that lasts must not keep the processor busy
		default:
			s.signal(message[:n], time.Now())
		}
	}
}

// recvNow receives a message that is there already.
//
// Go's runtime has a thread that watches system calls, and each wake-up of a sleeping process that makes one wakes that
// thread too. This one does not tell it: it cannot wait.
func recvNow(fd int, message []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(message))), uintptr(len(message)),
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// signal signals a reply, when it is one that is waited for.
func (s *echoSocket) signal(message []byte, now time.Time) {
	if s.is4 {
		message = icmpecho.WithoutHeader(message)
	}
	if len(message) < icmpecho.HeaderSize {
		return
	}
	id := binary.BigEndian.Uint16(message[4:])
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.expected[id]
	if !ok || e.payload != nil && (e.request.Read(message) != icmpecho.Reply || !bytes.Equal(message[icmpecho.HeaderSize:], e.payload)) {
		return
	}
	e.received <- now // there is room: it is the first
	delete(s.expected, id)
}

func (s *echoSocket) close() error {
	err := s.conn.Close()
	<-s.done
	return err
}

// probe asks a target once. That it was not sent is false.
func (s *echoSocket) probe(ctx context.Context, id uint16, b Binding, t Target) (rtt time.Duration, sent bool, err error) {
	payload := make([]byte, echoSize)
	_, _ = rand.Read(payload) // never fails
	message, err := icmpecho.Request{IPv6: !s.is4, ID: id}.Carrying(payload)
	if err != nil {
		return 0, false, err
	}
	received, cancel := s.expect(id, payload)
	defer cancel()
	began := time.Now()
	if err := s.send(b.Mark, b.Source.Unmap().WithZone(""), t.addr, message); err != nil {
		return 0, false, err
	}
	select {
	case at := <-received:
		return at.Sub(began), true, nil
	case <-ctx.Done():
		return 0, true, receiveError(ctx, t, ctx.Err())
	}
}

// echoSockets has one for each family, from the first probe on, and knows by which marks all is calm.
type echoSockets struct {
	mu     sync.Mutex
	v4, v6 *echoSocket
	calm   map[calmKey]bool
}

// calmKey is one uplink in one family.
type calmKey struct {
	mark uint32
	is4  bool
}

// forTarget returns the socket for a target, nil where none can be opened: pingers do without.
func (l *echoSockets) forTarget(target netip.Addr) *echoSocket {
	l.mu.Lock()
	defer l.mu.Unlock()
	socket := &l.v6
	if target.Is4() {
		socket = &l.v4
	}
	if *socket == nil {
		*socket, _ = openEcho(target.Is4()) // the probe itself returns why it cannot be sent
	}
	return *socket
}

// asks notes that a probe begins by a path, and reports whether all is calm there: whatever was asked before was answered.
func (l *echoSockets) asks(path calmKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	calm := l.calm[path]
	delete(l.calm, path)
	return calm
}

// answered notes that a probe by a path was answered.
func (l *echoSockets) answered(path calmKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calm == nil {
		l.calm = make(map[calmKey]bool)
	}
	l.calm[path] = true
}

func (l *echoSockets) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed []error
	for _, socket := range []*echoSocket{l.v4, l.v6} {
		if socket != nil {
			failed = append(failed, socket.close())
		}
	}
	l.v4, l.v6 = nil, nil
	return errors.Join(failed...)
}
