package rules_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// TestSpeedAndLoadDecideAmongUplinksThatWork has two uplinks in the first tier, wan1 and wan2, and one in each of the next two.
func TestSpeedAndLoadDecideAmongUplinksThatWork(t *testing.T) {
	good := rules.Verdict{Health: rules.Good}
	slower := rules.Verdict{Health: rules.Good, Slower: true, RTT: 43 * time.Millisecond}
	fast := rules.Verdict{Health: rules.Good, RTT: 11200 * time.Microsecond}
	full := rules.Verdict{Health: rules.Good, Full: true}
	dead := rules.Verdict{Health: rules.Dead}
	impaired := rules.Verdict{Health: rules.Impaired, Full: true, Slower: true}
	for name, c := range map[string]struct {
		verdicts []rules.Verdict
		want     string
		code     rules.ChoiceCode
		reason   string
	}{
		"all are alike":                            {[]rules.Verdict{good, good, good, good}, "wan1 wan2", rules.ChoiceGood, "best working uplinks (tier 1)"},
		"one is slower":                            {[]rules.Verdict{fast, slower, good, good}, "wan1", rules.ChoiceFastest, "uses wan1: 11.2 ms, the fastest of tier 1 (wan2 43 ms)"},
		"the fast one is dead":                     {[]rules.Verdict{dead, slower, good, good}, "wan2", rules.ChoiceGood, "best working uplink (tier 1)"},
		"the slower one is dead":                   {[]rules.Verdict{fast, dead, good, good}, "wan1", rules.ChoiceGood, "best working uplink (tier 1)"},
		"one is full":                              {[]rules.Verdict{full, good, good, good}, "wan2", rules.ChoiceOverflow, "uses wan2: wan1 carries more than the overflow"},
		"the fast one is full":                     {[]rules.Verdict{full, slower, good, good}, "wan2", rules.ChoiceOverflow, "wan1 carries more"},
		"a tier is full":                           {[]rules.Verdict{full, full, good, good}, "wan1 wan2 wan3", rules.ChoiceOverflow, "uses wan1, wan2, wan3: wan1, wan2 carry more"},
		"one is dead and the other one full":       {[]rules.Verdict{full, dead, good, good}, "wan1 wan3", rules.ChoiceOverflow, "uses wan1, wan3: wan1 carries more"},
		"two tiers are full":                       {[]rules.Verdict{full, full, full, good}, "wan1 wan2 wan4", rules.ChoiceOverflow, "wan1, wan2, wan3 carry more"},
		"everything is full":                       {[]rules.Verdict{full, full, full, full}, "wan1 wan2", rules.ChoiceGood, "best working uplinks (tier 1)"},
		"the next tier is dead":                    {[]rules.Verdict{full, full, dead, good}, "wan1 wan2 wan4", rules.ChoiceOverflow, "wan1, wan2 carry more"},
		"the rest is dead":                         {[]rules.Verdict{full, full, dead, dead}, "wan1 wan2", rules.ChoiceGood, "best working uplinks (tier 1)"},
		"a later tier is full":                     {[]rules.Verdict{good, good, full, good}, "wan1 wan2", rules.ChoiceGood, "best working uplinks (tier 1)"},
		"where all lose packets none of it counts": {[]rules.Verdict{impaired, impaired, impaired, impaired}, "wan1 wan2", rules.ChoiceImpaired, "every uplink loses packets"},
	} {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1", "wan2", "wan3", "wan4")
			for i := range w.cfg.Uplinks {
				u := &w.cfg.Uplinks[i]
				u.Name, u.Tier = u.Device, max(1, i)
				w.hold(u.Device, fmt.Sprintf("198.51.100.%d/26", 64*i+2), fmt.Sprintf("2001:db8:%d::2/64", i+1))
				w.lead(u.Device, fmt.Sprintf("198.51.100.%d", 64*i+1), uint32(100+i))
				for _, f := range rules.Families {
					w.verdicts[rules.Path{Uplink: u.ID, Family: f}] = c.verdicts[i]
				}
			}
			// Policies have an order and weights of their own.
			w.cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{w.cfg.Uplinks[0].ID, w.cfg.Uplinks[1].ID}}}}
			w.cfg.Policies = []rules.Policy{{Name: "p", Group: 9, Select: rules.Selector{rules.SelectProtocols{6}}}}
			_, report := w.plan()
			choice := report.Defaults[rules.IPv4]
			var got []string
			for _, m := range choice.Members {
				got = append(got, fmt.Sprintf("wan%d", m.Uplink))
			}
			if strings.Join(got, " ") != c.want || choice.Code != c.code || !strings.Contains(choice.Reason, c.reason) {
				t.Errorf("%v, %s: %s; want %s, %s: %s", got, choice.Code, choice.Reason, c.want, c.code, c.reason)
			}
			alive := 0
			for _, v := range c.verdicts[:2] {
				if v.Health > rules.Dead {
					alive++
				}
			}
			if members := report.Policies[0].Choice[rules.IPv4].Members; len(members) != alive {
				t.Errorf("the policy has %v", members)
			}
		})
	}
}

// The kernel cannot share an IPv6 default without a gateway: a full line of that kind goes on alone, instead of leaving all to the next tier.
func TestALineThatCannotShareStaysWhileItIsFull(t *testing.T) {
	w := box(rules.Link{}, "wan1", "wan2")
	w.cfg.Uplinks[1].Tier = 2
	for i, device := range []string{"wan1", "wan2"} {
		w.hold(device, fmt.Sprintf("2001:db8:%d::2/64", i+1))
	}
	w.addForeignRoute(netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv6.Default(), Metric: 100, Protocol: protoDHCP, Nexthops: []netcfg.Nexthop{{Device: "wan1", Weight: 1}}})
	w.lead("wan2", "203.0.113.1", 200)
	w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Good, Full: true}
	_, report := w.plan()
	if c := report.Defaults[rules.IPv6]; len(c.Members) != 1 || !c.Has(1) || c.Code != rules.ChoiceGood {
		t.Errorf("%+v", c)
	}
}
