package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// Path is how the packets of an MTU probe leave.
type Path struct {
	Uplink string
	Device string
	Mark   uint32
	Family rules.Family
	Target netip.Addr
	MTU    int // of the device, bytes
}

const (
	probeTries   = 3                      // of a size, before it counts as lost
	probeTimeout = 500 * time.Millisecond // for an answer, shorter than any line that is of use
	smallest     = 576                    // what every line passes (RFC 791); of IPv6, 1280
	smallest6    = 1280
)

// ProbeMTU sends a few echo requests by a path, with the flag that forbids fragments, and finds how large a packet
// may be. It sends at most some twenty packets.
func ProbeMTU(ctx context.Context, p Path) (MTUProbe, error) {
	t := MTUProbe{Uplink: p.Uplink, Device: p.Device, Family: p.Family, Target: p.Target.String(), MTU: p.MTU}
	s, err := openEcho(p)
	if err != nil {
		return t, err
	}
	defer s.close()
	low := smallest
	if p.Family == rules.IPv6 {
		low = smallest6
	}
	low = min(low, p.MTU)
	t.Answers, err = s.passes(ctx, low, &t)
	if err != nil || !t.Answers {
		return t, err
	}
	t.Passes = low
	whole, err := s.passes(ctx, p.MTU, &t) // which nearly always passes
	if whole {
		t.Passes = p.MTU
	}
	for high := p.MTU - 1; err == nil && !t.TooBig && t.Passes < high; {
		size := (t.Passes + high + 1) / 2
		var ok bool
		if ok, err = s.passes(ctx, size, &t); ok {
			t.Passes = size
		} else {
			high = size - 1
		}
	}
	return t, err
}

// echo is a raw ICMP socket of one path.
type echo struct {
	fd       int
	path     Path
	id       uint16
	sequence uint16
	buffer   []byte
}

func openEcho(p Path) (*echo, error) {
	domain, protocol, level, discover := unix.AF_INET, unix.IPPROTO_ICMP, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if p.Family == rules.IPv6 {
		domain, protocol, level, discover = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening a socket for echo requests: %w", err)
	}
	s := &echo{fd: fd, path: p, id: uint16(unix.Getpid()), buffer: make([]byte, 1<<16)}
	wait := unix.NsecToTimeval(probeTimeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(p.Mark)),
		unix.BindToDevice(fd, p.Device),
		// The kernel shall neither split the packet nor refuse it for what it has learnt before.
		unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_PROBE),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
	)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("preparing a socket for echo requests by %s: %w", p.Device, err)
	}
	return s, nil
}

func (s *echo) close() { _ = unix.Close(s.fd) }

// passes reports whether a packet of this many bytes is answered. What this machine itself says against it goes
// into the probe's result.
func (s *echo) passes(ctx context.Context, size int, t *MTUProbe) (bool, error) {
	for range probeTries {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		s.sequence++
		err := unix.Sendto(s.fd, s.request(size), 0, s.sockaddr())
		switch {
		case errors.Is(err, unix.EPERM):
			t.Blocked = err.Error()
			return false, nil
		case errors.Is(err, unix.EMSGSIZE):
			t.TooBig = true // by this machine: a route has such an MTU
			return false, nil
		case err != nil:
			return false, nil // no route, no carrier: other checks and verdicts say so
		}
		if answered, tooBig := s.receive(time.Now().Add(probeTimeout)); answered {
			return true, nil
		} else if tooBig {
			t.TooBig = true
			return false, nil
		}
	}
	return false, nil
}

func (s *echo) sockaddr() unix.Sockaddr {
	if s.path.Family == rules.IPv6 {
		return &unix.SockaddrInet6{Addr: s.path.Target.As16()}
	}
	return &unix.SockaddrInet4{Addr: s.path.Target.As4()}
}

// Types of ICMP and ICMPv6.
const (
	echoReply, echoRequest     = 0, 8
	unreachable, fragNeeded    = 3, 4
	echoReply6, echoRequest6   = 129, 128
	packetTooBig6              = 2
	header4, header6, icmpSize = 20, 40, 8
)

// request makes an echo request that is a packet of this many bytes.
func (s *echo) request(size int) []byte {
	header, typ := header4, byte(echoRequest)
	if s.path.Family == rules.IPv6 {
		header, typ = header6, echoRequest6
	}
	b := make([]byte, max(size-header, icmpSize))
	b[0] = typ
	binary.BigEndian.PutUint16(b[4:], s.id)
	binary.BigEndian.PutUint16(b[6:], s.sequence)
	if s.path.Family == rules.IPv4 { // of ICMPv6 the kernel makes the sum, for it covers addresses
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// receive reads until the answer to the latest request comes, or word that it was too large.
func (s *echo) receive(deadline time.Time) (answered, tooLarge bool) {
	for time.Now().Before(deadline) {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, false
		}
		if answered, tooLarge = s.read(s.buffer[:n]); answered || tooLarge {
			return answered, tooLarge
		}
	}
	return false, false
}

// read looks at one message. IPv4 raw sockets give the IP header along, IPv6 ones do not.
func (s *echo) read(b []byte) (answered, tooLarge bool) {
	if s.path.Family == rules.IPv6 {
		switch {
		case len(b) < icmpSize:
			return false, false
		case b[0] == echoReply6:
			return s.ours(b), false
		}
		return false, b[0] == packetTooBig6 && len(b) >= icmpSize+header6+icmpSize && s.ours(b[icmpSize+header6:])
	}
	if len(b) < header4 || len(b) < int(b[0]&0xf)*4+icmpSize {
		return false, false
	}
	b = b[int(b[0]&0xf)*4:]
	switch {
	case b[0] == echoReply:
		return s.ours(b), false
	case b[0] != unreachable || b[1] != fragNeeded || len(b) < icmpSize+header4:
		return false, false
	}
	quoted := b[icmpSize:]
	at := int(quoted[0]&0xf) * 4
	return false, len(quoted) >= at+icmpSize && s.ours(quoted[at:])
}

func (s *echo) ours(icmp []byte) bool {
	return binary.BigEndian.Uint16(icmp[4:]) == s.id && binary.BigEndian.Uint16(icmp[6:]) == s.sequence
}
