package ndisc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// advertising is an Advertiser on a wire.
type advertising struct {
	*Advertiser
	*wire
	t          *testing.T
	advertised Advertised

	mu     sync.Mutex
	others [][]Other
}

func advertise(t *testing.T) *advertising {
	t.Helper()
	a := &advertising{wire: &wire{}, t: t}
	a.Advertiser = NewAdvertiser(AdvertiserConfig{Device: "lan0", Log: quiet(), Open: a.open, OnOthers: func(others []Other) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.others = append(a.others, others)
	}})
	start(t, a.Advertiser)
	return a
}

func (a *advertising) update(in Input) {
	a.t.Helper()
	a.set(a.advertised.Update(in, time.Now()))
}

func (a *advertising) set(c Content) {
	a.t.Helper()
	if err := a.SetContent(c); err != nil {
		a.t.Error(err)
	}
	synctest.Wait()
}

// settled is one that has told all of the start, a while ago.
func settled(t *testing.T) *advertising {
	t.Helper()
	a := advertise(t)
	a.SetLink(2, true)
	a.update(both(true, true))
	sleep(100 * time.Second)
	a.sent()
	return a
}

func (a *advertising) otherRouters() [][]Other {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.others
	a.others = nil
	return out
}

// offsets are the times of sendings after a moment; only those to all hosts count.
func offsets(list []sending, since time.Time) []time.Duration {
	var out []time.Duration
	for _, s := range list {
		if s.to == allNodes {
			out = append(out, s.at.Sub(since))
		}
	}
	return out
}

func TestThreeInitialAdvertisementsThenSevenAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := advertise(t)
		a.SetLink(2, true)
		sleep(time.Minute)
		if n := len(a.sent()); n != 0 {
			t.Errorf("%d advertisements without content", n)
		}
		began := time.Now()
		a.update(both(true, true))
		sleep(24 * time.Hour)
		at := offsets(a.sent(), began)
		if at[0] != 0 {
			t.Errorf("the first came after %v", at[0])
		}
		for i := range at[1:] {
			gap, low, high := at[i+1]-at[i], 450*time.Second, 600*time.Second
			if i < 2 {
				low, high = 12*time.Second, 16*time.Second
			}
			if gap < low || gap > high {
				t.Errorf("gap %d is %v", i, gap)
			}
		}
		if n := len(at); n < 24*6 || n > 24*8 {
			t.Errorf("%d advertisements in a day", n)
		}
	})
}

func TestAChangeGoesOutAtOnceAndTwiceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		began := time.Now()
		a.update(both(false, true))
		sleep(10 * time.Second)
		sent := a.sent()
		if at := offsets(sent, began); !slices.Equal(at, []time.Duration{0, 3 * time.Second, 6 * time.Second}) {
			t.Errorf("sent at %v", at)
		}
		for _, s := range sent {
			if got := pios(t, s.message); got[fiber.String()] != leaving || got[lte.String()] != fresh {
				t.Errorf("%v", got)
			}
		}
		sleep(time.Hour)
		for _, s := range a.sent() {
			if got := pios(t, s.message); got[fiber.String()] != leaving {
				t.Errorf("not repeated: %v", got)
			}
		}
	})
}

func TestAChangeJustAfterAnAdvertisementDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := advertise(t)
		a.SetLink(2, true)
		a.update(both(true, true))
		began := time.Now()
		sleep(100 * time.Millisecond)
		a.update(both(false, true))
		sleep(9 * time.Second)
		want := []time.Duration{0, 100 * time.Millisecond, 3100 * time.Millisecond, 6100 * time.Millisecond}
		if at := offsets(a.sent(), began); !slices.Equal(at, want) {
			t.Errorf("sent at %v, want %v", at, want)
		}
	})
}

func TestChangesWithoutEndKeepTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		for i := range 600 { // a minute of ten changes a second
			a.update(both(i%2 == 0, true))
			sleep(100 * time.Millisecond)
		}
		if n := len(a.sent()); n > 60/3+urgentAdvertsInRow+1 {
			t.Errorf("%d advertisements in a minute", n)
		}
		a.update(both(false, true))
		sleep(3 * time.Second)
		if sent := a.sent(); len(sent) == 0 || pios(t, sent[len(sent)-1].message)[fiber.String()] != leaving {
			t.Error("the last change was never told")
		}
	})
}

func TestLongerLifetimesGoOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := advertise(t)
		a.SetLink(2, true)
		lasting := func(d time.Duration) Input {
			in := both(true, true)
			in.Prefixes[0].Preferred, in.Prefixes[0].Valid = time.Now().Add(d-600*time.Second), time.Now().Add(d)
			return in
		}
		a.update(lasting(1200 * time.Second))
		sleep(300 * time.Second)
		at := a.sent()
		for _, gap := range gaps(at[3:]) { // a preferred lifetime of 600 s needs more than one chance
			if gap > 200*time.Second {
				t.Errorf("a gap of %v", gap)
			}
		}
		began := time.Now()
		a.update(lasting(1200 * time.Second)) // renewed
		sleep(20 * time.Second)
		if at := offsets(a.sent(), began); len(at) != 1 || at[0] > minDelay {
			t.Errorf("renewed: sent at %v", at)
		}
		a.update(lasting(1179 * time.Second)) // the same end, by a clock that rounds
		sleep(20 * time.Second)
		if n := len(a.sent()); n != 0 {
			t.Errorf("the same end: %d advertisements", n)
		}
	})
}

func TestTheSameContentChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		for range 100 {
			a.update(both(true, true))
			sleep(time.Second)
		}
		if n := len(a.sent()); n != 0 {
			t.Errorf("%d advertisements", n)
		}
	})
}

func TestASolicitationIsAnsweredWithinHalfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		for range 5 { // one answer for many questions
			a.deliver(solicitation("fe80::9"))
		}
		a.deliver(solicitation("fe80::8"))
		sleep(maxAnswerDelay)
		sent := a.sent()
		slices.SortFunc(sent, func(x, y sending) int { return x.to.Compare(y.to) })
		if len(sent) != 2 || sent[0].to != netip.MustParseAddr("fe80::8") || sent[1].to != netip.MustParseAddr("fe80::9") {
			t.Errorf("%v", sent)
		}
		for _, from := range []string{"::", "2001:db8:a:1::9"} {
			began := time.Now()
			a.deliver(solicitation(from))
			sleep(5 * time.Second)
			if at := offsets(a.sent(), began); len(at) != 1 || at[0] > maxAnswerDelay {
				t.Errorf("from %v: to all at %v", from, at)
			}
		}
		bad := solicitation("fe80::9")
		bad.HopLimit = 64
		a.deliver(bad)
		a.deliver(Packet{From: gateway, HopLimit: 255})
		sleep(time.Second)
		if n := len(a.sent()); n != 0 {
			t.Errorf("%d answers to a forged question", n)
		}
	})
}

func TestAnswersToAllKeepTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		for i := range 600 {
			a.deliver(solicitation("::"))
			a.deliver(solicitation(netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i / 256), 15: byte(i)}).String()))
			sleep(10 * time.Millisecond)
		}
		sleep(10 * time.Second)
		sent := a.sent()
		var toAll []sending
		for _, s := range sent {
			if s.to == allNodes {
				toAll = append(toAll, s)
			}
		}
		for _, gap := range gaps(toAll) {
			if gap < minDelay {
				t.Errorf("a gap of %v", gap)
			}
		}
		if len(toAll) < 2 || len(sent)-len(toAll) > 600 {
			t.Errorf("%d to all, %d to one", len(toAll), len(sent)-len(toAll))
		}
	})
}

func TestOneToAllAnswersEverybodyWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		a.deliver(solicitation("fe80::9"))
		a.update(both(false, true))
		sleep(time.Second)
		if sent := a.sent(); len(sent) != 1 && (len(sent) != 2 || sent[0].to == allNodes) || sent[len(sent)-1].to != allNodes {
			t.Errorf("%v", sent)
		}
	})
}

func TestACrowdIsAnsweredTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		for i := range 200 {
			a.deliver(solicitation(netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i + 1)}).String()))
		}
		sleep(maxAnswerDelay)
		sent := a.sent()
		if n := len(offsets(sent, time.Now())); n != 1 || len(sent)-n > maxSolicitors {
			t.Errorf("%d to all, %d to one", n, len(sent)-n)
		}
	})
}

func TestACarrierBlipWithdrawsNothingAndRepeatsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		a.SetLink(2, false)
		sleep(time.Minute)
		a.update(both(false, true)) // meanwhile
		a.deliver(solicitation("fe80::9"))
		sleep(time.Minute)
		if n := len(a.sent()); n != 0 {
			t.Errorf("%d advertisements on a dead link", n)
		}
		back := time.Now()
		a.SetLink(2, true)
		sleep(time.Minute)
		sent := a.sent()
		if at := offsets(sent, back); len(at) != 3 || at[0] != 0 || at[2] > 2*initialMax {
			t.Errorf("sent at %v", at)
		}
		if got := pios(t, sent[0].message); got[fiber.String()] != leaving || got[lte.String()] != fresh {
			t.Errorf("%v", got)
		}
	})
}

