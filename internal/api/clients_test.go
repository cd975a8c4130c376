package api

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoIsOneClient(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:99":              "192.0.2.1/32",
		"[::ffff:192.0.2.1]:99":     "192.0.2.1/32",
		"[2001:db8:1:2:3:4:5:6]:99": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:99":         "fe80::1/128",
		"@":                         netip.Prefix{}.String(),
	} {
		if got := clientOf(remote).String(); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}

// crowd is a listener whose connections come from the addresses that it is given.
type crowd struct {
	net.Listener
	from []string
}

type visitor struct {
	net.Conn
	from   string
	closed *bool
}

func (v visitor) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(v.from))
}

func (v visitor) Close() error { *v.closed = true; return nil }

func (c *crowd) Accept() (net.Conn, error) {
	if len(c.from) == 0 {
		return nil, net.ErrClosed
	}
	v := visitor{from: c.from[0], closed: new(bool)}
	c.from = c.from[1:]
	return v, nil
}

func TestNoClientKeepsOthersOut(t *testing.T) {
	var from []string
	for n := range 100 {
		from = append(from, fmt.Sprintf("192.0.2.1:%d", 1000+n)) // far more than its part
	}
	for n := range 100 {
		from = append(from, fmt.Sprintf("[2001:db8::%x]:99", n+1)) // a network is one client
	}
	from = append(from, "192.0.2.2:1")
	for n := range 40 {
		from = append(from, fmt.Sprintf("198.51.100.%d:1", n+1)) // many clients
	}
	from = append(from, "192.0.2.3:1")
	l := newFairListener(&crowd{from: from}, 32, 12)
	open := func(client string) (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.open {
			if c.client == netip.MustParsePrefix(client) {
				n++
			}
		}
		return n
	}
	var accepted []net.Conn
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		accepted = append(accepted, conn)
		if len(l.open) > 32 {
			t.Fatalf("%d are open", len(l.open))
		}
		switch conn.RemoteAddr().String() {
		case "192.0.2.2:1":
			if open("192.0.2.1/32") != 12 || open("2001:db8::/64") != 12 {
				t.Errorf("%d and %d", open("192.0.2.1/32"), open("2001:db8::/64"))
			}
		case "192.0.2.3:1":
			if open("192.0.2.3/32") != 1 || open("192.0.2.1/32") > 2 {
				t.Errorf("%d and %d", open("192.0.2.3/32"), open("192.0.2.1/32"))
			}
		}
	}
	if last := accepted[len(accepted)-1].RemoteAddr().String(); last != "192.0.2.3:1" {
		t.Errorf("the last that got in is %s", last)
	}
	for _, conn := range accepted {
		_ = conn.Close()
	}
	if len(l.open) != 0 {
		t.Errorf("%d places are not given back", len(l.open))
	}
}

func TestFollowersOverTCPHaveSharesOfTheirOwn(t *testing.T) {
	s := newShares(3, 2)
	a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	var release func()
	for n, want := range map[netip.Prefix]int{a: 2} {
		for range want {
			var err error
			if release, err = s.take(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.take(a); err == nil {
		t.Error("a third of one client")
	}
	if _, err := s.take(b); err != nil {
		t.Error(err)
	}
	if _, err := s.take(netip.MustParsePrefix("192.0.2.3/32")); err == nil {
		t.Error("a fourth in all")
	}
	release()
	if _, err := s.take(a); err != nil {
		t.Error(err)
	}
}

func TestTokensCannotBeTriedFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const token = "0123456789abcdef"
		d := newDaemon()
		h := newServer(d, func(o *Options) { o.Token = token }).handler(false)
		looked := 0
		began := time.Now()
		for time.Since(began) < time.Hour {
			switch w := ask(h, "POST", "/api/v1/reload", "Authorization: Bearer wrong"); w.Code {
			case 401:
				looked++
			case 429:
				if w.Header().Get("Retry-After") == "" {
					t.Fatal("when to try again is not said")
				}
				wantCode(t, ask(h, "POST", "/api/v1/reload", "Authorization: Bearer "+token), 429) // it would tell that this was the one
			default:
				t.Fatalf("%d", w.Code)
			}
			time.Sleep(time.Second)
		}
		if looked < 100 || looked > 300 {
			t.Errorf("%d tokens were looked at in an hour", looked)
		}
		time.Sleep(time.Minute)
		wantCode(t, ask(h, "POST", "/api/v1/reload", "Authorization: Bearer "+token), 204)
		for range 20 { // somebody without one is not trying
			wantCode(t, ask(h, "POST", "/api/v1/reload"), 401)
		}
		g := newGuesses(5, time.Minute)
		for n := range 100_000 {
			g.failed(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32), time.Now())
		}
		if len(g.by) > maxGuessers {
			t.Errorf("%d clients are remembered", len(g.by))
		}
	})
}
