package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func codes(report rules.Report) []string {
	var list []string
	for _, p := range report.Problems {
		list = append(list, p.Code)
	}
	return list
}

func TestARouteOfOthersInOurTableIsReportedAndKept(t *testing.T) {
	w := dual()
	theirs := static("0.0.0.0/0", "lan0", lanHost(1, rules.IPv4, 2), 0)
	theirs.Table = numbers.Table(1)
	w.addForeignRoute(theirs)
	_, report := w.round(t)
	if got := codes(report); !slices.Equal(got, []string{"foreign-route"}) {
		t.Errorf("problems: %q", got)
	}
	if !slices.ContainsFunc(w.obs.Routes, theirs.Equal) {
		t.Errorf("%s is gone", theirs)
	}
}

// Rules as Tailscale, wg-quick, Docker and mwan3 make them, and how they get along with ours.
func TestRulesOfOthersAreReportedWhereTheyGetInTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		rule netcfg.Rule
		want []string
	}{
		"tailscale":               {netcfg.Rule{Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Table: netcfg.TableMain}, nil},
		"wg-quick, behind us":     {netcfg.Rule{Priority: 32764, Mark: 0xca6c, Mask: 0xffffffff, Table: 51820, Selectors: netcfg.RuleSelectors{Not: true}}, []string{"foreign-default"}},
		"wg-quick, before us":     {netcfg.Rule{Priority: 9000, Mark: 0xca6c, Mask: 0xffffffff, Table: 51820, Selectors: netcfg.RuleSelectors{Not: true}}, []string{"foreign-full-tunnel"}},
		"some traffic, behind us": {netcfg.Rule{Priority: 32765, Table: 10086, Selectors: netcfg.RuleSelectors{Protocol: 6}}, []string{"foreign-rule-behind"}},
		"a protocol, before us":   {netcfg.Rule{Priority: 9999, Table: 10086, Selectors: netcfg.RuleSelectors{Protocol: 6}}, []string{"foreign-rule-before"}},
		"a port, before us":       {netcfg.Rule{Priority: 9999, Table: 10086, Selectors: netcfg.RuleSelectors{Protocol: 6, DPort: netcfg.Ports{First: 25, Last: 25}}}, nil},
		"docker swarm":            {netcfg.Rule{Priority: 100, Mark: 0x1, Mask: 0xffffffff, Table: 2}, nil},
		"mwan3":                   {netcfg.Rule{Priority: 2001, Mark: 0x100, Mask: 0x3f00, Table: 1}, nil},
		"a mark of our bits":      {netcfg.Rule{Priority: 99, Mark: 0x01000000, Mask: 0xff000000, Table: 7}, []string{"foreign-mark"}},
		"a whole mark with ours":  {netcfg.Rule{Priority: 99, Mark: 0x01000001, Mask: 0xffffffff, Table: 7}, []string{"foreign-mark"}},
		"a preference among ours": {netcfg.Rule{Priority: 10400, Table: 7}, []string{"foreign-rule"}},
		"one just before ours":    {netcfg.Rule{Priority: 9999, Table: 7}, nil},
		"one just behind ours":    {netcfg.Rule{Priority: 10901, Table: 7}, []string{"foreign-default"}},
		"all but a port, before":  {netcfg.Rule{Priority: 9000, Mark: 0xca6c, Mask: 0xffffffff, Table: 51820, Selectors: netcfg.RuleSelectors{Not: true, DPort: netcfg.Ports{First: 22, Last: 22}}}, []string{"foreign-full-tunnel"}},
		"a port, behind us":       {netcfg.Rule{Priority: 32765, Table: 10086, Selectors: netcfg.RuleSelectors{DPort: netcfg.Ports{First: 5060, Last: 5061}}}, []string{"foreign-rule-behind"}},
		"a TOS, behind us":        {netcfg.Rule{Priority: 32000, Table: 200, Selectors: netcfg.RuleSelectors{TOS: 0x10}}, []string{"foreign-rule-behind"}},
		"unknown, behind us":      {netcfg.Rule{Priority: 32000, Table: 200, Selectors: netcfg.RuleSelectors{Unknown: true}}, []string{"foreign-rule-behind"}},
		"a host, behind us":       {netcfg.Rule{Priority: 20000, From: netip.MustParsePrefix("192.0.2.7/32"), Table: 100}, []string{"foreign-rule-behind"}},
		"the default table":       {netcfg.Rule{Priority: 32767, Table: 253}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			c.rule.Family, c.rule.SuppressPrefixLen, c.rule.SuppressGroup = rules.IPv4, -1, -1
			_ = w.addRule(c.rule)
			_, report := w.converge(t)
			if got := codes(report); !slices.Equal(got, c.want) {
				t.Errorf("problems: %q, want %q", got, c.want)
			}
			if !slices.Contains(w.obs.Rules, c.rule) {
				t.Error("the rule is gone")
			}
		})
	}
}

