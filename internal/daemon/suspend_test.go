package daemon

import (
	"testing"

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
			c := carriage{carriersOf(chain4(t, "/k")), func(name string) (uplink.State, bool) { return states[name], true }}
			if vps, tap, fiber := c.suspendedBy("vps"), c.suspendedBy("tap"), c.suspendedBy("fiber"); vps != tt.vpsBy || tap != tt.tapBy || fiber != "" {
				t.Errorf("vps is %q, tap %q, fiber %q", vps, tap, fiber)
			}
			if got := c.doubted("tap"); got != tt.tapDoubted {
				t.Errorf("the tap is doubted: %v", got)
			}
		})
	}
}
