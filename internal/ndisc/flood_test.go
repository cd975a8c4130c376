package ndisc

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
)

// A flood of advertisements costs a plan every other second, and the router in use is heard all the same.
func TestAFloodOfAdvertisementsIsToldEveryOtherSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := discover(t, State{})
		d.script(answering(plain(1800 * time.Second)))
		d.SetLink(2, true)
		sleep(10 * time.Second)
		before := d.seen.count()
		const seconds, rate = 60, 1000
		for n := range seconds * rate {
			from := netip.MustParseAddr(fmt.Sprintf("fe80::bad:%x", n%40))
			prefix := fmt.Sprintf("2001:db8:%x:%x::/64", n/65536, n%65536)
			d.deliver(says{lifetime: 1800 * time.Second, options: []ndp.Option{pio(prefix, time.Hour, time.Hour)}}.packet(from))
			if n%(10*rate) == 0 { // of the router in use
				d.deliver(plain(1700 * time.Second).packet(gateway))
			}
			time.Sleep(time.Second / rate)
		}
		sleep(time.Second)
		if told := d.seen.count() - before; told > seconds/2+changesAtOnce+2 || told < seconds/4 {
			t.Errorf("%d changes were told in %d s", told, seconds)
		}
		last := d.seen.now()
		if last.State.Chosen != gateway {
			t.Errorf("in use: %v", last.State.Chosen)
		}
		for _, r := range last.Routers {
			if left := time.Until(r.Expires); r.Addr == gateway && left < 1680*time.Second {
				t.Errorf("the router in use was not heard: it ends in %v", left)
			}
		}
		sleep(5 * time.Second)
		if now := d.seen.count(); now-before > seconds/2+changesAtOnce+4 {
			t.Errorf("changes are told after the flood: %d", now-before)
		}
	})
}
