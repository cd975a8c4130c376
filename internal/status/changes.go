package status

import (
	"cmp"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
)

// Changes compares each plan with the one before it. The zero value has seen none.
type Changes struct {
	carried map[rules.Family]rules.Choice // who carries new traffic
	closed  map[string]string             // by the name of a policy that is a kill switch, the families that it refuses
}

// Switches returns an event for each family in which new traffic takes other uplinks now, and the paths that it takes no more.
func (c *Changes) Switches(cfg *rules.Config, report *rules.Report) (events []Event, left []rules.Path) {
	if c.carried == nil {
		c.carried = make(map[rules.Family]rules.Choice)
	}
	for _, family := range rules.Families {
		choice, before := report.Defaults[family], c.carried[family]
		c.carried[family] = choice
		if before.Code == choice.Code && slices.EqualFunc(before.Members, choice.Members, func(a, b rules.Member) bool { return a.Uplink == b.Uplink }) {
			continue
		}
		events = append(events, Event{Kind: EventSwitch, Family: family.String(), Code: string(choice.Code), Reason: choice.Reason,
			From: memberNames(cfg, before), To: memberNames(cfg, choice)})
		for _, m := range before.Members {
			if !choice.Has(m.Uplink) {
				left = append(left, rules.Path{Uplink: m.Uplink, Family: family})
			}
		}
	}
	return events, left
}

// memberNames lists the uplinks of a choice, separated by commas; one that has left the configuration since is not among them.
func memberNames(c *rules.Config, choice rules.Choice) string {
	var names []string
	for _, m := range choice.Members {
		if i := slices.IndexFunc(c.Uplinks, func(u rules.Uplink) bool { return u.ID == m.Uplink }); i >= 0 {
			names = append(names, c.Uplinks[i].Name)
		}
	}
	return strings.Join(names, ",")
}

// KillSwitches returns an event for each kill switch that refuses its traffic now, or does so no longer, in any family.
func (c *Changes) KillSwitches(cfg *rules.Config, report *rules.Report) (events []Event) {
	now := make(map[string]string, len(c.closed))
	for _, p := range report.Policies {
		at := slices.IndexFunc(cfg.Groups, func(g rules.Group) bool { return g.ID == p.Group })
		if at < 0 || !cfg.Groups[at].KillSwitch {
			continue
		}
		var closed, why []string
		for _, f := range rules.Families {
			if choice, about := p.Choice[f]; about && len(choice.Members) == 0 {
				closed, why = append(closed, f.String()), append(why, choice.Reason)
			}
		}
		now[p.Name] = strings.Join(closed, " and ")
		if before, known := c.closed[p.Name]; before != now[p.Name] && (known || len(closed) > 0) {
			e := Event{Kind: EventKillSwitch, From: cmp.Or(before, "open"), To: cmp.Or(now[p.Name], "open")}
			if e.Message = "kill switch " + p.Name + " lets its traffic pass again"; len(closed) > 0 {
				e.Message = "kill switch " + p.Name + " refuses its traffic in " + now[p.Name]
				e.Reason = why[0]
			}
			events = append(events, e)
		}
	}
	c.closed = now
	return events
}
