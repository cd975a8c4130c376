package status

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// house has fiber, a spare and a VPN for policies alone, all well.
func house() *Status {
	up := func(share float64) FamilyStatus { return FamilyStatus{State: uplink.Up, Share: share} }
	return &Status{Uplinks: []Uplink{
		{Name: "fiber", Tier: 1, Default: true, IPv4: up(1), IPv6: up(1)},
		{Name: "lte", Tier: 2, Default: true, IPv4: up(0), IPv6: FamilyStatus{State: uplink.Disabled}},
		{Name: "vpn", Tier: 1, IPv4: up(0), IPv6: FamilyStatus{State: uplink.Disabled}},
	}}
}

func TestTheHeadlineSaysWhoCarriesWhat(t *testing.T) {
	fails := func(f *FamilyStatus) { f.State, f.Share = uplink.Down, 0 }
	policy := func(fallback string, shares map[string]float64) func(*Status) {
		return func(s *Status) {
			s.Policies = append(s.Policies, Policy{Name: "work", Fallback: fallback, IPv4: PolicyFamily{Applies: true, Shares: shares}, IPv6: PolicyFamily{Applies: true}}.Raw())
		}
	}
	for name, tt := range map[string]struct {
		change func(*Status)
		want   string
		health Health
	}{
		"all is well": {func(*Status) {}, "Online by fiber; lte ready. IPv6 by fiber.", AllWell},
		"a primary that hands over": {func(s *Status) { s.Pair = &Pair{Role: "primary", Yielding: true} },
			"Handing over to the other router. Online by fiber; lte ready. IPv6 by fiber.", AllWell},
		"a notice is no problem": {func(s *Status) { s.Problems = []rules.Problem{{Severity: "notice"}} },
			"Online by fiber; lte ready. IPv6 by fiber.", AllWell},
		"a problem": {func(s *Status) { s.Problems = []rules.Problem{{Severity: "warning"}} },
			"Online by fiber; lte ready. IPv6 by fiber.", Unsettled},
		"on the spare": {func(s *Status) {
			fails(&s.Uplinks[0].IPv4)
			fails(&s.Uplinks[0].IPv6)
			s.Uplinks[1].IPv4.Share = 1
		}, "Online by lte; fiber down. IPv6 is offline.", Unsettled},
		"two share": {func(s *Status) {
			s.Uplinks[0].IPv4.Share, s.Uplinks[1].IPv4.Share, s.Uplinks[1].Tier = 0.7, 0.3, 1
		}, "Online by fiber and lte. IPv6 by fiber.", AllWell},
		"the spare helps": {func(s *Status) {
			s.Uplinks[0].IPv4.Share, s.Uplinks[1].IPv4.Share, s.Uplinks[0].Full = 0.7, 0.3, true
		}, "Online by fiber and lte. IPv6 by fiber.", AllWell},
		"another of its tier has room": {func(s *Status) {
			s.Uplinks[0].IPv4.Share, s.Uplinks[0].Full = 0, true
			s.Uplinks[1].IPv4.Share, s.Uplinks[1].Tier = 1, 1
		}, "Online by lte; fiber full. IPv6 by fiber.", AllWell},
		"the spare is drained": {func(s *Status) { s.Uplinks[1].Drained = true }, "Online by fiber; lte drained. IPv6 by fiber.", AllWell},
		"the spare recovers":   {func(s *Status) { s.Uplinks[1].IPv4.State = uplink.Recovering }, "Online by fiber; lte recovering. IPv6 by fiber.", AllWell},
		"IPv4 alone": {func(s *Status) { s.Uplinks[0].IPv6 = FamilyStatus{State: uplink.Disabled} },
			"Online by fiber; lte ready.", AllWell},
		"IPv6 alone works": {func(s *Status) { fails(&s.Uplinks[0].IPv4); fails(&s.Uplinks[1].IPv4) },
			"IPv4 is offline. Online in IPv6 by fiber.", Unsettled},
		"nothing works, and something is tried all the same": {func(s *Status) {
			fails(&s.Uplinks[0].IPv4)
			fails(&s.Uplinks[0].IPv6)
			fails(&s.Uplinks[1].IPv4)
			s.Uplinks[0].IPv4.Share = 1
		}, "Offline; fiber down, lte down.", NotOnline},
		"nothing is configured":      {func(s *Status) { s.Uplinks = nil }, "No uplinks.", NotOnline},
		"a kill switch is closed":    {policy("unreachable", nil), "Online by fiber; lte ready. IPv6 by fiber. Closed by kill switch: work.", Unsettled},
		"a kill switch is open":      {policy("unreachable", map[string]float64{"vpn": 1}), "Online by fiber; lte ready. IPv6 by fiber.", AllWell},
		"a policy without one":       {policy("default", nil), "Online by fiber; lte ready. IPv6 by fiber.", AllWell},
		"the file is not used":       {func(s *Status) { s.Config.Error = "x" }, "Online by fiber; lte ready. IPv6 by fiber. The configuration file has an error and is not used.", AllWell},
		"it has to be confirmed yet": {func(s *Status) { s.Config.ConfirmUntil = At(time.Unix(1, 0)) }, "Online by fiber; lte ready. IPv6 by fiber. The configuration is waiting for: uplinkd confirm.", AllWell},
	} {
		s := house()
		tt.change(s)
		if got := s.Summary(); got != tt.want {
			t.Errorf("%s: %q", name, got)
		}
		if got := s.Health(); got != tt.health {
			t.Errorf("%s: health %d", name, got)
		}
	}
}