func TestADeviceThatOthersPutIntoOurGroupIsReportedAndKept(t *testing.T) {
	for _, device := range []string{"lan0", "dmz0"} {
		w := dual()
		w.plug(rules.Link{Name: "dmz0", Up: true, Carrier: true})
		_ = w.changeLink(device, func(l *rules.Link) { l.Group = numbers.LinkGroup })
		_, report := w.converge(t)
		if got := codes(report); !slices.Equal(got, []string{"foreign-link-group"}) {
			t.Errorf("%s: problems: %q", device, got)
		}
		if link, _ := w.obs.Link(device); link.Group != numbers.LinkGroup {
			t.Errorf("%s is in group %d", device, link.Group)
		}
	}
}

// The kernel shares an IPv6 default among gateways only. A point-to-point device can be given a made-up
// one; behind an Ethernet somebody would have to answer for it.
func TestAnIPv6DefaultWithoutGatewayIsNotSharedOnEthernet(t *testing.T) {
	for _, c := range []struct {
		name     string
		pointTo  bool
		members  int
		problems []string
	}{
		{"ethernet", false, 1, []string{"cannot-share", "cannot-share"}},
		{"point-to-point", true, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := box(rules.Link{PointToPoint: c.pointTo}, "wan1", "wan2")
			for _, device := range []string{"wan1", "wan2"} {
				w.addForeignRoute(static("::/0", device, netip.Addr{}, 1024))
			}
			_, report := w.converge(t)
			choice := report.Defaults[rules.IPv6]
			if len(choice.Members) != c.members || !choice.Has(1) {
				t.Errorf("chosen: %+v", choice)
			}
			if got := codes(report); !slices.Equal(got, c.problems) {
				t.Errorf("problems: %q, want %q", got, c.problems)
			}
			if got := devices(w.lookup(query{dst: internet[rules.IPv6], iif: "lo"})); got != devices(memberWays(w, rules.IPv6, choice)) {
				t.Errorf("new traffic leaves by %q", got)
			}
		})
	}
}

// A default outlives the subnet that its gateway was in. Were it copied as it is, the kernel would refuse
// the default that the healthy uplink shares with it.
func TestAGatewayThatHasMovedAwayDoesNotSpoilTheSharedDefault(t *testing.T) {
	w := dual()
	w.hold("wan1", "198.51.100.130/26")
	if err := w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26")); err != nil {
		t.Fatal(err)
	}
	_, report := w.converge(t)
	if info := report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}]; !info.HasDefault || !info.Onlink {
		t.Errorf("facts: %+v", info)
	}
	if got := devices(w.lookup(query{dst: internet[rules.IPv4], iif: "lo"})); got != "wan1 wan2" {
		t.Errorf("new traffic leaves by %q", got)
	}
}

// A static route outlives the address that its gateway was reached from. In the uplink's table it would be
// refused as it is, and every later change with it.
func TestAStaticRouteByAGatewayThatHasMovedAwayDoesNotStopThePlan(t *testing.T) {
	w := dual()
	w.addForeignRoute(static("192.0.2.64/26", "wan1", netip.MustParseAddr("198.51.100.1"), 5))
	w.hold("wan1", "198.51.100.130/26")
	if err := w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26")); err != nil {
		t.Fatal(err)
	}
	w.converge(t)
	want, _ := w.plan()
	if !slices.ContainsFunc(want.Routes, func(r netcfg.Route) bool {
		return r.Table == numbers.Table(1) && r.Dst == netip.MustParsePrefix("192.0.2.64/26") && r.Nexthops[0].Onlink
	}) {
		t.Errorf("the static route is not in the uplink's table: %v", want.Routes)
	}
}
