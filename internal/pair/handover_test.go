package pair

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// tracked is what keepalived reads of a router.
func (m *member) tracked() string {
	text, _ := os.ReadFile(m.file)
	return strings.TrimSpace(string(text))
}

// keepalive is keepalived on both routers: it moves the address when the file of the primary says so, one after the other.
func keepalive(t *testing.T, a, b *member) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for primary, backup := a, b; ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if primary.tracked() == "1" && backup.tracked() != "1" {
				backup.be(true)
				primary.be(false)
				primary, backup = backup, primary
			}
		}
	}()
}

var fiber4 = []Line{{Uplink: "fiber", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/26")}, Gateway: netip.MustParseAddr("198.51.100.1")}}

func TestAPrimaryYieldsAndTheOtherOneIsPreparedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{at: make(map[string]*door)}
		a, b := member0(t, w, "a", "b", secretA, 1), member0(t, w, "b", "a", secretA, 1)
		var order []string
		b.prepares(func(lines []Line) error {
			if lines == nil {
				return nil
			}
			if len(lines) != 1 || lines[0].Uplink != "fiber" || lines[0].Addresses[0] != fiber4[0].Addresses[0] || lines[0].Gateway != fiber4[0].Gateway {
				t.Errorf("prepared for %+v", lines)
			}
			if b.Primary() || a.tracked() == "1" || !a.Status(time.Now()).Yielding {
				t.Error("prepared when it was too late")
			}
			if len(order) == 0 {
				order = append(order, "prepared")
			}
			return nil
		})
		a.be(true)
		b.be(false)
		time.Sleep(3 * time.Second)
		if a.tracked() != "0" || b.tracked() != "0" {
			t.Errorf("keepalived has nothing to track: %q %q", a.tracked(), b.tracked())
		}
		ended := make(chan struct{})
		go func() { // keepalived
			defer close(ended)
			for a.tracked() != "1" {
				time.Sleep(100 * time.Millisecond)
			}
			order = append(order, "moved")
			b.be(true)
			a.be(false)
		}()
		if err := a.Yield(t.Context(), fiber4); err != nil {
			t.Fatal(err)
		}
		<-ended
		if !slices.Equal(order, []string{"prepared", "moved"}) {
			t.Error(order)
		}
		time.Sleep(5 * time.Second)
		// It ranks behind until the other one yields, or fails: its own priority may be higher.
		if a.tracked() != "1" || b.tracked() != "0" || a.Status(time.Now()).Yielding {
			t.Errorf("%q %q", a.tracked(), b.tracked())
		}
		if got := strings.Join(a.events, " "); !strings.Contains(got, "yielding") || !strings.Contains(got, "yielded") {
			t.Errorf("told: %s", got)
		}
		a.stop()
		b.stop()
	})
}

func TestTheRoleGoesThereAndBack(t *testing.T) {
	world(t, func(t *testing.T, w *wire, a, b *member) {
		a.be(true)
		b.be(false)
		time.Sleep(3 * time.Second)
		keepalive(t, a, b)
		for range 5 {
			for _, m := range []*member{a, b} {
				if err := m.Yield(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
			}
		}
		if err := a.Yield(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		b.be(false) // it dies
		a.be(true)
		synctest.Wait()
		if got := a.tracked(); got != "0" {
			t.Errorf("a primary ranks behind: %q", got)
		}
	})
}

func TestAHandoverIsRefusedWithItsReason(t *testing.T) {
	for name, c := range map[string]struct {
		arrange func(t *testing.T, w *wire, a, b *member)
		want    string
	}{
		"by the backup": {func(_ *testing.T, _ *wire, a, b *member) { a.be(false); b.be(true) }, "this router is the backup: yield at the other one, 192.0.2.3"},
		"with nobody there": {func(_ *testing.T, w *wire, _, b *member) { b.stop(); w.part(true); time.Sleep(5 * time.Second) },
			"the other router, 192.0.2.3, is not heard"},
		"while both are primary": {func(_ *testing.T, _ *wire, _, b *member) { b.be(true) }, "both routers have 192.0.2.1"},
		"with another configuration": {func(_ *testing.T, _ *wire, _, b *member) {
			b.Engine.mu.Lock()
			defer b.Engine.mu.Unlock()
			b.setup.LANs = map[string]int{"lan0": 7}
			b.news()
		}, "the other router, 192.0.2.3, has another configuration: LAN lan0 has subnet_id 0 here and 7 there"},
		"when it is not ready": {func(_ *testing.T, _ *wire, _, b *member) {
			b.prepares(func([]Line) error { return errors.New("conntrackd does not run") })
		}, "the other router, 192.0.2.3, is not ready: conntrackd does not run"},
		"when it does not answer": {func(_ *testing.T, _ *wire, _, b *member) {
			b.prepares(func(lines []Line) error {
				if lines != nil {
					time.Sleep(readyTimeout + 2*time.Second)
				}
				return nil
			})
		}, "the other router, 192.0.2.3, does not answer that it is ready"},
		"when keepalived does nothing": {func(*testing.T, *wire, *member, *member) {}, "keepalived did not move 192.0.2.1 within 10s"},
		"when it goes meanwhile": {func(_ *testing.T, w *wire, _, b *member) {
			b.prepares(func(lines []Line) error {
				if lines != nil {
					w.part(true)
				}
				return nil
			})
		}, "is not heard"},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, func(t *testing.T, w *wire, a, b *member) {
				a.be(true)
				b.be(false)
				time.Sleep(3 * time.Second)
				c.arrange(t, w, a, b)
				synctest.Wait()
				began := time.Now()
				err := a.Yield(t.Context(), fiber4)
				if !errors.Is(err, ErrNoHandover) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want: %s", err, c.want)
				}
				if d := time.Since(began); d > catchUpTimeout+readyTimeout+moveTimeout {
					t.Errorf("refused after %v", d)
				}
				time.Sleep(preparedFor)
				if a.tracked() != "0" || a.Status(time.Now()).Yielding {
					t.Errorf("it still yields: %q", a.tracked())
				}
				b.Engine.mu.Lock()
				defer b.Engine.mu.Unlock()
				if b.coming != nil {
					t.Error("the other one is still prepared")
				}
			})
		})
	}
}

func TestTwoHandoversAtOnceAreOne(t *testing.T) {
	world(t, func(t *testing.T, _ *wire, a, b *member) {
		a.be(true)
		b.be(false)
		time.Sleep(3 * time.Second)
		first := make(chan error)
		go func() { first <- a.Yield(t.Context(), nil) }()
		synctest.Wait()
		if err := a.Yield(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "one is under way") {
			t.Error(err)
		}
		if err := <-first; err == nil { // no keepalived
			t.Error("nobody moved the address")
		}
	})
}

func TestOneRouterAloneHasNobodyToYieldTo(t *testing.T) {
	e := New(Options{})
	e.Observe(&rules.Observed{})
	if err := e.Yield(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "there is no [pair]") {
		t.Error(err)
	}
}
