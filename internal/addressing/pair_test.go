package addressing

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/ndisc"
)

func TestWhoLeavesToAnotherRouterGivesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		log := func(line string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, line)
		}
		wanted := func(name string) map[string]spec[*fakeClient] {
			return map[string]spec[*fakeClient]{"fiber": {device: "eth1", make: func(func() bool) *fakeClient { return &fakeClient{name, log} },
				onRemove: func(context.Context, *fakeClient) { log(name + " is removed") }}}
		}
		var s supervisor[*fakeClient]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		step := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			got = nil
		}
		s.apply(wanted("first"))
		step(time.Second, "first begins")
		s.leave("fiber", nil)
		s.apply(nil)
		step(2*time.Second, "first ends")
		s.apply(wanted("second"))
		step(time.Second, "second begins")
		s.leave("fiber", func(ctx context.Context, f *fakeClient) {
			log(f.name + " resigns")
			<-ctx.Done()
		})
		s.apply(nil)
		step(time.Second, "second resigns")
		s.apply(wanted("third")) // before the former is done with it: they never speak both
		step(2*time.Second, "second ends", "third begins")
		s.leave("lte", nil) // which is not there
		cancel()
		<-done
		step(0, "third ends")
	})
}

func TestWhatAnotherRouterKnewIsTakenOver(t *testing.T) {
	e := New(Options{Save: func(string, func() any) {}})
	now := time.Now()
	e.leases.held["gone"] = dhcp4.Lease{Address: netip.MustParsePrefix("198.51.100.9/26")}
	text := func(v any) json.RawMessage {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	lease := dhcp4.Lease{Address: netip.MustParsePrefix("198.51.100.2/26"), Gateway: netip.MustParseAddr("198.51.100.1"), Server: netip.MustParseAddr("198.51.100.1"), Expires: now.Add(time.Hour)}
	over := lease
	over.Expires = now.Add(-time.Hour)
	delegated := dhcp6.Lease{Prefixes: []dhcp6.Delegation{{IAID: 1, Prefix: fiberPrefix, Preferred: now.Add(time.Hour), Valid: now.Add(2 * time.Hour)}}}
	told := ndisc.Advertised{Entries: []ndisc.Entry{{Announcement: ndisc.Announcement{Prefix: netip.MustParsePrefix("2001:db8:a00:1::/64"), Valid: now.Add(time.Hour)}, Uplink: "fiber"}}}
	err := e.TakeOver(map[string]map[string]json.RawMessage{
		docLeases4: {"fiber": text(lease), "lte": text(over), "gone": nil, "bad": json.RawMessage(`"x"`)},
		docLeases6: {"fiber": text(delegated)},
		docLANs:    {"lan0": text(told), "lan1": nil},
		"other":    {"fiber": text(1)},
	}, now)
	if err == nil || strings.Count(err.Error(), "\n") != 0 {
		t.Errorf("what cannot be read: %v", err)
	}
	if got := e.leases.held; len(got) != 1 || got["fiber"].Address != lease.Address {
		t.Errorf("leases: %+v", got)
	}
	if got, ok := e.delegations.lease("fiber"); !ok || len(got.Prefixes) != 1 || got.Prefixes[0].Prefix != fiberPrefix {
		t.Errorf("delegations: %+v", got)
	}
	if got := e.lans.advertised; len(got) != 1 || len(got["lan0"].Entries) != 1 {
		t.Errorf("what hosts were told: %+v", got)
	}
}

func TestTheIdentityOfAPair(t *testing.T) {
	e := New(Options{Save: func(string, func() any) {}})
	e.Identify()
	e.SetPair(Pair{DUID: dhcp6.DUID{0, 4, 1, 2}, ULA: netip.MustParsePrefix("fd00:1:2::/48")})
	if got := e.ULA(config.ULA{}); got != netip.MustParsePrefix("fd00:1:2::/48") {
		t.Errorf("%v", got)
	}
	if e.ULA(config.ULA{Off: true}).IsValid() {
		t.Error("it has one though it is off")
	}
	if got := clientIDOf(7, dhcp6.DUID{0, 4, 1, 2}); !slices.Equal(got, []byte{255, 0, 0, 0, 7, 0, 4, 1, 2}) {
		t.Errorf("%v", got)
	}
}
