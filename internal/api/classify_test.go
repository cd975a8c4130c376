package api

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestReasonClass(t *testing.T) {
	for reason, want := range map[string]string{
		uplink.ReasonCarrier: "carrier",
		"no carrier":         "carrier",
		uplink.ReasonAddress: "address",
		uplink.ReasonGateway: "gateway",
		uplink.ReasonRoute:   "route",
		"carrier, address and gateway present; there are no probe targets": "path",
		"never answered: no route":       "probes",
		"drained by the operator":        "operator",
		"ipv6 is off by configuration":   "operator",
		"was down before the restart":    "restart",
		"no handshake for 190 s":         "probes",
		"a captive portal is in the way": "probes",
		"the moon is full":               "other",
		"":                               "other",
	} {
		if got := reasonClass(reason); got != want {
			t.Errorf("%q is %s, want %s", reason, got, want)
		}
	}
}

// What the state machine really says has a class, whatever its wording becomes.
func TestEveryReasonOfTheMachineHasAClass(t *testing.T) {
	whole := uplink.Link{Carrier: true, HasAddress: true, HasGateway: true}
	now := noon
	classes := make(map[string]bool)
	see := func(tr uplink.Transition, changed bool) {
		if class := reasonClass(tr.Reason); changed && class == classOther {
			t.Errorf("%s -> %s: %q has no class", tr.From, tr.To, tr.Reason)
		} else if changed {
			classes[class] = true
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
	for _, class := range []string{classCarrier, classAddress, classGateway, classRoute, classPath, classProbes} {
		if !classes[class] {
			t.Errorf("the walk through the machine met no %s", class)
		}
	}
}