// A bridge has the address of one of its ports, and gets another when that leaves. Whoever hears the former one after that
// sends to nobody.
func TestAdvertisementsCarryThePresentHardwareAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		present := net.HardwareAddr{2, 0, 0, 0, 0, 0x22}
		a.script(func(w *wire) { w.replaced = present })
		a.deliver(solicitation("fe80::9"))
		sleep(maxAnswerDelay)
		answer := a.sent()
		if len(answer) != 1 || !bytes.Contains(answer[0].message, present) || bytes.Contains(answer[0].message, hardware) {
			t.Errorf("an answer after the change: %+v", answer)
		}
		sleep(10 * time.Second)
		advertised := time.Now()
		a.SetHardware([6]byte(present))
		sleep(time.Minute)
		sent := a.sent()
		if at := offsets(sent, advertised); len(at) == 0 || at[0] != 0 {
			t.Errorf("the change is told to all at %v", at)
		}
		for _, s := range sent {
			if !bytes.Contains(s.message, present) || bytes.Contains(s.message, hardware) {
				t.Errorf("advertised: %x", s.message)
			}
		}
	})
}

func TestTheEndOfRunSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a := NewAdvertiser(AdvertiserConfig{Device: "lan0", Log: quiet(), Open: w.open})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		a.SetLink(2, true)
		var l Advertised
		if err := a.SetContent(l.Update(both(true, true), time.Now())); err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
		n := len(w.sent())
		cancel()
		if err := <-done; err != nil || n != 1 || len(w.sent()) != 0 {
			t.Errorf("%v, %d before", err, n)
		}
	})
}

func TestWithdrawSendsThreeFinalAdvertisements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		began := time.Now()
		if err := a.Withdraw(t.Context(), a.advertised.Content()); err != nil {
			t.Error(err)
		}
		sleep(2 * time.Hour)
		sent := a.sent()
		if at := offsets(sent, began); !slices.Equal(at, []time.Duration{0, 3 * time.Second, 6 * time.Second}) {
			t.Errorf("sent at %v", at)
		}
		for _, s := range sent {
			heard, err := parseAdvert(Packet{Data: s.message, From: ourAddr, HopLimit: 255})
			if err != nil || heard.lifetime != 0 || len(heard.prefixes) != 3 || len(heard.routes) != 3 {
				t.Errorf("%+v, %v", heard, err)
			}
			for _, p := range heard.prefixes {
				if p.valid != 0 || p.preferred != 0 {
					t.Errorf("%+v", p)
				}
			}
			for _, r := range heard.routes {
				if r.lifetime != 0 {
					t.Errorf("%+v", r)
				}
			}
		}
		a.deliver(solicitation("fe80::9"))
		sleep(time.Second)
		if n := len(a.sent()); n != 0 {
			t.Errorf("%d advertisements after the final one", n)
		}
		a.update(both(true, true))
		if sent := a.sent(); len(sent) != 1 || pios(t, sent[0].message)[fiber.String()] != fresh {
			t.Error("content after a withdrawal is not advertised")
		}
		a.deliver(solicitation("fe80::9"))
		sleep(time.Second)
		if n := len(a.sent()); n != 1 {
			t.Errorf("%d answers after the return", n)
		}
	})
}

func TestWithdrawIsEndedByWhatComesBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := settled(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Withdraw(ctx, a.advertised.Content()); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		replaced := make(chan error)
		go func() { replaced <- a.Withdraw(t.Context(), a.advertised.Content()) }()
		sleep(time.Second)
		a.update(both(true, true))
		if err := <-replaced; !errors.Is(err, errReplaced) {
			t.Error(err)
		}
		if err := a.Withdraw(t.Context(), Content{MTU: 5}); err == nil {
			t.Error("nonsense is withdrawn")
		}
	})
}

