package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// rtnlConn is a netlink socket for what is asked so often that it must cost little: it has one buffer, and is
// for one goroutine at a time.
type rtnlConn struct {
	fd       int
	sequence uint32
	buffer   []byte
	// interrupted is true when the kernel says of an answer that its list changed underneath, so that some may lack.
	interrupted bool
}

const (
	rtnlBuffer = 32 << 10
	// rtnlTimeout is how long an answer is waited for, which is otherwise there when the request is sent.
	rtnlTimeout = time.Second
)

// openRTNL connects to the kernel of the calling thread's network namespace.
func openRTNL() (*rtnlConn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(rtnlTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("bounding the wait for answers: %w", err), unix.Close(fd))
	}
	return &rtnlConn{fd: fd, buffer: make([]byte, rtnlBuffer)}, nil
}

func (c *rtnlConn) close() error { return unix.Close(c.fd) }

// request sends a request, whose body is appended by write, and gives each message of the answer to take. What
// take gets is gone when it returns. An answer that says no is a refusal.
func (c *rtnlConn) request(typ, flags uint16, write func([]byte) []byte, take func(typ uint16, body []byte)) error {
	c.sequence++
	msg := append(c.buffer[:0], make([]byte, unix.NLMSG_HDRLEN)...)
	msg = write(msg)
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], typ)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(msg[8:], c.sequence)
	if err := unix.Sendto(c.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		if done, err := c.read(c.buffer[:n], take); done || err != nil {
			return err
		}
	}
}

// refusal is the kernel's own answer to a request: it is no fault of the socket.
type refusal struct{ unix.Errno }

func (r refusal) Unwrap() error { return r.Errno }

// read reads the messages of one datagram; done is true after the last one of our answer.
func (c *rtnlConn) read(b []byte, take func(uint16, []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return false, errors.New("reading the answer: a message is cut short")
		}
		typ, flags, sequence := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])
		body := b[unix.NLMSG_HDRLEN:length]
		b = b[min(len(b), (length+3)&^3):]
		c.interrupted = c.interrupted || sequence == c.sequence && flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case sequence != c.sequence: // the rest of an answer that took too long
		case typ == unix.NLMSG_DONE:
			return true, nil
		case typ == unix.NLMSG_ERROR:
			return true, refusal{unix.Errno(-int32(native32(body)))}
		default:
			take(typ, body)
			if flags&unix.NLM_F_MULTI == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}
