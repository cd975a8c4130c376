package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Counters are a device's counters.
type Counters struct {
	Received, Sent           uint64 // packets
	ReceivedBytes, SentBytes uint64
}

// Traffic reads packet counters many times a second, so it has a plain socket and one buffer of its own.
// It may be used beside a Kernel, by one goroutine.
type Traffic struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// Layouts of linux/if_link.h and linux/netlink.h, sizes in bytes.
const (
	sizeofStatsMsg  = 12 // struct if_stats_msg: family, 3 bytes of padding, index, filter mask
	statsLink64     = 1  // IFLA_STATS_LINK_64, which begins with packets and then bytes, received and sent
	trafficBuffer   = 32 << 10
	trafficPatience = time.Second
)

// OpenTraffic connects to the kernel of the calling thread's network namespace.
func OpenTraffic() (*Traffic, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink socket for counters: %w", err)
	}
	timeout := unix.NsecToTimeval(trafficPatience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("bounding the wait for counters: %w", err), unix.Close(fd))
	}
	return &Traffic{fd: fd, buffer: make([]byte, trafficBuffer)}, nil
}

// Close gives the socket back.
func (t *Traffic) Close() { _ = unix.Close(t.fd) }

// Read puts the counters of every device into out, by interface index.
func (t *Traffic) Read(out map[int]Counters) error {
	clear(out)
	t.sequence++
	request := binary.NativeEndian.AppendUint32(t.buffer[:0], unix.NLMSG_HDRLEN+sizeofStatsMsg)
	request = binary.NativeEndian.AppendUint16(request, unix.RTM_GETSTATS)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = binary.NativeEndian.AppendUint32(request, t.sequence)
	request = append(request, make([]byte, 4+4+4)...) // our port, family and padding, every index
	request = binary.NativeEndian.AppendUint32(request, 1<<(statsLink64-1))
	if err := unix.Sendto(t.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking for counters: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(t.fd, t.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading counters: %w", err)
		}
		if done, err := t.take(t.buffer[:n], out); done || err != nil {
			return err
		}
	}
}

// take reads the messages of one datagram; done is true after the last one of our request.
func (t *Traffic) take(b []byte, out map[int]Counters) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return false, errors.New("reading counters: a message is cut short")
		}
		typ, sequence, body := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:length]
		b = b[min(len(b), (length+3)&^3):]
		switch {
		case sequence != t.sequence: // the rest of an answer that took too long
		case typ == unix.NLMSG_DONE:
			return true, nil
		case typ == unix.NLMSG_ERROR:
			return true, fmt.Errorf("reading counters: %w", unix.Errno(-int32(native32(body))))
		case typ == unix.RTM_NEWSTATS && len(body) >= sizeofStatsMsg:
			for attr, value := range attributes(body[sizeofStatsMsg:]) {
				if attr == statsLink64 && len(value) >= 32 {
					out[int(native32(body[4:]))] = Counters{
						Received: binary.NativeEndian.Uint64(value), Sent: binary.NativeEndian.Uint64(value[8:]),
						ReceivedBytes: binary.NativeEndian.Uint64(value[16:]), SentBytes: binary.NativeEndian.Uint64(value[24:]),
					}
				}
			}
		}
	}
	return false, nil
}
