package ndisc

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
)

const (
	ourPrefix   = "2001:db8:a:1::/64"
	otherPrefix = "2001:db8:b:1::/64"
)

// offers is the advertisement of a router of one provider.
func offers(prefix string, preference ndp.Preference) says {
	return says{lifetime: 1800 * time.Second, preference: preference, options: []ndp.Option{pio(prefix, time.Hour, 2*time.Hour)}}
}

// working is a discovery with one router, by which the uplink works.
func working(t *testing.T) *discovery {
	t.Helper()
	d := discover(t, State{})
	d.SetLink(2, true)
	sleep(time.Second)
	d.deliver(offers(ourPrefix, ndp.Medium).packet(gateway))
	d.SetPath(PathWorking)
	synctest.Wait()
	return d
}

// silent has these routers, and no others, answer no neighbour solicitation.
func (d *discovery) silent(routers ...netip.Addr) {
	d.script(func(w *wire) { w.absent = routers })
}

// failOver has the router in use go silent, and another provider's take its place.
func (d *discovery) failOver(t *testing.T, preference ndp.Preference) {
	t.Helper()
	d.silent(gateway)
	d.SetPath(PathSuspected)
	d.deliver(offers(otherPrefix, preference).packet(gateway2))
	sleep(5 * time.Second)
	d.uses(t, "the first is gone", gateway2, otherPrefix)
	d.SetPath(PathWorking)
}

// uses fails unless a router is in use, and the addresses are of one prefix.
func (d *discovery) uses(t *testing.T, when string, router netip.Addr, prefix string) {
	t.Helper()
	v := d.seen.now()
	if len(v.Routers) == 0 || v.Routers[0].Addr != router {
		t.Errorf("%s: routers %+v, want %v first", when, v.Routers, router)
	}
	var have []netip.Prefix
	for _, a := range v.Addresses {
		have = append(have, a.Address.Masked())
	}
	if diff := cmp.Diff([]netip.Prefix{netip.MustParsePrefix(prefix)}, have, comparable); diff != "" {
		t.Errorf("%s: networks of the addresses (-want +got):\n%s", when, diff)
	}
}

// RFC 8028: another provider's router on the segment takes no packet of ours as long as the one in use works.
func TestARouterOfAnotherProviderChangesNothingForAWorkingUplink(t *testing.T) {
	for _, preference := range []ndp.Preference{ndp.Low, ndp.Medium, ndp.High} {
		synctest.Test(t, func(t *testing.T) {
			d := working(t)
			d.deliver(offers(otherPrefix, preference).packet(gateway2))
			d.uses(t, "beside another", gateway, ourPrefix)
			sleep(10 * time.Minute)
			d.uses(t, "much later", gateway, ourPrefix)
			if v := d.seen.now(); len(v.Foreign) != 1 || v.Foreign[0].String() != otherPrefix {
				t.Errorf("foreign prefixes %v", v.Foreign)
			}
			d.deliver(says{lifetime: 1800 * time.Second, options: []ndp.Option{pio(ourPrefix, 0, 0)}}.packet(gateway2))
			d.uses(t, "when the other withdraws what it never announced", gateway, ourPrefix)
			if v := d.seen.now(); len(v.Prefixes) != 2 {
				t.Errorf("prefixes %+v", v.Prefixes)
			}
		})
	}
}

// Two routers of one provider are told by the prefix that both announce: the preferred one is used at once.
func TestAPreferredRouterOfTheSameProviderIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.deliver(offers(ourPrefix, ndp.High).packet(gateway2))
		d.uses(t, "beside a better one", gateway2, ourPrefix)
	})
}

// RFC 4861 section 7.3.3: a router that does not answer is replaced, long before its lifetime is over.
func TestAReplacedRouterIsLeftWithinSeconds(t *testing.T) {
	for name, c := range map[string]struct {
		prefix string
		flap   bool
	}{
		"of the same prefix":                {prefix: ourPrefix},
		"of another prefix":                 {prefix: otherPrefix},
		"of the same prefix, with a flap":   {prefix: ourPrefix, flap: true},
		"of another prefix and with a flap": {prefix: otherPrefix, flap: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := working(t)
				d.silent(gateway)
				if c.flap {
					d.SetLink(2, false)
					sleep(3 * time.Second)
					d.SetLink(2, true)
					synctest.Wait()
				}
				d.deliver(offers(c.prefix, ndp.Medium).packet(gateway2))
				d.SetPath(PathSuspected)
				sleep(3*retransTimer + time.Second)
				d.uses(t, "a new one", gateway2, c.prefix)
			})
		})
	}
}

