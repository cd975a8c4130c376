package monitor

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// line is one by which a connection acknowledges more with every tenth of a second, while it gets on.
type line struct {
	getsOn atomic.Bool
	open   atomic.Int32
}

func (l *line) listen(int, rules.Family) (net.PacketConn, error) {
	l.open.Add(1)
	return &segments{line: l}, nil
}

// segments is a socket for what comes in by a line.
type segments struct {
	net.PacketConn
	line     *line
	deadline time.Time
}

func (s *segments) Close() error {
	s.line.open.Add(-1)
	return nil
}

func (s *segments) SetReadDeadline(at time.Time) error {
	s.deadline = at
	return nil
}

func (s *segments) ReadFrom(b []byte) (int, net.Addr, error) {
	time.Sleep(time.Until(s.deadline))
	if !s.line.getsOn.Load() {
		return 0, nil, os.ErrDeadlineExceeded
	}
	packet := make([]byte, 40) // RFC 791, RFC 9293
	packet[0], packet[3], packet[9] = 0x45, 40, 6
	copy(packet[12:], []byte{192, 0, 2, 1, 198, 51, 100, 2})
	binary.BigEndian.PutUint32(packet[28:], uint32(time.Now().UnixMilli()))
	packet[32], packet[33] = 0x50, 0x10
	return copy(b, packet), nil, nil
}

func TestConnectionsThatGetOnKeepASilentUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.pass()
		after(10 * time.Second)
		if n := c.line.open.Load(); n != 0 {
			t.Errorf("%d sockets look while targets answer", n)
		}
		c.line.getsOn.Store(true)
		c.internet.set("fiber", false)
		after(5 * time.Second)
		c.pass()
		c.wants(fiber4, uplink.Degraded)
		if n := c.line.open.Load(); n != 1 {
			t.Errorf("%d sockets look while they are silent", n)
		}
		c.line.getsOn.Store(false)
		after(40 * time.Second)
		c.wants(fiber4, uplink.Down)
		if n := c.line.open.Load(); n != 0 {
			t.Errorf("%d sockets look at a line that is down", n)
		}
		c.internet.set("lte", false)
		after(10 * time.Second)
		c.wants(lte4, uplink.Down)
	})
}

func TestOnlyTheInternetShowsThatALineWorks(t *testing.T) {
	info := complete(2, 2)
	info.Addresses = append(info.Addresses, netip.MustParsePrefix("2001:db8:a::2/64"))
	for address, want := range map[string]bool{
		"192.0.2.1":           true,
		"2001:db8:ffff::1":    true,
		"198.51.100.1":        false, // the gateway
		"198.51.100.77":       false, // a neighbour
		"2001:db8:a::77":      false,
		"192.168.100.1":       false, // a modem
		"fd00::1":             false,
		"fe80::1":             false,
		"127.0.0.1":           false,
		"::":                  false,
		"ff02::1":             false,
		"255.255.255.255":     false,
		"::ffff:192.168.1.10": false,
	} {
		if got := fromInternet(netip.MustParseAddr(address), info); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
