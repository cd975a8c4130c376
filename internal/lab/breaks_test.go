package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// gatewaysOf lists what the ISP itself answers on.
func gatewaysOf(u Uplink) []string {
	gw6 := u.Address6.Masked().Addr().Next()
	return []string{u.Gateway4.String(), gw6.String(), u.Gateway6.String() + "%" + u.Device}
}

// whole checks that fiber carries the router's traffic in both families and that lte is untouched.
func whole(t *testing.T, w *World) {
	t.Helper()
	for _, target := range append(gatewaysOf(w.Uplink(Fiber)), Echo4, Echo6) {
		pings(t, w.Host(Router), target)
	}
	untouched(t, w)
	for _, s := range w.Status() {
		if len(s.Breaks) != 0 {
			t.Errorf("%s is still broken: %+v", s.Name, s.Breaks)
		}
	}
}

func untouched(t *testing.T, w *World) {
	t.Helper()
	for _, target := range gatewaysOf(w.Uplink(LTE)) {
		pings(t, w.Host(Router), target)
	}
}

func carrierOf(t *testing.T, w *World, dev string) bool {
	t.Helper()
	out, err := w.Host(Router).Run("cat", "/sys/class/net/"+dev+"/carrier")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out) == "1"
}

func TestEachBreakDoesWhatItSaysAndHeals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind             string
		carrier, gateway bool // whether they work meanwhile
	}{
		{Carrier, false, false},
		{Blackhole, true, true},
		{Upstream, true, true},
		{Gateway, true, false},
		{"loss=100", true, false},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Options{})
			whole(t, w)
			for range 2 { // the second time changes nothing
				if err := w.Break(c.kind, Fiber); err != nil {
					t.Fatal(err)
				}
			}
			if got := carrierOf(t, w, "wan1"); got != c.carrier {
				t.Errorf("carrier is %v, want %v", got, c.carrier)
			}
			for _, gateway := range gatewaysOf(w.Uplink(Fiber)) {
				if c.gateway {
					pings(t, w.Host(Router), gateway)
				} else {
					cannotPing(t, w.Host(Router), gateway)
				}
			}
			for _, target := range []string{Echo4, Echo6} {
				if got := asks(t, w.Host(Router), "", target); got == Fiber {
					t.Errorf("%s is still reached over fiber", target)
				}
			}
			untouched(t, w)
			kind, _, _ := strings.Cut(c.kind, "=")
			if s := w.Status()[0]; len(s.Breaks) != 1 || s.Breaks[0].Kind != kind || s.Breaks[0].Since.IsZero() {
				t.Errorf("status says %+v", s.Breaks)
			}
			for range 2 {
				if err := w.Heal(); err != nil {
					t.Fatal(err)
				}
			}
			whole(t, w)
		})
	}
}

func TestABlackholeStopsWhatComesFromTheInternet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	pings(t, w.Host(Internet), "198.51.100.2")
	if err := w.Break(Blackhole, Fiber); err != nil {
		t.Fatal(err)
	}
	cannotPing(t, w.Host(Internet), "198.51.100.2")
	cannotPing(t, w.Host(Internet), "2001:db8:a::2")
}

