package status

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
)

func TestASwitchIsToldOnceWithWhatWasLeft(t *testing.T) {
	cfg := &rules.Config{Uplinks: []rules.Uplink{{ID: 1, Name: "fiber"}, {ID: 2, Name: "lte"}}}
	carried := func(ids ...int) *rules.Report {
		var choice rules.Choice
		for _, id := range ids {
			choice.Members = append(choice.Members, rules.Member{Uplink: id})
		}
		return &rules.Report{Defaults: map[rules.Family]rules.Choice{rules.IPv4: choice}}
	}
	var c Changes
	for _, step := range []struct {
		name   string
		report *rules.Report
		events []Event
		left   []rules.Path
	}{
		{"both", carried(1, 2), []Event{{Kind: EventSwitch, Family: "ipv4", To: "fiber,lte"}}, nil},
		{"the same", carried(1, 2), nil, nil},
		{"one is left", carried(2), []Event{{Kind: EventSwitch, Family: "ipv4", From: "fiber,lte", To: "lte"}}, []rules.Path{{Uplink: 1, Family: rules.IPv4}}},
		{"one that is not configured any more", carried(3), []Event{{Kind: EventSwitch, Family: "ipv4", From: "lte"}}, []rules.Path{{Uplink: 2, Family: rules.IPv4}}},
	} {
		events, left := c.Switches(cfg, step.report)
		if diff := cmp.Diff(step.events, events) + cmp.Diff(step.left, left); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

func TestAKillSwitchIsToldWhenItClosesAndOpens(t *testing.T) {
	cfg := &rules.Config{Groups: []rules.Group{{ID: 10, KillSwitch: true}, {ID: 11}}}
	open, closed := rules.Choice{Members: []rules.Member{{Uplink: 1}}}, rules.Choice{Reason: "closed: lte is down"}
	report := func(v4, v6 rules.Choice) *rules.Report {
		return &rules.Report{Policies: []rules.PolicyReport{{Name: "abroad", Group: 10, Choice: map[rules.Family]rules.Choice{rules.IPv4: v4, rules.IPv6: v6}},
			{Name: "mail", Group: 11, Choice: map[rules.Family]rules.Choice{rules.IPv4: closed}}}}
	}
	var c Changes
	for _, step := range []struct {
		name   string
		report *rules.Report
		want   []Event
	}{
		{"open from the start", report(open, open), nil},
		{"one family", report(closed, open), []Event{{Kind: EventKillSwitch, From: "open", To: "ipv4", Reason: "closed: lte is down", Message: "kill switch abroad refuses its traffic in ipv4"}}},
		{"both", report(closed, closed), []Event{{Kind: EventKillSwitch, From: "ipv4", To: "ipv4 and ipv6", Reason: "closed: lte is down", Message: "kill switch abroad refuses its traffic in ipv4 and ipv6"}}},
		{"the same", report(closed, closed), nil},
		{"open again", report(open, open), []Event{{Kind: EventKillSwitch, From: "ipv4 and ipv6", To: "open", Message: "kill switch abroad lets its traffic pass again"}}},
	} {
		if diff := cmp.Diff(step.want, c.KillSwitches(cfg, step.report)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}
