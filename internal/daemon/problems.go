package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/rules"
)

// problems lists what probing has found out that is not an uplink's verdict.
func (j *judge) problems() []rules.Problem {
	verdicts := j.verdicts()
	slices.SortFunc(verdicts, func(a, b api.PathVerdict) int {
		return cmp.Or(cmp.Compare(a.Uplink, b.Uplink), cmp.Compare(a.Family, b.Family))
	})
	problems := deadTargets(verdicts)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, family := range rules.Families {
		if cause, ok := j.causes[family]; ok {
			problems = append(problems, rules.Problem{Code: "common-cause", Severity: "error", Message: commonCause(family, cause),
				Fix: "look for what the uplinks have in common: the targets, a provider behind both, a firewall of this machine"})
		}
	}
	return problems
}

// deadTargets names the targets that answer by no uplink while others do.
func deadTargets(verdicts []api.PathVerdict) []rules.Problem {
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
				Message: fmt.Sprintf("target %s does not answer while others do, by %s: it has no vote until it does", target, strings.Join(dead[target], ", ")),
				Fix:     "choose another target in [uplink.probe], unless it is known to come back"})
		}
	}
	return problems
}
