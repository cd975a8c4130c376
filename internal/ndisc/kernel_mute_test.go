package ndisc

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
)

// The filter that has the kernel drop advertisements in a flood is of cBPF, and reads the source below the header that it is given: only a
// kernel can say whether it does what it should.
func TestTheKernelDropsAdvertisementsOfAllButTheRouterInUse(t *testing.T) {
	t.Parallel()
	router, one, two := newHost(t), newHost(t), newHost(t)
	segment(t, router, one, two)
	open := func(h *host) (conn *rawConn) {
		h.inside(func() {
			c, err := openUplink("eth0")
			if err != nil {
				t.Error(err)
				return
			}
			conn = c.(*rawConn)
			t.Cleanup(func() { _ = conn.Close() })
		})
		if conn == nil {
			t.FailNow()
		}
		return conn
	}
	listener, senders := open(router), []*rawConn{open(one), open(two)}
	names := map[netip.Addr]string{one.linkLocal("eth0"): "one", two.linkLocal("eth0"): "two"}
	message := func(m ndp.Message) []byte {
		text, err := ndp.MarshalMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// A neighbour advertisement follows, which no filter drops: what comes before it has come.
	advertisement, end := message(&ndp.RouterAdvertisement{RouterLifetime: time.Hour}), message(&ndp.NeighborAdvertisement{TargetAddress: netip.MustParseAddr("fe80::77")})
	heard := func() (routers []string) {
		for _, s := range senders {
			for _, m := range [][]byte{advertisement, end} {
				if err := s.Send(m, allNodes); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := listener.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for ends := 0; ends < len(senders); {
			p, err := listener.Receive()
			switch {
			case err != nil:
				t.Fatalf("%d of %d neighbours: %v", ends, len(senders), err)
			case p.Data[0] == typeAdvert:
				routers = append(routers, names[p.From.WithZone("")])
			case slices.Equal(p.Data[8:24], end[8:24]):
				ends++
			}
		}
		slices.Sort(routers)
		return routers
	}
	for _, c := range []struct {
		what string
		set  func() error
		want []string
	}{
		{"at first", func() error { return nil }, []string{"one", "two"}},
		{"but for one", func() error { return listener.Mute(one.linkLocal("eth0")) }, []string{"one"}},
		{"but for two", func() error { return listener.Mute(two.linkLocal("eth0")) }, []string{"two"}},
		{"all", func() error { return listener.Mute(netip.Addr{}) }, nil},
		{"but for a stranger", func() error { return listener.Mute(netip.MustParseAddr("fe80::9")) }, nil},
		{"none", listener.Unmute, []string{"one", "two"}},
	} {
		if err := c.set(); err != nil {
			t.Fatalf("muted, %s: %v", c.what, err)
		}
		if got := heard(); !slices.Equal(got, c.want) {
			t.Errorf("muted, %s: heard %q, want %q", c.what, got, c.want)
		}
	}
}