// Solicitations are lost as other packets are: as long as probes are answered by a router it is not left.
func TestARouterThatProbesAreAnsweredByIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.silent(gateway)
		d.deliver(offers(otherPrefix, ndp.Medium).packet(gateway2))
		sleep(time.Minute)
		d.uses(t, "it answers no solicitation", gateway, ourPrefix)
		if v := d.seen.now(); v.Unanswered == 0 || len(v.Unreachable) > 0 {
			t.Errorf("unanswered %d, unreachable %v", v.Unanswered, v.Unreachable)
		}
		d.SetPath(PathSuspected)
		sleep(3*retransTimer + time.Second)
		d.uses(t, "nor probes", gateway2, otherPrefix)
	})
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.silent(gateway)
		d.deliver(offers(otherPrefix, ndp.Medium).packet(gateway2))
		sleep(4 * time.Second)
		d.SetPath(PathSuspected)
		synctest.Wait()
		d.uses(t, "probes confirm it a moment later", gateway2, otherPrefix)
	})
}

// A provider whose routers speak only when they are asked: silence of the only one known is a reason to ask.
func TestWhenTheOnlyRouterDoesNotAnswerOthersAreAskedFor(t *testing.T) {
	for what, happens := range map[string]func(*discovery){
		"the link was lost": func(d *discovery) {
			d.SetPath(PathUnknown)
			d.SetLink(2, false)
			d.SetLink(2, true)
		},
		"probes are not answered": func(d *discovery) { d.SetPath(PathSuspected) },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := working(t)
			d.sent()
			d.script(func(w *wire) {
				w.absent = []netip.Addr{gateway}
				w.answer = func() *Packet { p := offers(ourPrefix, ndp.Medium).packet(gateway2); return &p }
			})
			happens(d)
			sleep(3*retransTimer + firstSolicit)
			d.uses(t, what, gateway2, ourPrefix)
			if n := len(d.sent()); n == 0 {
				t.Errorf("%s: nobody was asked", what)
			}
		})
	}
}

// A router that is there and leads nowhere does not keep the uplink dead: each has its turn, and the one that
// worked last has the longer ones.
func TestEachRouterHasItsTurnWhileTheUplinkIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.deliver(offers(otherPrefix, ndp.High).packet(gateway2))
		d.SetPath(PathSuspected)
		d.SetPath(PathSilent)
		sleep(firstTurn - time.Second)
		d.uses(t, "silent for a moment", gateway, ourPrefix)
		sleep(2 * time.Second)
		d.uses(t, "silent for longer", gateway2, otherPrefix)
		sleep(laterTurn)
		d.uses(t, "the other was no better", gateway, ourPrefix)
		sleep(lastWorkingTurn - 2*time.Second)
		d.uses(t, "it is the likeliest", gateway, ourPrefix)
		sleep(2 * time.Second)
		d.uses(t, "the other once more", gateway2, otherPrefix)
		d.SetPath(PathWorking)
		sleep(10 * time.Minute)
		d.uses(t, "which has the answer", gateway2, otherPrefix)
	})
}

// A router that has gone silent and speaks again is no reason to leave the one that works now.
func TestARouterThatComesBackTakesNothingFromTheOneInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.failOver(t, ndp.Medium)
		d.silent()
		sleep(2 * maxRecheck)
		if v := d.seen.now(); v.Routers[1].Unreachable || len(v.Unreachable) > 0 {
			t.Errorf("it answers again: %+v", v.Routers)
		}
		d.uses(t, "the first is back", gateway2, otherPrefix)
	})
}

