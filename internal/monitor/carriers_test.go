package monitor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// chain is a tap over vps, which lte or fiber carries.
var chain = map[string][]string{"vps": {"lte", "fiber"}, "tap": {"vps"}}

func TestATunnelIsSuspendedWhileAllThatMayCarryItAreDown(t *testing.T) {
	for _, tt := range []struct {
		name            string
		fiber, lte, vps uplink.State
		vpsBy, tapBy    string
		tapSuspect      bool
	}{
		{"all is well", uplink.Up, uplink.Up, uplink.Up, "", "", false},
		{"one carrier is enough", uplink.Down, uplink.Up, uplink.Up, "", "", false},
		{"a suspect carrier is waited for", uplink.Up, uplink.Up, uplink.Suspect, "", "", true},
		{"suspicion of both carriers reaches the end of the chain", uplink.Suspect, uplink.Suspect, uplink.Up, "", "", true},
		{"the tunnel itself is down", uplink.Up, uplink.Up, uplink.Down, "", "suspended, because vps is down", true},
		{"the whole chain hangs on the providers", uplink.Down, uplink.Down, uplink.Up, "suspended, because lte is down and fiber is down",
			"suspended, because vps is suspended, because lte is down and fiber is down", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := map[string]uplink.State{"fiber": tt.fiber, "lte": tt.lte, "vps": tt.vps, "tap": uplink.Up}
			c := carrierGraph{carriers: chain, state: func(name string) (uplink.State, bool) { return states[name], true }}
			if vps, tap, fiber := c.suspendedBy("vps"), c.suspendedBy("tap"), c.suspendedBy("fiber"); vps != tt.vpsBy || tap != tt.tapBy || fiber != "" {
				t.Errorf("vps is %q, tap %q, fiber %q", vps, tap, fiber)
			}
			if got := c.carrierSuspect("tap"); got != tt.tapSuspect {
				t.Errorf("the tap has a suspect carrier: %v", got)
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
		suspect    bool
	}{
		{"all is well", 2, uplink.Up, uplink.Up, false},
		{"its carrier is suspect, the other would do", 2, uplink.Up, uplink.Suspect, true},
		{"its carrier is dead, the tunnel is about to move", 2, uplink.Up, uplink.Down, true},
		{"it has moved", 1, uplink.Up, uplink.Down, false},
		{"another than its carrier is suspect", 1, uplink.Up, uplink.Suspect, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := map[string]uplink.State{"fiber": tt.fiber, "lte": tt.lte, "vps": uplink.Up, "tap": uplink.Up}
			state := func(name string) (uplink.State, bool) { return states[name], true }
			c := carrierGraph{carriers: chain, state: state, active: map[string][]rules.Path{"vps": {{Uplink: tt.by, Family: rules.IPv4}}},
				path: func(p rules.Path) (string, uplink.State, bool) { return names[p.Uplink], states[names[p.Uplink]], true }}
			if vps, tap := c.carrierSuspect("vps"), c.carrierSuspect("tap"); vps != tt.suspect || tap != tt.suspect {
				t.Errorf("vps has a suspect carrier: %v, tap: %v", vps, tap)
			}
		})
	}
}

func TestATunnelIsHeldTheMomentItsCarrierFallsSilent(t *testing.T) {
	for returns, want := range map[bool]uplink.State{true: uplink.Up, false: uplink.Down} {
		silent(t, returns, want)
	}
}

// silent has a tunnel and its carrier fall silent, and the tunnel answer again when its carrier does, or not.
func silent(t *testing.T, returns bool, want uplink.State) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.Monitor.mu.Lock()
		c.carriers.configured = map[string][]string{"lte": {"fiber"}} // let lte be a tunnel
		c.Monitor.mu.Unlock()
		c.SetActiveCarriers("lte", []rules.Path{fiber4})
		c.pass()
		after(20 * time.Second)
		c.pass()
		c.wants(lte4, uplink.Up)

		c.set("fiber", false)
		c.set("lte", false)
		for range 1000 {
			if v, _ := c.Verdict(fiber4); v.State == uplink.Suspect {
				break
			}
			after(10 * time.Millisecond)
		}
		c.wants(fiber4, uplink.Suspect)
		after(20 * time.Second) // no look at the kernel comes: the machine is busy
		c.wants(fiber4, uplink.Down)
		if v, _ := c.Verdict(lte4); v.State == uplink.Down {
			t.Errorf("the tunnel is down beside its carrier: %s", v.Reason)
		}
		c.set("fiber", true)
		c.set("lte", returns)
		after(30 * time.Second)
		c.pass()
		after(5 * time.Second) // it is probed as a path of which nothing is known
		c.wants(lte4, want)
	})
}
