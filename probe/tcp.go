package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

var connection = kind{name: TCP, ports: true, example: "tcp://192.0.2.2:443", probe: probeTCP,
	rest: func(_ *Target, rest string) error {
		if rest != "" {
			return fmt.Errorf("has %s behind the port: a tcp target is an address and a port only", quote(rest))
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
	reset(conn)
	return rtt, nil
}

// reset closes a connection with RST: one packet instead of three, and no
// TIME_WAIT entry in anybody's connection tracking.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a failure costs two packets
	}
	_ = conn.Close() // nothing was written that could be lost
}
