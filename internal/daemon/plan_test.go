package daemon

import (
	"encoding/json"
	"testing"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/clat"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dns"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/sets"
	"github.com/uplinkd/uplinkd/internal/tunnel"
)

// What leaves with a prefix that has been taken away is refused by planning, which has to know of it.
func TestThePlanKnowsOfPrefixesThatHostsStillHold(t *testing.T) {
	a := addressing.New(addressing.Options{})
	if err := json.Unmarshal([]byte(`{"lan0": {"entries": [{"prefix": "2001:db8:a00:1::/64", "uplink": "fiber", "delegation": "2001:db8:a00::/56"}]}}`), a.Documents()["lans6"]); err != nil {
		t.Fatal(err)
	}
	d := &Daemon{pair: pair.New(pair.Options{}), successor: pair.NewSuccessor(pair.SuccessorOptions{}), addressing: a, tunnels: tunnel.New(tunnel.Options{}), dns: dns.New(dns.Options{}), clat: clat.New(clat.Options{}), sets: sets.New(sets.Options{}), engine: reconcile.New(reconcile.Options{})}
	d.planFor(&config.Config{LANs: []config.LAN{{Device: "lan0"}}}, nil)
	if got := d.planned.LANs[0].Withdrawn; len(got) != 1 {
		t.Errorf("the daemon plans with %v", got)
	}
}
