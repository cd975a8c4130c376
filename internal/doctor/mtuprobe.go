package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/icmpecho"
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
	sendPause    = 50 * time.Millisecond  // after what could not be sent
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
	fd     int
	path   Path
	latest icmpecho.Request
	buffer []byte
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
	s := &echo{fd: fd, path: p, latest: icmpecho.Request{IPv6: p.Family == rules.IPv6, ID: uint16(unix.Getpid())}, buffer: make([]byte, 1<<16)}
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
		s.latest.Seq++
		request, err := s.latest.Message(max(size-s.headers(), 0))
		if err != nil {
			return false, err
		}
		err = unix.Sendto(s.fd, request, 0, s.sockaddr())
		switch {
		case errors.Is(err, unix.EPERM):
			t.Blocked = err.Error()
			return false, nil
		case errors.Is(err, unix.EMSGSIZE):
			t.TooBig = true // by this machine: a route has such an MTU
			return false, nil
		case err != nil: // no route, no carrier: other checks and verdicts say so; or no buffer for a moment
			time.Sleep(sendPause)
			continue
		}
		switch s.receive(time.Now().Add(probeTimeout)) {
		case icmpecho.Reply:
			return true, nil
		case icmpecho.TooBig:
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

// headers is how many bytes of a packet stand before the payload of an echo request.
func (s *echo) headers() int {
	if s.path.Family == rules.IPv6 {
		return ipv6.HeaderLen + icmpecho.HeaderSize
	}
	return ipv4.HeaderLen + icmpecho.HeaderSize
}

// receive reads until something comes for the latest request. What is there already is read, however late it is.
func (s *echo) receive(deadline time.Time) icmpecho.Answer {
	for first := true; first || time.Now().Before(deadline); first = false {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return icmpecho.None
		}
		message := s.buffer[:n]
		if s.path.Family == rules.IPv4 { // IPv6 raw sockets give no header
			message = icmpecho.WithoutHeader(message)
		}
		if answer := s.latest.Read(message); answer != icmpecho.None {
			return answer
		}
	}
	return icmpecho.None
}
