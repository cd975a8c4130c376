package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/icmpecho"
	"github.com/uplinkd/uplinkd/internal/kernel"
)

// window is the listening window of probes that are answered; it is long
// because a loaded machine must not fail the test.
const window = 10 * time.Second

func ask(t *testing.T, n *Net, p Binding, target string, window time.Duration) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), window)
	defer cancel()
	return n.Probe(ctx, p, must(ParseTarget(target))(t))
}

func TestNet(t *testing.T) {
	if !privately(t) {
		return
	}
	w := newWorld(t)
	n := New()
	t.Run("each kind leaves by its own uplink", func(t *testing.T) { testLeaves(t, w, n) })
	// All else as the daemon has it.
	var checker kernel.EgressChecker
	t.Cleanup(checker.Close)
	led := make(map[bool]int) // answers about the second uplink
	n.LeavesByDevice = func(p Binding, target netip.Addr) bool {
		leads := checker.LeavesBy(p.Device, p.Mark, p.Source, target)
		if p.Device == device[1] {
			led[leads]++
		}
		return leads
	}
	t.Run("echo requests that are led by their uplink leave by it", func(t *testing.T) { testLeaves(t, w, n) })
	if diff := cmp.Diff(map[bool]int{true: len(targets)}, led); diff != "" {
		t.Errorf("led by the second uplink (-want +got):\n%s", diff)
	}
	clear(led)
	t.Run("echo requests that are led elsewhere leave by their uplink", func(t *testing.T) { w.foreign(t, func() { testLeaves(t, w, n) }) })
	if diff := cmp.Diff(map[bool]int{false: len(targets)}, led); diff != "" {
		t.Errorf("led by the second uplink in spite of the foreign rule (-want +got):\n%s", diff)
	}
	t.Run("the shared socket signals each answer", func(t *testing.T) { testSignals(t, n) })
	t.Run("calm probes share a socket", func(t *testing.T) { testCalm(t, n) })
	t.Run("answers are judged", func(t *testing.T) { testAnswers(t, n) })
	t.Run("silence is a timeout", func(t *testing.T) { testSilence(t, n) })
	t.Run("reports of unreachability are told apart", func(t *testing.T) { testUnreachable(t, n) })
	t.Run("cancellation is no verdict", func(t *testing.T) { testCancel(t, n) })
	t.Run("local faults are told apart", func(t *testing.T) { testLocal(t, n) })
	t.Run("a prohibit route ends", func(t *testing.T) { testProhibit(t, w, n) })
	t.Run("a path without its route is gone", func(t *testing.T) { testNoRoute(t, w, n) })
	t.Run("probes leave nothing behind", func(t *testing.T) {
		check(t, n.Close())
		before := goleak.IgnoreCurrent()
		n := New()
		for _, target := range []string{"203.0.113.1", "203.0.113.1", "203.0.113.99", "tcp://203.0.113.1:7", "http://203.0.113.1/endless", "dns://203.0.113.1?name=forged.example"} {
			_, _ = ask(t, n, path4(1), target, 50*time.Millisecond)
		}
		check(t, n.Close())
		// The far ends of the probes close on goroutines of this process too.
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
	})
}

