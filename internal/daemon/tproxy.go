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
		becomes := "goes on without it (on_failure = \"bypass\")"
		if last.Reject {
			becomes = "is refused (on_failure = \"reject\")"
		}
		problems = append(problems, rules.Problem{Code: "proxy-down", Severity: "error",
			Message: fmt.Sprintf("nobody listens at transparent proxy %s, port %d, for %s: what is new of that %s", last.Name, last.Port, strings.Join(idle, ", "), becomes),
			Fix:     fmt.Sprintf("start the program, with IP_TRANSPARENT and bound to no address: ss -lntup 'sport = :%d'", last.Port)})
		idle = nil
	}
	for _, p := range report.Proxies {
		if p.TProxy != last {
			addProblem()
			last = p.TProxy
		}
		if ok, err := listens(p); err == nil && !ok {
			idle = append(idle, map[uint8]string{6: "tcp", 17: "udp"}[p.Protocol]+" of "+p.Family.String())
		}
	}
	addProblem()
	return problems
}
