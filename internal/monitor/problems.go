package monitor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Problems lists what probing has found out besides an uplink's verdict.
func (m *Monitor) Problems() []rules.Problem {
	verdicts := m.PathVerdicts()
	slices.SortFunc(verdicts, func(a, b status.PathVerdict) int {
		return cmp.Or(cmp.Compare(a.Uplink, b.Uplink), cmp.Compare(a.Family, b.Family))
	})
	problems := slices.Concat(deadTargets(verdicts), silentTargets(verdicts), portals(verdicts))
	m.mu.Lock()
	defer m.mu.Unlock()
	problems = append(problems, blocked(m.paths, m.numbers)...)
	for _, family := range rules.Families {
		if outage, ok := m.correlation.outages[family]; ok {
			problems = append(problems, rules.Problem{Code: "common-cause", Severity: "error", Message: outageMessage(family, outage),
				Fix: "look for what the uplinks share: targets, an upstream provider, this machine's firewall"})
		}
	}
	return problems
}

// deadTargets names the targets that answer by no uplink while others do.
func deadTargets(verdicts []status.PathVerdict) []rules.Problem {
	var order []string
	dead := make(map[string][]string) // by target, the uplinks by which it is
	alive := make(map[string]bool)
	for _, p := range verdicts {
		for _, t := range p.Verdict.Targets {
			switch {
			case t.Dead:
				if len(dead[t.Target]) == 0 {
					order = append(order, t.Target)
				}
				dead[t.Target] = append(dead[t.Target], p.Uplink)
			case t.Up:
				alive[t.Target] = true
			}
		}
	}
	var problems []rules.Problem
	for _, target := range order {
		if !alive[target] {
			problems = append(problems, rules.Problem{Code: "dead-target", Severity: "warning",
				Message: fmt.Sprintf("target %s does not answer by %s, although others do: it is ignored until it answers", target, strings.Join(dead[target], ", ")),
				Fix:     "choose another target in [uplink.probe], unless the outage is known"})
		}
	}
	return problems
}

// silentTargets names the uplinks whose connections show that they work while none of their targets does.
func silentTargets(verdicts []status.PathVerdict) []rules.Problem {
	var problems []rules.Problem
	for _, p := range verdicts {
		if p.Verdict.State == uplink.Degraded && p.Verdict.Reason.Code == uplink.CodeConnected {
			problems = append(problems, rules.Problem{Code: "silent-targets", Severity: "warning",
				Message: fmt.Sprintf("no target of %s (%v) answers, but TCP connections by it make progress: new ones prefer other uplinks, and none is cut", p.Uplink, p.Family.Name()),
				Fix:     fmt.Sprintf("in [uplink.probe], choose targets that the provider of %s lets you reach, or ask what it filters", p.Uplink)})
		}
	}
	return problems
}

// portals names the uplinks where something else answers in the place of a target.
func portals(verdicts []status.PathVerdict) []rules.Problem {
	var problems []rules.Problem
	for _, p := range verdicts {
		if p.Verdict.Portal {
			problems = append(problems, rules.Problem{Code: "captive-portal", Severity: "warning",
				Message: fmt.Sprintf("a captive portal answers instead of the targets of %s (%v)", p.Uplink, p.Family.Name()),
				Fix:     "log in to that network from a host behind this router, or pay the provider"})
		}
	}
	return problems
}

// blocked names the paths whose probes this machine's packet filter refuses.
func blocked(ps paths, numbers rules.Kernel) []rules.Problem {
	var problems []rules.Problem
	for path, monitored := range ps {
		fault := monitored.Blocked()
		if fault == nil || !monitored.canProbe() {
			continue
		}
		p := rules.Problem{Code: "probe-blocked", Severity: "error",
			Message: fmt.Sprintf("this machine's firewall blocks outgoing probes of %s (%v), so its state is unknown", monitored.settings.name, path.Family.Name()),
			Fix:     fmt.Sprintf("allow them, for example: nft insert rule inet filter output meta mark and %#x == %#x accept", numbers.MarkMask, numbers.Mark(path.Uplink))}
		if errors.Is(fault, probe.ErrMark) {
			p.Fix = "run uplinkd with CAP_NET_ADMIN and CAP_NET_RAW"
		}
		problems = append(problems, p)
	}
	slices.SortFunc(problems, func(a, b rules.Problem) int { return cmp.Compare(a.Message, b.Message) })
	return problems
}