func testLeaves(t *testing.T, w *world, n *Net) {
	for _, kind := range []struct{ form, seen string }{
		{"%s", "echo"},
		{"tcp://%s:7", "tcp from %s"},
		{"http://%s/generate_204", "http from %s"},
		{"https://%s/generate_204", "https from %s"},
		{"dns://%s?name=example.net", "dns from %s"},
		{"dns://%s?name=.", "dns from %s"},
	} {
		for family, target := range targets {
			host := target.Addr().String()
			if family == 1 && kind.form != "%s" {
				host = "[" + host + "]"
			}
			text := fmt.Sprintf(kind.form, host)
			for i := range device {
				p := path4(i)
				if family == 1 {
					p = path6(i)
				}
				t.Run(fmt.Sprintf("%s by %s", text, p.Device), func(t *testing.T) {
					rtt, err := ask(t, n, p, text, window)
					if err != nil {
						t.Fatal(err)
					}
					if rtt <= 0 || rtt > window {
						t.Errorf("rtt = %v", rtt)
					}
					seen := kind.seen
					if seen != "echo" {
						seen = fmt.Sprintf(seen, p.Source)
					}
					want := [2]map[string]int{{}, {}}
					want[i][seen] = 1
					// The far end of a connection counts when it accepts,
					// maybe after we have seen the connection.
					got := eventually(t, w, want)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("providers saw (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// eventually collects what the providers see until it is as many as wanted.
func eventually(t *testing.T, w *world, want [2]map[string]int) [2]map[string]int {
	t.Helper()
	got := [2]map[string]int{{}, {}}
	for deadline := time.Now().Add(window); ; {
		for i, p := range w.providers {
			for k, v := range p.take(t) {
				got[i][k] += v
			}
		}
		if cmp.Equal(want, got) || len(got[0])+len(got[1]) > 0 || time.Now().After(deadline) {
			return got
		}
	}
}

// testSignals has the shared socket signal the answer to a pinger, and no other.
func testSignals(t *testing.T, n *Net) {
	for family, target := range targets {
		s := must(openEcho(target.Addr().Is4()))(t)
		id := uint16(n.nextEcho.Load() + 1)
		received, cancel := s.expect(id, nil)
		other, forget := s.expect(id+1, nil)
		if _, err := ask(t, n, []Binding{path4(0), path6(0)}[family], target.Addr().String(), window); err != nil {
			t.Fatal(err)
		}
		select {
		case <-received:
		case <-time.After(window):
			t.Errorf("nothing was signalled for the answer of %v", target.Addr())
		}
		select {
		case <-other:
			t.Error("it signalled another id")
		default:
		}
		cancel()
		forget()
		if len(s.expected) > 0 {
			t.Errorf("%d are still waited for", len(s.expected))
		}
		check(t, s.close())
	}
}

// testCalm follows which socket is asked by: the shared one, as long as nothing is unanswered.
func testCalm(t *testing.T, n *Net) {
	for family, target := range targets {
		binding := []Binding{path4(1), path6(1)}[family]
		never := must(ParseTarget(silent[family].Addr().String()))(t)
		answered := func() {
			t.Helper()
			if _, err := ask(t, n, binding, target.Addr().String(), window); err != nil {
				t.Fatal(err)
			}
		}
		answered()
		ctx, cancel := context.WithCancel(context.Background())
		var asking sync.WaitGroup
		for i, wantShared := range []bool{true, false, false} { // whoever has asked before is unanswered
			id := uint16(n.nextEcho.Load() + 1)
			asking.Go(func() { _, _ = n.Probe(ctx, binding, never) })
			if shared := waitsByShared(t, n, target.Addr(), id); shared != wantShared {
				t.Errorf("%v: probe %d: by the shared socket: %v", target.Addr(), i, shared)
			}
		}
		cancel()
		asking.Wait()
		answered()
		// A socket that sends nothing is no reason to miss anything.
		check(t, n.echoes.forTarget(target.Addr()).conn.Close())
		answered()
		answered()
		_ = n.echoes.close() // it was closed above
		answered()           // another one was opened
	}
}

// waitsByShared reports whether an echo request that is waited for was sent by the shared socket.
func waitsByShared(t *testing.T, n *Net, target netip.Addr, id uint16) bool {
	t.Helper()
	s := n.echoes.forTarget(target)
	for deadline := time.Now().Add(window); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		e, ok := s.expected[id]
		s.mu.Unlock()
		if ok {
			return e.payload != nil
		}
	}
	t.Fatal("nobody asks")
	return false
}

func TestAReplyBringsItsPayloadBack(t *testing.T) {
	for _, is4 := range []bool{true, false} {
		const id = 0x1234
		payload, request := []byte("what was sent"), icmpecho.Request{IPv6: !is4, ID: id}
		reply := func(r icmpecho.Request, payload string, typ byte) []byte {
			message := must(r.Carrying([]byte(payload)))(t)
			message[0] = typ
			if is4 {
				message = append([]byte{0x45, 19: 0}, message...)
			}
			return message
		}
		typ, errorType := byte(echoReply4), byte(3)
		if !is4 {
			typ, errorType = echoReply6, 1
		}
		s := &echoSocket{is4: is4, expected: make(map[uint16]*expectedReply)}
		received, cancel := s.expect(id, payload)
		for name, forged := range map[string][]byte{
			"another payload":  reply(request, "what was sens", typ),
			"no payload":       reply(request, "", typ),
			"more than that":   reply(request, "what was sent, and more", typ),
			"another id":       reply(icmpecho.Request{IPv6: !is4, ID: id + 1}, string(payload), typ),
			"another sequence": reply(icmpecho.Request{IPv6: !is4, ID: id, Seq: 1}, string(payload), typ),
			"no reply":         reply(request, string(payload), errorType),
			"cut short":        reply(request, string(payload), typ)[:7],
			"nothing":          nil,
		} {
			s.signal(forged, time.Now())
			if len(received) > 0 {
				t.Fatalf("IPv4 %v: %s was taken for the reply", is4, name)
			}
		}
		now := time.Now()
		s.signal(reply(request, string(payload), typ), now)
		s.signal(reply(request, string(payload), typ), now.Add(time.Second)) // twice is once
		if at := <-received; at != now {
			t.Errorf("IPv4 %v: received at %v, want %v", is4, at, now)
		}
		cancel()
	}
}

func testAnswers(t *testing.T, n *Net) {
	for _, test := range []struct {
		name, target string
		want         error
	}{
		{"a closed TCP port proves the path", "tcp://203.0.113.1:9", nil},
		{"a closed TCP port proves the path with IPv6", "tcp://[2001:db8:ff::1]:9", nil},
		{"any page is an answer", "http://203.0.113.1/", nil},
		{"a redirect is an answer and not followed", "http://203.0.113.1/redirect", nil},
		{"an interim answer is not the answer", "http://203.0.113.1/early", nil},
		{"an endless body is not read", "http://203.0.113.1/endless", nil},
		{"an error status is a wrong answer", "http://203.0.113.1/error", ErrAnswer},
		{"a page instead of 204 is a portal", "http://203.0.113.1/portal/generate_204", ErrPortal},
		{"a portal is a wrong answer", "http://203.0.113.1/portal/generate_204", ErrAnswer},
		{"a self-signed certificate does no harm", "https://203.0.113.1/", nil},
		{"no TLS where some was expected", "https://203.0.113.1:80/", ErrAnswer},
		{"a connection closed without a word", "http://203.0.113.1:7/", ErrAnswer},
		{"a refused connection is no page", "http://203.0.113.1:9/", ErrUnreachable},
		{"an unknown name is an answer", "dns://203.0.113.1?name=none.example", nil},
		{"forged answers are passed over", "dns://203.0.113.1?name=late.example", nil},
		{"SERVFAIL is a wrong answer", "dns://203.0.113.1?name=failing.example", ErrAnswer},
		{"REFUSED without a question is a wrong answer", "dns://203.0.113.1?name=refused.example", ErrAnswer},
		{"no address was to be had", "dns://203.0.113.1?name=none.example&answer=none", nil},
		{"an address that was not to be had is a portal's", "dns://203.0.113.1?name=invented.example&answer=none", ErrPortal},
		{"a closed UDP port is a refusal", "dns://203.0.113.1:9?name=.", ErrUnreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := path4(1)
			if must(ParseTarget(test.target))(t).Addr().Is6() {
				p = path6(1)
			}
			if _, err := ask(t, n, p, test.target, window); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func testSilence(t *testing.T, n *Net) {
	for _, target := range []string{
		"203.0.113.99", "tcp://203.0.113.99:443", "http://203.0.113.99/", "https://203.0.113.99/", "dns://203.0.113.99?name=.",
		"http://203.0.113.1/hang", "dns://203.0.113.1?name=forged.example",
	} {
		t.Run(target, func(t *testing.T) {
			began := time.Now()
			_, err := ask(t, n, path4(1), target, 50*time.Millisecond)
			if !errors.Is(err, ErrTimeout) || errors.Is(err, ErrLocal) {
				t.Errorf("got %v, want %v", err, ErrTimeout)
			}
			if took := time.Since(began); took < 50*time.Millisecond {
				t.Errorf("gave up after %v", took)
			}
		})
	}
}

// testUnreachable spreads its probes over both uplinks: the second report of an
// unreachable host within a second is withheld (ip_error in the kernel).
func testUnreachable(t *testing.T, n *Net) {
	for target, p := range map[string]Binding{
		"tcp://203.0.113.98:443":         path4(1),
		"dns://203.0.113.98?name=.":      path4(0),
		"tcp://[2001:db8:ff::98]:443":    path6(1),
		"dns://[2001:db8:ff::98]?name=.": path6(0),
		"http://[2001:db8:ff::98]:443":   path6(0),
	} {
		t.Run(target, func(t *testing.T) {
			_, err := ask(t, n, p, target, window)
			if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrLocal) {
				t.Errorf("got %v, want %v", err, ErrUnreachable)
			}
		})
	}
}

func testCancel(t *testing.T, n *Net) {
	for _, target := range []string{"203.0.113.99", "tcp://203.0.113.99:443", "http://203.0.113.1/hang", "https://203.0.113.99/", "dns://203.0.113.99?name=."} {
		t.Run(target, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(10*time.Millisecond, cancel)
			_, err := n.Probe(ctx, path4(1), must(ParseTarget(target))(t))
			if !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
		})
	}
}

func testLocal(t *testing.T, n *Net) {
	kinds := []string{"203.0.113.1", "tcp://203.0.113.1:7", "http://203.0.113.1/", "dns://203.0.113.1?name=."}
	for _, test := range []struct {
		name   string
		path   Binding
		cause  error
		noPath bool
	}{
		{"a source that is not ours", Binding{Device: device[1], Mark: mark(1), Source: netip.MustParseAddr("198.51.100.200")}, syscall.EADDRNOTAVAIL, false},
		{"a device that does not exist", Binding{Device: "up9", Mark: mark(1), Source: home4[1].Addr()}, syscall.ENODEV, true},
	} {
		for _, target := range kinds {
			t.Run(test.name+" "+target, func(t *testing.T) {
				_, err := ask(t, n, test.path, target, window)
				if !errors.Is(err, ErrLocal) || !errors.Is(err, test.cause) || errors.Is(err, ErrNoPath) != test.noPath {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// testProhibit passes over the look at the route to meet the endless loop of
// pro-bing itself.
func testProhibit(t *testing.T, w *world, n *Net) {
	prohibit := &netlink.Route{Dst: ipnet(netip.MustParsePrefix("203.0.113.97/32")), Type: unix.RTN_PROHIBIT}
	check(t, w.handle.RouteAdd(prohibit))
	ctx, cancel := context.WithTimeout(context.Background(), window)
	defer cancel()
	_, err := ping(ctx, n, nil, 0, Binding{}, must(ParseTarget("203.0.113.97"))(t))
	if !errors.Is(err, ErrNoPath) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v", err)
	}
	check(t, n.Close())
}

// testNoRoute comes last: it takes the second uplink apart.
func testNoRoute(t *testing.T, w *world, n *Net) {
	asks := func(t *testing.T) {
		for _, target := range []string{
			"203.0.113.1", "tcp://203.0.113.1:7", "http://203.0.113.1/", "dns://203.0.113.1?name=.",
			"2001:db8:ff::1", "tcp://[2001:db8:ff::1]:7", "dns://[2001:db8:ff::1]?name=.",
		} {
			p := path4(1)
			if must(ParseTarget(target))(t).Addr().Is6() {
				p = path6(1)
			}
			if _, err := ask(t, n, p, target, window); !errors.Is(err, ErrNoPath) || !errors.Is(err, ErrLocal) || errors.Is(err, ErrUnreachable) {
				t.Errorf("%s: got %v", target, err)
			}
		}
	}
	t.Run("only the unreachable default is left", func(t *testing.T) {
		w.unroute(t, 1, tableBase+1)
		asks(t)
		w.route(t, 1, tableBase+1)
	})
	t.Run("the device is down", func(t *testing.T) {
		check(t, w.handle.LinkSetDown(must(w.handle.LinkByName(device[1]))(t)))
		for _, target := range []string{"203.0.113.1", "tcp://203.0.113.1:7", "tcp://[2001:db8:ff::1]:7"} {
			p := path4(1)
			if must(ParseTarget(target))(t).Addr().Is6() {
				p = path6(1)
			}
			if _, err := ask(t, n, p, target, window); !errors.Is(err, ErrLocal) {
				t.Errorf("%s: got %v", target, err)
			}
		}
	})
}
