package ndisc

import (
	"encoding/hex"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// discovery is a Discoverer on a wire.
type discovery struct {
	*Discoverer
	*wire
	seen views
}

func discover(t *testing.T, last State) *discovery {
	t.Helper()
	d := &discovery{wire: &wire{}}
	d.Discoverer = NewDiscoverer(DiscovererConfig{Device: "wan1", Secret: secret, Last: last, Log: quiet(), OnChange: d.seen.deliver, Open: d.open})
	start(t, d.Discoverer)
	return d
}

func answering(s says) func(*wire) {
	return func(w *wire) {
		w.answer = func() *Packet { p := s.packet(gateway); return &p }
	}
}

func TestSolicitationsBackOffToAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		began := time.Now()
		d.SetLink(2, true)
		sleep(24 * time.Hour)
		sent := d.sent()
		if first := sent[0].at.Sub(began); first > maxSolicitDelay {
			t.Errorf("the first came after %v", first)
		}
		if sent[0].to != allRouters || hex.EncodeToString(sent[0].message) != "8500000000000000"+"0101020000000001" {
			t.Errorf("sent % x to %v", sent[0].message, sent[0].to)
		}
		spans := gaps(sent)
		span := time.Duration(0)
		for i, got := range spans {
			low, high := 3600*time.Millisecond, 4400*time.Millisecond
			if i > 0 {
				low, high = min(span*19/10, 54*time.Minute), span*21/10
				if high > maxSolicit {
					high = 66 * time.Minute
				}
			}
			if got < low || got > high {
				t.Errorf("span %d is %v, want %v to %v (RFC 7559)", i, got, low, high)
			}
			span = got
		}
		if n := len(spans); n < 30 || n > 40 {
			t.Errorf("%d solicitations in a day of silence", n)
		}
	})
}

func TestAnAdvertisementEndsTheAskingUntilItsLifetimeRunsLow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(answering(plain(1800 * time.Second)))
		d.SetLink(2, true)
		sleep(1200 * time.Second)
		if n := len(d.sent()); n != 1 {
			t.Errorf("%d solicitations while all is well", n)
		}
		sleep(300 * time.Second)
		if n := len(d.sent()); n != 1 {
			t.Errorf("%d solicitations when three quarters of the lifetime are over", n)
		}
		sleep(24 * time.Hour)
		for _, gap := range gaps(d.sent()) {
			if gap < 1260*time.Second || gap > 1440*time.Second {
				t.Errorf("asked again after %v", gap)
			}
		}
		if v := d.seen.now(); len(v.Routers) != 1 || len(v.Addresses) != 1 {
			t.Errorf("a router that never speaks unasked was lost: %+v", v)
		}

		d.script(func(w *wire) { w.answer = nil })
		sleep(1800 * time.Second)
		if n := len(d.sent()); n < 5 {
			t.Errorf("%d solicitations of a router that has gone silent", n)
		}
		if v := d.seen.now(); len(v.Routers) != 0 {
			t.Errorf("its lifetime is over: %+v", v.Routers)
		}
	})
}

func TestALifetimeOf0DoesNotEndTheAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(answering(plain(0)))
		d.SetLink(2, true)
		sleep(time.Minute)
		if n := len(d.sent()); n < 4 {
			t.Errorf("%d solicitations: RFC 7559 section 2.1 goes on until a router offers itself", n)
		}
	})
}

func TestARouterThatComesAndGoesMakesNoFloodOfSolicitations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.SetLink(2, true)
		sleep(time.Second)
		for i := range 600 { // a minute
			d.deliver(plain(time.Duration(i%2) * time.Hour).packet(gateway))
			sleep(100 * time.Millisecond)
		}
		if n := len(d.sent()); n > 60/4+2 {
			t.Errorf("%d solicitations in a minute", n)
		}
	})
}

