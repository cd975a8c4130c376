package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var connection = kind{name: TCP, ports: true, retransmits: true, example: "tcp://192.0.2.2:443", probe: probeTCP,
	rest: func(_ *Target, rest string) error {
		if rest != "" {
			return fmt.Errorf("has %s after the port: a tcp target is only an address and a port", quote(rest))
		}
		return nil
	},
	size: func(Target) (packets, payload int) { return 4, 40 + 40 + 32 + 20 }, // SYN, SYN-ACK, ACK, RST
}

func probeTCP(ctx context.Context, _ *Net, b Binding, t Target) (time.Duration, error) {
	began := time.Now()
	conn, err := b.dial(ctx, "tcp", t)
	rtt := time.Since(began)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return rtt, nil
	}
	if err != nil {
		return 0, receiveError(ctx, t, err)
	}
	rtt -= waited(conn, rtt)
	reset(conn)
	return rtt, nil
}

// waited returns how much of the time that connecting took passed before the SYN left that was answered. The kernel
// sends it again after a second, and after two more (RFC 6298 section 2); by the timestamps of RFC 7323 it knows which
// one the answer is to. Without them nobody does, and all of the time counts.
func waited(conn net.Conn, connecting time.Duration) (before time.Duration) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // a failure leaves it at 0
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Total_retrans > 0 && info.Rtt > 0 {
			before = max(connecting-time.Duration(info.Rtt)*time.Microsecond, 0)
		}
	})
	return before
}

// reset closes a connection with RST: one packet instead of three, and no
// TIME_WAIT entry in anybody's connection tracking.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a failure costs two packets
	}
	_ = conn.Close() // nothing was written that could be lost
}
