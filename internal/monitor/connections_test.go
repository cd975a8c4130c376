package monitor

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// line is one by which a connection acknowledges more with every tenth of a second, until it ends.
type line struct {
	mu     sync.Mutex
	begins time.Time // zero: nothing comes in
	ends   time.Time
	open   int
	read   func(out map[int]counters.Device, now time.Time) // of packet counters; nil: nothing is counted
}

// counts says what packet counters have from now on.
func (l *line) counts(read func(out map[int]counters.Device, now time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = read
}

func (l *line) count(out map[int]counters.Device) (time.Time, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.read != nil {
		l.read(out, now)
	}
	return now, nil
}

func (l *line) listen(int, rules.Family) (net.PacketConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	return &segments{line: l, next: time.Now()}, nil
}

func (l *line) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

func (l *line) getsOn(span time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begins, l.ends = time.Now(), time.Now().Add(span)
}

// segments is a socket for what comes in by a line. What comes in waits until it is read.
type segments struct {
	net.PacketConn
	line     *line
	next     time.Time // when what is read next came in
	deadline time.Time
}

func (s *segments) Close() error {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	s.line.open--
	return nil
}

func (s *segments) SetReadDeadline(at time.Time) error {
	s.deadline = at
	return nil
}

func (s *segments) ReadFrom(b []byte) (int, net.Addr, error) {
	s.line.mu.Lock()
	comes := !s.line.begins.IsZero() && s.next.Before(s.line.ends)
	s.line.mu.Unlock()
	if !comes || s.next.After(s.deadline) {
		time.Sleep(time.Until(s.deadline))
		if !comes {
			s.next = time.Now()
		}
		return 0, nil, os.ErrDeadlineExceeded
	}
	time.Sleep(time.Until(s.next))
	packet := make([]byte, 40) // RFC 791, RFC 9293
	packet[0], packet[3], packet[9] = 0x45, 40, 6
	copy(packet[12:], []byte{192, 0, 2, 1, 198, 51, 100, 2})
	binary.BigEndian.PutUint32(packet[28:], uint32(s.next.UnixMilli()))
	s.next = s.next.Add(100 * time.Millisecond)
	packet[32], packet[33] = 0x50, 0x10
	return copy(b, packet), nil, nil
}

func TestConnectionsThatGetOnKeepASilentUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.pass()
		after(10 * time.Second)
		if n := c.line.opened(); n != 0 {
			t.Errorf("%d sockets look while targets answer", n)
		}
		c.line.getsOn(25 * time.Second)
		c.internet.set("fiber", false)
		after(5 * time.Second)
		c.pass()
		c.wants(fiber4, uplink.Degraded)
		if n := c.line.opened(); n > 1 {
			t.Errorf("%d sockets look while they are silent", n)
		}
		after(20*time.Second + 29*time.Second)
		c.wants(fiber4, uplink.Degraded)
		after(3 * time.Second) // what came in before the end of the connections is no evidence after it
		c.wants(fiber4, uplink.Down)
		if n := c.line.opened(); n != 0 {
			t.Errorf("%d sockets look at a line that is down", n)
		}
		c.internet.set("lte", false)
		after(10 * time.Second)
		c.wants(lte4, uplink.Down)
	})
}

// One that was suspect before a restart is looked at from the first plan on.
func TestConnectionsThatGetOnKeepAnUplinkThatWasSuspectBeforeARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, map[string]savedVerdict{"fiber/ipv4": {State: uplink.Suspect, Since: time.Now()}})
		c.internet.set("fiber", false)
		c.line.getsOn(10 * time.Second)
		c.pass()
		c.wants(fiber4, uplink.Suspect)
		after(8 * time.Second)
		c.wants(fiber4, uplink.Degraded)
	})
}

func TestNobodyLooksForAnUplinkThatAReloadHasMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.pass()
		after(10 * time.Second)
		c.line.getsOn(5 * time.Second)
		c.internet.set("fiber", false)
		after(8 * time.Second)
		c.pass()
		c.wants(fiber4, uplink.Degraded)
		c.internet.set("fiber", true)
		c.reload(func(c *config.Config) { c.Uplinks[0].Probe.Interval = 2 * time.Second })
		c.pass()
		after(3 * time.Second)
		if n := c.line.opened(); n != 0 {
			t.Errorf("%d sockets look for what is not watched any more", n)
		}
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