func TestALifetimeOfASecondIsNotAskedForEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(answering(says{lifetime: time.Hour, options: []ndp.Option{rio("2001:db8:f::/48", ndp.Medium, time.Second)}}))
		d.SetLink(2, true)
		sleep(10 * time.Minute)
		if n := len(d.sent()); n > 600/10+1 {
			t.Errorf("%d solicitations in ten minutes", n)
		}
	})
}

func TestWhatCouldNotBeSentDoesNotBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(func(w *wire) { w.refuse = syscall.ENETDOWN })
		d.SetLink(2, true)
		sleep(time.Hour)
		d.script(func(w *wire) { w.refuse = nil })
		sleep(firstSolicit)
		if n := len(d.sent()); n != 1 && n != 2 {
			t.Errorf("%d solicitations after an hour without a network", n)
		}
	})
}

func TestARouterThatGoesIsAskedForAtOnceHoweverLongTheSilenceBefore(t *testing.T) {
	for name, then := range map[string]says{"with a final advertisement": plain(0), "by its lifetime": plain(2 * time.Second)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := discover(t, State{})
				d.SetLink(2, true)
				sleep(24 * time.Hour)
				d.deliver(plain(time.Hour).packet(gateway))
				d.sent()
				d.deliver(then.packet(gateway))
				sleep(then.lifetime + firstSolicit)
				if n := len(d.sent()); n == 0 {
					t.Error("not asked for")
				}
			})
		})
	}
}

func TestALinkThatBlipsKeepsAllAndAsksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(answering(plain(1800 * time.Second)))
		d.SetLink(2, true)
		sleep(time.Minute)
		d.sent()
		d.SetLink(2, false)
		sleep(time.Minute)
		if n := len(d.sent()); n != 0 {
			t.Errorf("%d solicitations on a link that is down", n)
		}
		if v := d.seen.now(); len(v.Routers) != 1 || len(v.Addresses) != 1 {
			t.Errorf("a blip lost something: %+v", v)
		}
		back := time.Now()
		d.SetLink(2, true)
		sleep(time.Second)
		if sent := d.sent(); len(sent) != 1 || !sent[0].at.Equal(back) {
			t.Errorf("sent %v, want one at %v", sent, back)
		}
		d.SetLink(3, true) // made anew
		sleep(time.Second)
		if n := len(d.sent()); n != 1 || d.openings.Load() != 3 {
			t.Errorf("made anew: %d solicitations, %d openings", n, d.openings.Load())
		}
		d.SetLink(3, false) // and over before anybody has looked
		d.SetLink(3, true)
		sleep(time.Second)
		if n := len(d.sent()); n != 1 || d.openings.Load() != 4 {
			t.Errorf("a short blip: %d solicitations, %d openings", n, d.openings.Load())
		}
		d.SetLink(3, false)
		sleep(2 * time.Hour)
		if v := d.seen.now(); len(v.Routers) != 0 || len(v.Addresses) != 0 {
			t.Errorf("lifetimes end while the link is down, too: %+v", v)
		}
	})
}

func TestWhatWasLearnedBeforeARestartHoldsUntilARouterIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine("wan1", secret, State{}, middle)
		_ = m.receive(plain(1800*time.Second).packet(gateway), time.Now())
		d := discover(t, m.state.view().State)
		if v := d.seen.now(); len(v.Routers) != 1 || len(v.Addresses) != 1 || d.seen.count() != 1 {
			t.Errorf("told at the start: %+v", v)
		}
		d.SetLink(2, true)
		sleep(10 * time.Second)
		if n := len(d.sent()); n < 2 {
			t.Errorf("%d solicitations", n)
		}
		d.deliver(says{lifetime: 600 * time.Second}.packet(gateway))
		if v := d.seen.now(); !v.Routers[0].Expires.Equal(time.Now().Add(600 * time.Second)) {
			t.Errorf("%+v", v.Routers)
		}
	})
}

func TestNothingEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(func(w *wire) { w.missing = linksession.ErrNotReady })
		d.SetLink(2, true)
		sleep(time.Second)
		d.script(func(w *wire) { w.missing = nil })
		sleep(400*time.Millisecond + maxSolicitDelay)
		if n := len(d.sent()); n != 1 {
			t.Fatalf("%d solicitations once the address is there", n)
		}
		d.deliver(plain(time.Hour).packet(gateway))

		d.current.broken <- errBroken
		synctest.Wait()
		sleep(time.Second)
		if n := len(d.sent()); n != 1 || d.openings.Load() != 2 {
			t.Errorf("after a failed read: %d solicitations, %d openings", n, d.openings.Load())
		}
		for _, passing := range []error{syscall.ENOBUFS, syscall.ENETDOWN, syscall.EPERM} {
			d.script(func(w *wire) { w.refuse = passing })
			d.SetLink(2, false)
			synctest.Wait()
			d.SetLink(2, true)
			sleep(time.Minute)
			d.script(func(w *wire) { w.refuse = nil })
			sleep(time.Minute)
			if n := len(d.sent()); n == 0 {
				t.Errorf("no solicitation after %v was over", passing)
			}
			d.deliver(plain(time.Hour).packet(gateway))
		}
		openings := d.openings.Load()
		d.script(func(w *wire) { w.refuse = syscall.ENODEV })
		d.SetLink(2, false)
		synctest.Wait()
		d.SetLink(2, true)
		sleep(10 * time.Second)
		d.script(func(w *wire) { w.refuse = nil })
		sleep(2 * time.Second)
		if n := len(d.sent()); n == 0 || d.openings.Load() < openings+3 {
			t.Errorf("a device that went: %d solicitations, %d openings more", n, d.openings.Load()-openings)
		}
		if v := d.seen.now(); len(v.Routers) != 1 {
			t.Errorf("the router was lost: %+v", v)
		}
	})
}

func TestWhatOthersTellReachesTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.SetLink(2, true)
		sleep(time.Second)
		d.deliver(plain(time.Hour).packet(gateway))
		d.deliver(says{lifetime: time.Hour, preference: ndp.High}.packet(gateway2))
		first := d.seen.now().Addresses[0].Address.Addr()
		d.AddressFailed(first)
		d.silent(gateway2)
		d.SetPath(PathSuspected)
		sleep(4 * time.Second)
		v := d.seen.now()
		if v.Addresses[0].Address.Addr() == first || v.Addresses[0].Conflicts != 1 {
			t.Errorf("addresses %+v", v.Addresses)
		}
		if v.Routers[0].Addr != gateway || !v.Routers[1].Unreachable {
			t.Errorf("routers %+v", v.Routers)
		}
		n := d.seen.count()
		d.deliver(Packet{Data: []byte{1, 2, 3}, From: gateway, HopLimit: 255})
		forged := says{}.packet(gateway)
		forged.HopLimit = 64
		d.deliver(forged)
		d.deliver(says{}.packet(netip.MustParseAddr("2001:db8::1")))
		if d.seen.count() != n {
			t.Errorf("rubbish changed something: %+v", d.seen.now())
		}
	})
}

func TestADeviceThatGetsNoAddressIsLookedAtSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(func(w *wire) { w.missing = linksession.ErrNotReady })
		d.SetLink(2, true)
		sleep(time.Second)
		if d.attempts.Load() < 4 {
			t.Errorf("%d looks in the second that duplicate address detection takes", d.attempts.Load())
		}
		sleep(time.Hour)
		if n := d.attempts.Load(); n > 3600/5+50 {
			t.Errorf("%d looks in an hour", n)
		}
		d.script(func(w *wire) { w.missing = nil })
		sleep(maxWait + maxSolicitDelay)
		if n := len(d.sent()); n == 0 {
			t.Error("no solicitation once it has one")
		}
	})
}
