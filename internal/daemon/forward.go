package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// protocolNames are those of protocols that have forwards and proxies.
var protocolNames = map[uint8]string{6: "tcp", 17: "udp"}

// forwardStatus tells of each forwarded port where it leads.
func forwardStatus(c *config.Config, report *rules.Report) (list []status.Forward) {
	for i := range c.Forwards {
		f := &c.Forwards[i]
		s := status.Forward{Name: f.Name, Port: portRange(f.Ports), ToPort: f.ToPort, LAN: f.LAN, Uplinks: f.Uplinks}
		for _, p := range f.Protocols {
			s.Protocols = append(s.Protocols, protocolNames[p])
		}
		if at := slices.IndexFunc(report.Forwards, func(r rules.ForwardReport) bool { return r.Name == f.Name }); at >= 0 { // not yet, right after a reload
			s.To4, s.To6 = report.Forwards[at].To[rules.IPv4], report.Forwards[at].To[rules.IPv6]
		}
		list = append(list, s)
	}
	return list
}

func portRange(r config.Range) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// firstEphemeral begins the ports that sockets which call others have by default (Documentation/networking/ip-sysctl.rst ip_local_port_range): one
// of UDP there is hardly a service.
const firstEphemeral = 32768

// hiddenListeners names the programs of this machine that forwarded ports take calls away from.
func hiddenListeners(report *rules.Report, listening func(rules.Family, uint8) ([]netip.AddrPort, error)) []rules.Problem {
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
