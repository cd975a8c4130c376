package addressing

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/schedule/clocktest"
)

// What was learned before the clock was set is on the disk by the new time of day: after a restart nothing ends sooner or later.
func TestWhatIsKeptEndsWhenItDoesThoughTheClockWasSet(t *testing.T) {
	for _, set := range []time.Duration{3 * time.Hour, -3 * time.Hour, 20 * 365 * 24 * time.Hour} {
		documents := make(map[string][]byte)
		save := func(document string, read func() any) {
			text, err := json.Marshal(read())
			if err != nil {
				t.Fatal(err)
			}
			documents[document] = text
		}
		e := New(Options{Log: slog.New(slog.DiscardHandler), Save: save, Changed: func() {}})
		now := time.Now()
		ends := clocktest.Shift(now.Add(time.Hour), -set) // by the time of day before
		e.leases.held["fiber"] = dhcp4.Lease{Address: netip.MustParsePrefix("198.51.100.2/26"), Server: netip.MustParseAddr("198.51.100.1"),
			Renew: ends.Add(-30 * time.Minute), Rebind: ends.Add(-10 * time.Minute), Expires: ends}
		router := ndisc.Router{Addr: netip.MustParseAddr("fe80::1"), Default: true, Expires: ends}
		e.routers.kept["lte"] = ndisc.State{Routers: []ndisc.Router{router}}
		told := &ndisc.Advertised{Entries: []ndisc.Entry{{Announcement: ndisc.Announcement{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), Preferred: ends, Valid: ends}}}}
		e.lans.advertised["lan0"] = told
		e.clockSet(now)

		var leases map[string]dhcp4.Lease
		var routers map[string]ndisc.State
		for document, into := range map[string]any{docLeases4: &leases, docRouters: &routers} {
			if err := json.Unmarshal(documents[document], into); err != nil {
				t.Fatalf("%s: %v", document, err)
			}
		}
		lease, ok := leases["fiber"].Usable(now)
		for what, end := range map[string]time.Time{"lease": lease.Expires, "renewal": lease.Renew.Add(30 * time.Minute), "router": routers["lte"].Routers[0].Expires,
			"prefix": told.Entries[0].Valid.Round(0), "preference": told.Entries[0].Preferred.Round(0)} {
			if left := end.Sub(now.Round(0)); !ok || (left-time.Hour).Abs() > time.Minute {
				t.Errorf("set by %v: the %s ends in %v", set, what, left)
			}
		}
	}
}
