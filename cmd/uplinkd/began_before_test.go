package main

import (
	"errors"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// A router has two lines, and the administrator's own rules translate what leaves. The first start of uplinkd finds connections by
// either, and the order of the lines is another from now on: what began by LTE stays there.
func TestConnectionsThatBeganBeforeTheFirstStartKeepTheirUplink(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"masquerade", "snat to 203.0.113.2"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, dualWAN)
			r.sh("router", `nft 'table ip home { chain leaves { type nat hook postrouting priority srcnat
				oifname "wan1" masquerade
				oifname "wan2" `+how+`
			}; }'; ip route replace default via 203.0.113.1 dev wan2 proto dhcp metric 5`)
			since := r.typing("lan", "", addrPort(other4))
			r.await("the connection to be answered", func() error {
				if since() > time.Second {
					return errors.New("not yet")
				}
				return nil
			})
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			r.expectBy("lan", other4, "fiber")
			for range 20 {
				if silent := since(); silent > 2*time.Second {
					t.Fatalf("the connection that was there has not been answered for %v", silent)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}
