package api

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// A code without a class would be a series of its own in Prometheus.
func TestEveryCodeOfTheMachineHasAClass(t *testing.T) {
	whole := uplink.Link{Carrier: true, HasAddress: true, HasGateway: true}
	now := noon
	classes := make(map[string]bool)
	see := func(tr uplink.Transition, changed bool) {
		if class := codeClasses[tr.Reason.Code]; changed && class == "" {
			t.Errorf("%s -> %s: %+v has no class", tr.From, tr.To, tr.Reason)
		} else if changed {
			classes[class] = true
		}
	}
	for _, code := range uplink.Codes {
		if codeClasses[code] == "" {
			t.Errorf("%s has no class", code)
		}
	}
	m := uplink.NewFSM(uplink.FSMConfig{Uplink: "fiber", Family: rules.IPv4, Rise: 2}, now)
	observe := func(s probe.Signal, loss float64, after time.Duration) {
		now = now.Add(after)
		see(m.Tick(now))
		see(m.Observe(uplink.ProbeEvent{Signal: s, Loss: loss, Outcomes: 50}, now))
	}
	path := func(p uplink.Link) {
		now = now.Add(time.Minute)
		see(m.SetLink(p, now))
	}
	path(uplink.Link{})
	path(whole)
	observe(probe.Alive, 0, time.Second)
	observe(probe.Alive, 0.3, time.Second)
	observe(probe.Alive, 0, time.Second)
	observe(probe.Failing, 0, time.Second)
	observe(probe.Alive, 0, time.Millisecond)
	observe(probe.Failing, 0, time.Second)
	observe(probe.Missed, 0, time.Minute)
	observe(probe.Alive, 0, time.Minute)
	observe(probe.Failing, 0, time.Second)
	observe(probe.Alive, 0, time.Minute)
	observe(probe.Alive, 0, time.Minute)
	observe(probe.NoPath, 0, time.Second)
	for _, p := range []uplink.Link{{Carrier: true}, {Carrier: true, HasAddress: true}, {}} {
		path(whole)
		for range 4 {
			observe(probe.Alive, 0, time.Minute)
		}
		path(p)
	}
	for _, class := range []string{"carrier", "address", "gateway", "route", "path", "probes"} {
		if !classes[class] {
			t.Errorf("the walk through the machine met no %s", class)
		}
	}
}
