package daemon

import (
	"fmt"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
)

// idleProxies names the transparent proxies that nobody listens at, and says what becomes of their traffic. The
// kernel does that by itself, so this is found out only for those who ask.
func idleProxies(report *rules.Report, listens func(rules.ProxyListener) (bool, error)) []rules.Problem {
	var problems []rules.Problem
	var last *rules.TProxy
	var idle []string // of the last one
	addProblem := func() {
		if len(idle) == 0 {
			return
		}
		becomes := "bypass it (on_failure = \"bypass\")"
		if last.Reject {
			becomes = "are rejected (on_failure = \"reject\")"
		}
		problems = append(problems, rules.Problem{Code: "proxy-down", Severity: "error",
			Message: fmt.Sprintf("nothing listens on port %[2]d for transparent proxy %[1]s (%[3]s): its new connections %[4]s", last.Name, last.Port, strings.Join(idle, ", "), becomes),
			Fix:     fmt.Sprintf("start the program, with IP_TRANSPARENT and not bound to a single address; check with: ss -lntup 'sport = :%d'", last.Port)})
		idle = nil
	}
	for _, p := range report.Proxies {
		if p.TProxy != last {
			addProblem()
			last = p.TProxy
		}
		if ok, err := listens(p); err == nil && !ok {
			idle = append(idle, protocolNames[p.Protocol]+" of "+p.Family.String())
		}
	}
	addProblem()
	return problems
}