func TestRenumberingMovesTheCustomer(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"ordinary":    {},
		"same subnet": {SameSubnet: true, RPFilter: "off"},
		"twins":       {Twins: true, RPFilter: "off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, o)
			for _, broken := range []string{Fiber, LTE} {
				before := w.Uplink(broken)
				for range 2 {
					if err := w.Break(Prefix, broken); err != nil {
						t.Fatal(err)
					}
				}
				after := w.Uplink(broken)
				if before.Address4 == after.Address4 || before.Address6 == after.Address6 || before.Gateway4 == after.Gateway4 {
					t.Errorf("%s stayed: %+v", broken, after)
				}
				if err := w.HealOne(broken); err != nil {
					t.Fatal(err)
				}
				if err := w.Break(Prefix, broken); err != nil {
					t.Fatal(err)
				}
				if got := asks(t, w.Host(Router), before.Address6.Addr().String(), Echo6); got != "" {
					t.Errorf("the old source of %s still works", broken)
				}
			}
			out, err := w.Host(Router).Run("ip", "-4", "route", "show", "default")
			for _, u := range w.Uplinks() {
				want := fmt.Sprintf("default via %s dev %s proto dhcp metric %d", u.Gateway4, u.Device, u.Metric)
				if err != nil || !strings.Contains(out, want) {
					t.Errorf("default routes, %v:\n%swant %s", err, out, want)
				}
			}
			if got := asks(t, w.Host(Router), "", Echo4); got != Fiber {
				t.Errorf("after renumbering, fiber's default route leads over %q", got)
			}
			if got := asks(t, w.Host(Router), "", Echo6); got != Fiber {
				t.Errorf("after renumbering, fiber's IPv6 default route leads over %q", got)
			}
			if err := w.Heal(); err != nil {
				t.Fatal(err)
			}
			if got := asks(t, w.Host(Router), "", Echo4); got != Fiber {
				t.Errorf("after healing, the default route leads over %q", got)
			}
		})
	}
}

func TestSeveralBreaksAddUpAndHealTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	for _, kind := range Kinds() {
		if err := w.Break(kind, Fiber); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Break("loss=2.5%", Fiber); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, b := range w.Status()[0].Breaks {
		kinds = append(kinds, b.Kind)
		if b.Kind == Loss && b.Percent != 2.5 {
			t.Errorf("loss is %v %%", b.Percent)
		}
	}
	if !slices.Equal(kinds, slices.Sorted(slices.Values(Kinds()))) {
		t.Errorf("broken are %v", kinds)
	}
	if err := w.HealOne(LTE); err != nil {
		t.Fatal(err)
	}
	if len(w.Status()[0].Breaks) == 0 {
		t.Error("healing lte healed fiber")
	}
	if err := w.HealOne(Fiber); err != nil {
		t.Fatal(err)
	}
	whole(t, w)
}

func TestLossDropsAShareInBothDirections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	if err := w.Break("loss=30", Fiber); err != nil {
		t.Fatal(err)
	}
	s := &Stream{From: w.Host(Router), Target: echoTarget(Echo4), Rate: 1000, Grace: 300 * time.Millisecond}
	run(t, s.Run, func(ctx context.Context) error {
		return Until(ctx, "2000 packets", func() error {
			if st := s.Stats(); st.Sent < 2000 {
				return errors.New(st.String())
			}
			return nil
		})
	})
	st := s.Stats()
	// 0.7 * 0.7 come back; the bounds are beyond six standard deviations.
	if share := float64(st.Answered) / float64(st.Sent); share < 0.42 || share > 0.56 {
		t.Errorf("%s: %.2f came back, want about 0.49", st, share)
	}
}

func TestMistakesInBreaksAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	for _, c := range []struct{ kind, uplink, want string }{
		{"flood", Fiber, `no break is called "flood", only carrier, blackhole, far, loss, gateway, prefix`},
		{"far=3", Fiber, "break far takes no value"},
		{"loss=101", Fiber, `loss is a share above 0 and up to 100 %, not "101"`},
		{"loss=", Fiber, `loss is a share above 0 and up to 100 %, not ""`},
		{"loss=NaN", Fiber, `loss is a share above 0 and up to 100 %, not "NaN"`},
		{Carrier, "dsl", `no uplink "dsl" in this world, only fiber, lte`},
	} {
		if err := w.Break(c.kind, c.uplink); err == nil || err.Error() != c.want {
			t.Errorf("break %s %s: %v, want %s", c.kind, c.uplink, err, c.want)
		}
	}
	if err := w.HealOne("dsl"); err == nil {
		t.Error("healed an uplink that is not there")
	}
	if _, err := w.Counters("dsl"); err == nil {
		t.Error("counted for an uplink that is not there")
	}
}
