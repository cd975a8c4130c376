package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestATunnelIsSuspendedWhileAllThatMayCarryItAreDown(t *testing.T) {
	for _, tt := range []struct {
		name            string
		fiber, lte, vps uplink.State
		vpsBy, tapBy    string
		tapDoubted      bool
	}{
		{"all is well", uplink.Up, uplink.Up, uplink.Up, "", "", false},
		{"one carrier is enough", uplink.Down, uplink.Up, uplink.Up, "", "", false},
		{"a doubted carrier is waited for", uplink.Up, uplink.Up, uplink.Suspect, "", "", true},
		{"doubt of both carriers reaches the end of the chain", uplink.Suspect, uplink.Suspect, uplink.Up, "", "", true},
		{"the tunnel itself is down", uplink.Up, uplink.Up, uplink.Down, "", "suspended, because vps is down", true},
		{"the whole chain hangs on the providers", uplink.Down, uplink.Down, uplink.Up, "suspended, because lte is down and fiber is down",
			"suspended, because vps is suspended, because lte is down and fiber is down", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := map[string]uplink.State{"fiber": tt.fiber, "lte": tt.lte, "vps": tt.vps, "tap": uplink.Up}
			c := carriage{carriers: planinput.Carriers(chain4(t, "/k")), state: func(name string) (uplink.State, bool) { return states[name], true }}
			if vps, tap, fiber := c.suspendedBy("vps"), c.suspendedBy("tap"), c.suspendedBy("fiber"); vps != tt.vpsBy || tap != tt.tapBy || fiber != "" {
				t.Errorf("vps is %q, tap %q, fiber %q", vps, tap, fiber)
			}
			if got := c.doubted("tap"); got != tt.tapDoubted {
				t.Errorf("the tap is doubted: %v", got)
			}
		})
	}
}

func TestATunnelIsNotJudgedWhileTheCarrierThatItUsesIsSilent(t *testing.T) {
	names := map[int]string{1: "fiber", 2: "lte"}
	for _, tt := range []struct {
		name       string
		by         int // who carries it
		fiber, lte uplink.State
		doubted    bool
	}{
		{"all is well", 2, uplink.Up, uplink.Up, false},
		{"its carrier is doubted, the other would do", 2, uplink.Up, uplink.Suspect, true},
		{"its carrier is dead, the tunnel is about to move", 2, uplink.Up, uplink.Down, true},
		{"it has moved", 1, uplink.Up, uplink.Down, false},
		{"another than its carrier is doubted", 1, uplink.Up, uplink.Suspect, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := map[string]uplink.State{"fiber": tt.fiber, "lte": tt.lte, "vps": uplink.Up, "tap": uplink.Up}
			state := func(name string) (uplink.State, bool) { return states[name], true }
			c := carriage{carriers: planinput.Carriers(chain4(t, "/k")), state: state, riding: map[string][]rules.Path{"vps": {{Uplink: tt.by, Family: rules.IPv4}}},
				path: func(p rules.Path) (string, uplink.State, bool) { return names[p.Uplink], states[names[p.Uplink]], true }}
			if vps, tap := c.doubted("vps"), c.doubted("tap"); vps != tt.doubted || tap != tt.doubted {
				t.Errorf("vps is doubted: %v, tap: %v", vps, tap)
			}
		})
	}
}

func TestATunnelIsHeldTheMomentItsCarrierFallsSilent(t *testing.T) {
	for returns, want := range map[bool]uplink.State{true: uplink.Up, false: uplink.Down} {
		held(t, returns, want)
	}
}

// held has a tunnel and its carrier fall silent, and the tunnel answer again when its carrier does, or not.
func held(t *testing.T, returns bool, want uplink.State) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, nil)
		c.judge.mu.Lock()
		c.carriers = map[string][]string{"lte": {"fiber"}} // let lte be a tunnel
		c.judge.mu.Unlock()
		c.ride("lte", []rules.Path{fiber4})
		c.pass()
		after(20 * time.Second)
		c.pass()
		c.wants(lte4, uplink.Up)

		c.set("fiber", false)
		c.set("lte", false)
		for range 1000 {
			if v, _ := c.verdict(fiber4); v.State == uplink.Suspect {
				break
			}
			after(10 * time.Millisecond)
		}
		c.wants(fiber4, uplink.Suspect)
		c.hold() // no look at the kernel comes: the machine is busy
		after(20 * time.Second)
		c.wants(fiber4, uplink.Down)
		if v, _ := c.verdict(lte4); v.State == uplink.Down {
			t.Errorf("the tunnel is down beside its carrier: %s", v.Reason)
		}
		c.set("fiber", true)
		c.set("lte", returns)
		after(30 * time.Second)
		c.pass()
		after(2 * time.Second)
		c.wants(lte4, want)
	})
}
