package kernel_test

import (
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
)

// urgently takes a snapshot that may rely on what was read before.
func urgently(t testing.TB, k *kernel.Kernel, cfg rules.Config) *rules.Observed {
	t.Helper()
	q := rules.QueryOf(cfg, rules.Recorded{})
	q.Urgent = true
	obs, err := k.Snapshot(q)
	if err != nil {
		t.Fatal(err)
	}
	return obs
}

// What changes near routes makes the next urgent snapshot read them, once it has been heard; where the kernel says nothing of the routes
// themselves, too.
func TestAnUrgentSnapshotHasWhatWasHeardOf(t *testing.T) {
	namespace(t)
	sh(t, router)
	addRoutes(t, 2500)
	cfg, k, w := config(), open(t), watch(t)
	k.HeardBy(w)
	run(t, w)
	for range 2 { // the first lists all
		snapshot(t, k, cfg)
	}
	for _, change := range changesOfRoutes {
		sh(t, change)
		want := text(snapshot(t, open(t), cfg))
		var got []string
		for end := time.Now().Add(patience); !slices.Equal(got, want) && time.Now().Before(end); {
			got = text(urgently(t, k, cfg))
		}
		if !slices.Equal(got, want) {
			t.Errorf("after %s:\nmissing %q\nof old %q", change, missing(want, got), missing(got, want))
		}
		snapshot(t, k, cfg) // for the next to begin with what is there
	}
}

// An urgent snapshot does not ask for them where nothing was heard: with a watcher that does not run, not even for what has changed.
func TestAnUrgentSnapshotTakesNearRoutesAsTheyWere(t *testing.T) {
	namespace(t)
	sh(t, router)
	addRoutes(t, 2500)
	cfg, k := config(), open(t)
	k.HeardBy(watch(t))
	for range 2 {
		snapshot(t, k, cfg)
	}
	before := text(urgently(t, k, cfg))
	sh(t, "ip route add 192.0.2.0/26 via 203.0.113.1 dev wan2")
	if got := text(urgently(t, k, cfg)); !slices.Equal(got, before) {
		t.Errorf("they were read anew: %q", missing(got, before))
	}
	if got := text(snapshot(t, k, cfg)); len(missing(got, before)) != 1 {
		t.Errorf("another snapshot has %q more, want the new one", missing(got, before))
	}
}

// What routing daemons and packet filters change all the time does not change them, and neither does a carrier.
func TestOthersRoutesAreNoNearChange(t *testing.T) {
	namespace(t)
	sh(t, router)
	sh(t, "ip link set peer-wan1 addrgenmode none; ip -6 address flush dev peer-wan1") // which would go with its carrier
	addRoutes(t, 2500)
	cfg, k, w := config(), open(t), watch(t)
	k.HeardBy(w)
	r := run(t, w)
	for range 2 {
		snapshot(t, k, cfg)
	}
	for _, change := range []string{
		"ip route add 20.200.0.0/24 via 203.0.113.130 dev lan0",
		"ip route del 20.200.0.0/24",
		"ip route add 192.0.2.0/26 dev lan0",
		"ip rule add pref 77 lookup 7",
		"nft add table inet other",
		"ip link set peer-wan1 down",
	} {
		before := w.NearChanges()
		sh(t, change)
		r.expectHint(t, change)
		if w.NearChanges() != before {
			t.Errorf("%s counts as a change", change)
		}
	}
}
