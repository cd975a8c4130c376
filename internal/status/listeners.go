package status

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
)

// protocolNames are those of protocols that have forwards and proxies.
var protocolNames = map[uint8]string{6: "tcp", 17: "udp"}

// firstEphemeral begins the ports that sockets which call others have by default (Documentation/networking/ip-sysctl.rst ip_local_port_range): one
// of UDP there is hardly a service.
const firstEphemeral = 32768

// HiddenListeners names the programs of this machine that forwarded ports take calls away from.
func HiddenListeners(report *rules.Report, listening func(rules.Family, uint8) ([]netip.AddrPort, error)) []rules.Problem {
	var problems []rules.Problem
	for i := range report.Forwards {
		f := &report.Forwards[i]
		for _, protocol := range f.Protocols {
			port, found := uint16(0), false
			for family := range f.To {
				sockets, _ := listening(family, protocol) // without them nothing is known
				for _, s := range sockets {
					serves := protocol != 17 || s.Port() < firstEphemeral || f.Ports.First == f.Ports.Last
					if f.Ports.Has(s.Port()) && serves && (s.Addr().IsUnspecified() || report.HasAddress(family, s.Addr())) && (!found || s.Port() < port) {
						port, found = s.Port(), true
					}
				}
			}
			if found {
				problems = append(problems, rules.Problem{Code: "forward-listener", Severity: "notice",
					Message: fmt.Sprintf("a program of this machine listens on %s port %d, which forward %s leads to %s: who calls an uplink's address reaches the host, not the program", protocolNames[protocol], port, f.Name, f.Device),
					Fix:     fmt.Sprintf("nothing, if the program is for the LAN; otherwise another port for one of them; ss -lntup 'sport = :%d' names the program", port)})
			}
		}
	}
	return problems
}

// IdleProxies names the transparent proxies that nobody listens at, and says what becomes of their traffic. The
// kernel does that by itself, so this is found out only for those who ask.
func IdleProxies(report *rules.Report, listens func(rules.ProxyListener) (bool, error)) []rules.Problem {
	var problems []rules.Problem
	for i := 0; i < len(report.Proxies); {
		proxy := report.Proxies[i].TProxy
		var idle []string
		for ; i < len(report.Proxies) && report.Proxies[i].TProxy == proxy; i++ {
			p := report.Proxies[i]
			if ok, err := listens(p); err == nil && !ok {
				idle = append(idle, protocolNames[p.Protocol]+" of "+p.Family.String())
			}
		}
		if len(idle) == 0 {
			continue
		}
		becomes := "bypass it (on_failure = \"bypass\")"
		if proxy.Reject {
			becomes = "are rejected (on_failure = \"reject\")"
		}
		problems = append(problems, rules.Problem{Code: "proxy-down", Severity: "error",
			Message: fmt.Sprintf("nothing listens on port %d for transparent proxy %s (%s): its new connections %s", proxy.Port, proxy.Name, strings.Join(idle, ", "), becomes),
			Fix:     fmt.Sprintf("start the program, with IP_TRANSPARENT and not bound to a single address; check with: ss -lntup 'sport = :%d'", proxy.Port)})
	}
	return problems
}