func TestNothingEndsAdvertising(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := advertise(t)
		a.script(func(w *wire) { w.missing = linksession.ErrNotReady })
		a.SetLink(2, true)
		a.update(both(true, true))
		sleep(time.Second)
		a.script(func(w *wire) { w.missing = nil })
		sleep(400 * time.Millisecond)
		if n := len(a.sent()); n != 1 {
			t.Fatalf("%d advertisements once the address is there", n)
		}
		for _, failure := range []error{syscall.ENOBUFS, syscall.ENETDOWN, syscall.EPERM, syscall.ENODEV, syscall.EADDRNOTAVAIL} {
			sleep(time.Minute)
			a.sent()
			a.script(func(w *wire) { w.refuse = failure })
			a.update(both(false, true))
			sleep(10 * time.Second)
			a.script(func(w *wire) { w.refuse = nil })
			sleep(10 * time.Second)
			if sent := a.sent(); len(sent) < 2 || pios(t, sent[0].message)[fiber.String()] != leaving {
				t.Errorf("after %v: %d advertisements of the change", failure, len(sent))
			}
			a.update(both(true, true))
		}
		sleep(time.Minute)
		a.sent()
		a.current.broken <- errBroken
		sleep(time.Second)
		if n := len(a.sent()); n != 1 {
			t.Errorf("after a failed read: %d advertisements", n)
		}
		a.SetLink(7, true) // made anew
		sleep(minDelay)
		if n := len(a.sent()); n != 1 {
			t.Errorf("made anew: %d advertisements", n)
		}
	})
}

func TestOtherRoutersAreNoticedComparedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := advertise(t)
		a.SetLink(2, true)
		c := a.advertised.Update(both(true, true), time.Now())
		c.MTU, c.HopLimit = 1480, 64
		a.set(c)
		one := says{lifetime: 600 * time.Second, options: []ndp.Option{ndp.NewMTU(1492), pio(fiber.String(), time.Hour, 5400*time.Second),
			pio("fd00:db8:9:9::/64", time.Hour, time.Hour)}}.packet(gateway)
		one.Data[5] |= 0x40
		a.deliver(one)
		got := a.otherRouters()
		if len(got) != 1 || len(got[0]) != 1 {
			t.Fatalf("%+v", got)
		}
		o := got[0][0]
		conflicts := []string{"other flag true, ours is false", "MTU 1492, ours is 1480",
			"prefix 2001:db8:a:1::/64: preferred lifetime 1h0m0s, ours is 45m0s"}
		if o.Router != gateway || o.Lifetime != 600*time.Second || len(o.Prefixes) != 2 || !slices.Equal(o.Conflicts, conflicts) {
			t.Errorf("%+v", o)
		}
		sleep(300 * time.Second)
		a.deliver(one)
		own := a.sent()
		echo := slices.Clone(own[len(own)-1].message)
		echo[2], echo[3] = 0x12, 0x34                               // the checksum, as the kernel fills it in
		a.deliver(Packet{Data: echo, From: ourAddr, HopLimit: 255}) // by a loop of the LAN
		if got := a.otherRouters(); len(got) != 0 {
			t.Errorf("the same again, and our own, are no news: %+v", got)
		}
		a.deliver(plain(time.Hour).packet(ourAddr))
		if got := a.otherRouters(); len(got) != 1 || len(got[0]) != 2 || !slices.ContainsFunc(got[0], func(o Other) bool { return o.Router == ourAddr && o.Here }) {
			t.Errorf("another program of this machine: %+v", got)
		}
		a.deliver(says{}.packet(ourAddr))
		a.otherRouters()
		sleep(600*time.Second - time.Millisecond)
		if got := a.otherRouters(); len(got) != 0 {
			t.Errorf("forgotten too early: %+v", got)
		}
		sleep(time.Millisecond)
		if got := a.otherRouters(); len(got) != 1 || len(got[0]) != 0 {
			t.Errorf("not forgotten: %+v", got)
		}
		a.deliver(one)
		a.deliver(says{}.packet(gateway))
		if got := a.otherRouters(); len(got) != 2 || len(got[1]) != 0 {
			t.Errorf("its final advertisement: %+v", got)
		}
		a.deliver(says{options: []ndp.Option{pio("fd00:db8:9:9::/64", time.Hour, ndp.Infinity)}}.packet(gateway))
		sleep(quietOther)
		if got := a.otherRouters(); len(got) != 2 || len(got[0]) != 1 || len(got[1]) != 0 {
			t.Errorf("one that offers prefixes only: %+v", got)
		}
		for i := range 100 {
			a.deliver(says{lifetime: time.Hour}.packet(netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i + 1)})))
		}
		if got := a.otherRouters(); len(got[len(got)-1]) != maxOthers {
			t.Errorf("%d others of a flood", len(got[len(got)-1]))
		}
	})
}
