package daemon

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/ndisc"
)

// A crash right after a router was heard must find it on the disk, for a restart removes what it does not know. What
// only moves ends, or comes faster than a disk likes, waits for the beat.
func TestARouterIsOnTheDiskBeforeItIsInTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		r := newRouters(slog.New(slog.DiscardHandler), func(document string, read func() any) {
			got = append(got, "saved")
			if kept := read().(map[string]ndisc.State); len(kept["fiber"].Routers) != 1 {
				t.Errorf("saved: %+v", kept)
			}
		}, func(string, ndisc.View, ndisc.View) { got = append(got, "told") })
		heard := func(router string) {
			list := []ndisc.Router{{Addr: netip.MustParseAddr(router), Default: true, Expires: time.Now().Add(time.Minute)}}
			r.update("fiber", ndisc.View{Routers: list, State: ndisc.State{Routers: list}})
		}
		heard("fe80::1")
		time.Sleep(2 * keepPace)
		heard("fe80::1") // a later end
		heard("fe80::2")
		heard("fe80::3") // at the same moment
		time.Sleep(keepPace)
		for range 2 {
			r.keep(time.Now())
		}
		if want := []string{"saved", "told", "told", "saved", "told", "told", "saved"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}
