package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func echoTarget(addr string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), EchoPort)
}

// run runs something beside a test's own doings and waits for its end.
func run(t *testing.T, service func(context.Context) error, body func(context.Context) error) {
	t.Helper()
	ctx := within(t)
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- service(serving) }()
	err := body(ctx)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Error(err)
	}
}

func TestAFlowProbeMeasuresAStall(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"udp", "tcp"} {
		for _, target := range []string{Echo4, Echo6} {
			t.Run(network+" "+target, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, Options{})
				p := &FlowProbe{From: w.Host(Router), Network: network, Target: echoTarget(target), Timeout: 300 * time.Millisecond}
				var broken, healed time.Time
				run(t, p.Run, func(ctx context.Context) error {
					if _, err := p.WaitFor(ctx, Fiber, time.Time{}); err != nil {
						return err
					}
					if err := w.Break(Blackhole, Fiber); err != nil {
						return err
					}
					broken = w.Status()[0].Breaks[0].Since
					err := Until(ctx, "a stall", func() error {
						if p.Stall(broken) < 200*time.Millisecond {
							return errors.New("none yet")
						}
						return nil
					})
					if err := errors.Join(err, w.Heal()); err != nil {
						return err
					}
					healed = time.Now()
					_, err = p.WaitFor(ctx, Fiber, healed)
					return err
				})
				if got := p.Stall(broken); got < 200*time.Millisecond || got > time.Since(broken) {
					t.Errorf("the stall took %s", got)
				}
				if last, ok := p.Last(healed); !ok || last.Err != nil {
					t.Errorf("the last flow: %+v, %v", last, ok)
				}
			})
		}
	}
}

func TestStallIsTheLongestTimeWithoutSuccess(t *testing.T) {
	t.Parallel()
	base := time.Unix(1000, 0)
	at := func(start, took int, err error) Flow {
		return Flow{Start: base.Add(time.Duration(start) * time.Millisecond), Took: time.Duration(took) * time.Millisecond, Err: err}
	}
	lost := context.DeadlineExceeded
	for name, c := range map[string]struct {
		flows []Flow
		want  int
	}{
		"nothing known":                    {nil, 0},
		"all well":                         {[]Flow{at(10, 1, nil), at(20, 1, nil)}, 11},
		"a flow from before is no proof":   {[]Flow{at(-5, 10, nil), at(300, 1, nil)}, 301},
		"a slow success counts at its end": {[]Flow{at(10, 500, nil)}, 510},
		"no end yet":                       {[]Flow{at(10, 1, nil), at(20, 1000, lost), at(400, 1000, lost)}, 389},
		"the second gap is longer":         {[]Flow{at(100, 1, nil), at(350, 1, nil), at(360, 1, nil)}, 250},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := stall(c.flows, base), time.Duration(c.want)*time.Millisecond; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestAStreamCountsLossAndSeesItsFlowMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	s := &Stream{From: w.Host(Router), Target: echoTarget(Echo4), Rate: 200, Grace: 200 * time.Millisecond}
	answered := func(n int) func() error {
		return func() error {
			if st := s.Stats(); st.Answered < n {
				return errors.New(st.String())
			}
			return nil
		}
	}
	run(t, s.Run, func(ctx context.Context) error {
		err := errors.Join(Until(ctx, "answers", answered(20)), w.Break(Blackhole, Fiber))
		return errors.Join(err, Until(ctx, "loss", func() error {
			if st := s.Stats(); st.Lost < 10 {
				return errors.New(st.String())
			}
			return nil
		}), w.Heal(), Until(ctx, "further answers", answered(s.Stats().Answered+20)))
	})
	st := s.Stats()
	if st.Sent != st.Answered+st.Lost || st.Lost < 10 || st.Duplicates != 0 || st.LongestGap < 40*time.Millisecond {
		t.Errorf("%s", st)
	}
	if diff := cmp.Diff([]string{Fiber}, s.Over()); diff != "" {
		t.Error(diff)
	}
	// A source that changes under way is a move.
	s.back = append(s.back, false)
	s.answer(uint64(len(s.back)-1), netip.MustParseAddrPort("203.0.113.2:4000"), time.Now())
	if diff := cmp.Diff([]string{Fiber, LTE}, s.Over()); diff != "" {
		t.Error(diff)
	}
}

func TestAnUndisturbedStreamLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	s := &Stream{From: w.Host(Router), Target: echoTarget(Echo6), Rate: 500}
	run(t, s.Run, func(ctx context.Context) error {
		return Until(ctx, "300 packets", func() error {
			if st := s.Stats(); st.Sent < 300 {
				return errors.New(st.String())
			}
			return nil
		})
	})
	if st := s.Stats(); st.Answered != st.Sent || st.Lost != 0 {
		t.Errorf("%s", st)
	}
}

func TestTheInternetServesItsTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	ctx, router := within(t), w.Host(Router)
	for _, target := range []string{"192.0.2.2:443", "[2001:db8:ffff::2]:443", "192.0.2.1:7", "[2001:db8:ffff::100]:7"} {
		conn, err := router.Dial(ctx, "tcp", "", target)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = conn.Close()
	}
	if _, err := router.Dial(ctx, "tcp", "", "192.0.2.2:444"); err == nil {
		t.Error("a closed port accepts")
	}
	for _, target := range []string{"192.0.2.3:80", "[2001:db8:ffff::3]:80"} {
		conn, err := router.Dial(ctx, "tcp", "", target)
		if err != nil {
			t.Error(err)
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target+"/generate_204", nil)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{DialContext: dialed(conn), DisableKeepAlives: true}}
		res, err := client.Do(req)
		if err != nil || res.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %v, %v", target, res, err)
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, target := range []string{"192.0.2.53:53", "[2001:db8:ffff::53]:53"} {
			conn, err := router.Dial(ctx, network, "", target)
			if err != nil {
				t.Error(err)
				continue
			}
			c := &dns.Client{Net: network}
			answer, _, err := c.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion("example.net.", dns.TypeA), &dns.Conn{Conn: conn})
			if err != nil || len(answer.Answer) != 1 || answer.Answer[0].(*dns.A).A.String() != Echo4 {
				t.Errorf("%s %s: %v, %v", network, target, answer, err)
			}
			_ = conn.Close()
		}
	}
}

func TestAUDPServerAnswersFromTheAddressThatWasAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	router := w.Host(Router)
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if err := router.ServeUDPEcho(t.Context(), netip.AddrPortFrom(any, EchoPort)); err != nil {
			t.Fatal(err)
		}
	}
	ctx := within(t)
	// A connected socket takes answers from the asked address only. From the LAN every address of the router is local.
	for _, asked := range []string{LANRouter4, "198.51.100.2", "203.0.113.2", LANRouter6, "2001:db8:a::2", "2001:db8:b::2"} {
		conn, err := w.Host(LAN).Dial(ctx, "udp", "", echoTarget(asked).String())
		if err != nil {
			t.Error(err)
			continue
		}
		if seen, err := AskUDP(ctx, conn, []byte("who are you")); err != nil || (seen.Addr().String() != LANHost4 && seen.Addr().String() != LANHost6) {
			t.Errorf("asking %s: seen as %s, %v", asked, seen, err)
		}
		_ = conn.Close()
	}
}

// dialed hands an http.Transport a connection that exists.
func dialed(conn net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return conn, nil }
}