// Somebody's router announces our very prefix, as the better one, and leads nowhere: it costs one outage, not one after the other.
func TestAPreferredRouterThatLeadsNowhereIsNotTriedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.deliver(offers(ourPrefix, ndp.High).packet(gateway2))
		d.uses(t, "it is preferred", gateway2, ourPrefix)
		d.SetPath(PathSilent)
		sleep(firstTurn + time.Second)
		d.uses(t, "it leads nowhere", gateway, ourPrefix)
		d.SetPath(PathWorking)
		for range 5 {
			d.deliver(offers(ourPrefix, ndp.High).packet(gateway2))
			d.deliver(offers(ourPrefix, ndp.Medium).packet(gateway))
			sleep(time.Minute)
			d.uses(t, "it is heard on", gateway, ourPrefix)
		}
	})
}

// LANs have nothing by a router that did not delegate their prefix: the one that did is used again as soon as it is back.
func TestTheRouterThatDelegatedIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := working(t)
		d.SetDelegatingRouter(gateway)
		d.failOver(t, ndp.High)
		sleep(time.Minute) // proven by now
		d.silent()
		d.deliver(offers(ourPrefix, ndp.Medium).packet(gateway))
		d.uses(t, "it is back", gateway, ourPrefix)

		// It is there and leads nowhere: that counts for longer.
		d.SetPath(PathSilent)
		sleep(firstTurn + time.Second)
		d.uses(t, "it is silent", gateway2, otherPrefix)
		d.SetPath(PathWorking)
		d.deliver(offers(ourPrefix, ndp.Medium).packet(gateway))
		sleep(time.Minute)
		d.uses(t, "while the other works", gateway2, otherPrefix)
		sleep(minHoldDown)
		d.uses(t, "it is tried again", gateway, ourPrefix)
	})
}

// Where the kernel follows routers, its gateways are checked, and nobody is asked for an advertisement while one answers.
func TestGatewaysOfOthersAreCheckedWithoutAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &discovery{wire: &wire{}}
		d.Discoverer = NewDiscoverer(DiscovererConfig{Device: "wan1", Secret: secret, Follows: true, Log: quiet(), OnChange: d.seen.deliver, Open: d.open})
		start(t, d.Discoverer)
		d.SetGateways([]netip.Addr{gateway})
		d.SetLink(2, true)
		sleep(time.Hour)
		if v := d.seen.now(); len(v.Unreachable) != 0 || len(d.sent()) != 0 {
			t.Errorf("a gateway that answers: unreachable %v, %d solicitations", v.Unreachable, len(d.sent()))
		}
		d.silent(gateway)
		d.SetGateways([]netip.Addr{gateway, gateway2})
		d.SetPath(PathSuspected)
		sleep(4 * time.Second)
		if v := d.seen.now(); len(v.Unreachable) != 1 || v.Unreachable[0] != gateway || len(d.sent()) != 0 {
			t.Errorf("one of two answers: unreachable %v", v.Unreachable)
		}
		d.silent(gateway, gateway2)
		d.SetPath(PathWorking)
		sleep(time.Second)
		d.SetPath(PathSuspected)
		sleep(5 * time.Second)
		if len(d.sent()) == 0 {
			t.Error("all are silent and nobody is asked")
		}
	})
}

func TestForgedOrUnsolicitedNeighbourAdvertisementsProveNothing(t *testing.T) {
	m := machineAt(State{})
	deliverTo(t, m, plain(time.Hour), gateway, noon)
	m.verify(noon)
	for i := range maxNeighbourSolicits + 1 {
		m.due(noon.Add(time.Duration(i) * retransTimer))
	}
	if !m.state.Routers[0].Unreachable {
		t.Fatal("a silent router is reachable")
	}
	unsolicited, beyond, short := present(gateway), present(gateway), present(gateway)
	unsolicited.Data[4] &^= flagSolicited
	beyond.HopLimit = 64
	short.Data = short.Data[:20]
	for _, p := range []Packet{unsolicited, beyond, short, present(gateway2)} {
		if _ = m.neighbour(p); !m.state.Routers[0].Unreachable {
			t.Errorf("% x from %v with hop limit %d proves that it answers", p.Data, p.From, p.HopLimit)
		}
	}
	if err := m.neighbour(present(gateway)); err != nil || m.state.Routers[0].Unreachable {
		t.Errorf("an answer proves nothing: %v", err)
	}
}
