package addressing

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Everything that other goroutines may call is called at once, while clients are made, replaced and removed. Locks that are
// taken in two orders stop it, and -race finds what has none.
func TestConfigurationsAndEventsMayComeAtOnce(t *testing.T) {
	var replanning sync.Mutex
	var e *Engine
	e = New(Options{
		Phase: time.Now(),
		Save:  func(_ string, read func() any) { read() },
		Changed: func() {
			replanning.Lock()
			defer replanning.Unlock()
			e.Learned(time.Now())
		},
		OnEvent:  func(status.Event) {},
		Verdict:  func(rules.Path) (v uplink.Verdict, whole, ok bool) { return v, true, true },
		ProbeNow: func(rules.Path) {},
	})
	e.Identify()
	e.Restore(time.Now())
	ids := map[string]int{"fiber": 1, "lte": 2}
	var configs []*config.Config
	for i := range 4 {
		c := config.Default()
		for _, name := range []string{"fiber", "lte"} {
			u := config.DefaultUplink(name, fmt.Sprintf("%s%d", name, i%2))
			u.IPv4.Method, u.IPv6.Method, u.IPv6.Delegation, u.IPv6.RequestAddress = config.MethodDHCP, config.MethodRA, true, i == 1
			c.Uplinks = append(c.Uplinks, u)
		}
		c.LANs = []config.LAN{{Device: "lan0", Advertise: i != 1, PrefixesFrom: []string{"fiber"}, DelegateLength: 62 * (i % 2)}}
		if i == 3 {
			c.Uplinks = c.Uplinks[:1]
		}
		configs = append(configs, c)
	}
	obs := &rules.Observed{Links: []rules.Link{{Name: "fiber0", Index: 2}, {Name: "lan0", Index: 3}}}
	report := &rules.Report{Defaults: map[rules.Family]rules.Choice{}, Online: map[string]bool{"lan0": true}}
	router := netip.MustParseAddr("fe80::1")
	ctx, cancel := context.WithCancel(t.Context())
	var running, calling sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	for _, call := range []func(i int){
		func(i int) { e.Configure(configs[i%4], ids) },
		func(i int) { e.Configure(configs[(i+2)%4], ids) },
		func(int) { e.Observe(obs) },
		func(int) { e.UpdateRA(report) },
		func(int) { e.UpdateVerdicts() },
		func(i int) { e.leases.update("fiber", &dhcp4.Lease{MTU: i}, inForce) },
		func(i int) {
			_, _ = e.downstream.answer("lan0", dhcp6.Datagram{From: router, Data: asksForPrefix(byte(i))}, time.Now())
		},
		func(int) { e.delegations.update("lte", dhcp6.Change{Lease: &dhcp6.Lease{}}, inForce) },
		func(i int) {
			e.routers.update("fiber", ndisc.View{Unanswered: i, State: ndisc.State{Chosen: router}}, inForce)
		},
		func(int) {
			now := time.Now()
			e.Problems(now)
			e.LANs(now)
			e.Delegated(&configs[0].Uplinks[0], now)
			e.AddTo(&rules.Config{LANs: []rules.LAN{{Device: "lan0"}}}, now)
			e.downstream.expire(now)
		},
	} {
		calling.Go(func() {
			for i := range 3000 {
				call(i)
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); calling.Wait(); cancel(); running.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		panic("locked up") // with all stacks
	}
}
