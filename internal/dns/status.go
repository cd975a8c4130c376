package dns

import (
	"errors"
	"fmt"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Status tells of the servers of all uplinks, and of who is told of them.
func (e *Engine) Status() status.DNS {
	e.mu.Lock()
	var s status.DNS
	for _, server := range e.servers() {
		h := e.health[server.key()]
		r := status.Resolver{Uplink: server.uplink, Address: server.Addr.String(), Source: string(e.sources[server.key()]), State: string(server.state), Path: string(server.Code)}
		if server.state != Unasked {
			r.Since, r.RTTms = status.At(h.since), status.Milliseconds(h.rtt)
		}
		for i := range e.chosen {
			r.Used = r.Used || e.chosen[i].key() == server.key()
		}
		s.Resolvers = append(s.Resolvers, r)
	}
	e.mu.Unlock()
	for _, w := range e.workers {
		w.mu.Lock()
		if w.on {
			o := status.DNSOutput{Output: w.name, Told: status.At(w.told)}
			if w.err != nil {
				o.Error = w.err.Error()
			}
			s.Outputs = append(s.Outputs, o)
		}
		w.mu.Unlock()
	}
	return s
}

// Problems names the servers that are no good while their uplinks work, and outputs that cannot be told.
func (e *Engine) Problems() []rules.Problem {
	e.mu.Lock()
	var problems []rules.Problem
	for _, server := range e.servers() {
		_, works := e.paths[rules.Path{Uplink: server.Uplink, Family: server.Family()}]
		if h := e.health[server.key()]; server.state.bad() && works {
			becomes := "it is skipped"
			for i := range e.chosen {
				if e.chosen[i].key() == server.key() {
					becomes = "it is still used, because no other is better"
				}
			}
			problems = append(problems, rules.Problem{Code: "resolver-" + string(server.state), Severity: "warning",
				Message: fmt.Sprintf("DNS server %v of %s %s: %s (%s)", server.Addr, server.uplink, sentence(server.state), becomes, h.detail),
				Fix:     fmt.Sprintf("ask the provider, or set others: [uplink.dns] servers of %s", server.uplink)})
		}
	}
	if e.wanted && e.lacking {
		problems = append(problems, rules.Problem{Code: "no-resolver", Severity: "warning",
			Message: "no uplink has a known DNS server: the outputs of [dns] are left unchanged",
			Fix:     "set some: [uplink.dns] servers, or find out why the provider sends none"})
	}
	if e.setsErr != nil {
		fix := "write conf-file=PATH with that file into dnsmasq's configuration, and restart dnsmasq"
		if errors.Is(e.setsErr, errBeforeSets) {
			fix = "restart dnsmasq: systemctl restart dnsmasq, or /etc/init.d/dnsmasq restart"
		}
		problems = append(problems, rules.Problem{Code: "dnsmasq-sets", Severity: "error", Message: "dnsmasq does not fill sets: " + e.setsErr.Error(), Fix: fix})
	}
	e.mu.Unlock()
	for _, w := range e.workers {
		w.mu.Lock()
		if w.on && w.err != nil {
			problems = append(problems, rules.Problem{Code: "dns-output", Severity: "error", Message: fmt.Sprintf("cannot pass DNS servers to %s: %v", w.name, w.err), Fix: fixes[w.name]})
		}
		w.mu.Unlock()
	}
	return problems
}

// fixes says what to do about an output that cannot be told.
var fixes = map[string]string{
	"resolv_conf": "make the directory writable for uplinkd, or choose another path",
	"dnsmasq":     "write servers-file=PATH with that file into dnsmasq's configuration, and start dnsmasq",
	"unbound":     "enable unbound-control (remote-control: control-enable: yes)",
	"resolved":    "start systemd-resolved, or take resolved out of [dns]",
}
