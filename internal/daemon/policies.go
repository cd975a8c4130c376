package daemon

import (
	"encoding/json"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// policyStatus tells of each policy who carries its traffic.
func policyStatus(c *config.Config, ids map[string]int, report *rules.Report) []json.RawMessage {
	names := make(map[int]string, len(c.Uplinks))
	for i := range c.Uplinks {
		names[ids[c.Uplinks[i].Name]] = c.Uplinks[i].Name
	}
	numbers := planinput.KernelNumbers(c.Kernel)
	tables := map[config.LeftTo]int{config.LeftToMain: int(netcfg.TableMain), config.LeftToDefault: int(numbers.TableBase)}
	reports := make(map[string]*rules.PolicyReport, len(report.Policies))
	for i := range report.Policies {
		reports[report.Policies[i].Name] = &report.Policies[i]
	}
	var list []json.RawMessage
	for i := range c.Policies {
		p := &c.Policies[i]
		s := status.Policy{Name: p.Name, Enabled: true, Fallback: string(p.Fallback), Table: int(numbers.Table(ids[p.Group()]))}
		if p.LeftTo != config.LeftToNobody {
			s.Table = tables[p.LeftTo]
		}
		if r := reports[p.Name]; r != nil { // not yet, right after a reload
			s.Compiled = r.Reason
			s.IPv4, s.IPv6 = policyFamily(r, rules.IPv4, names), policyFamily(r, rules.IPv6, names)
		}
		list = append(list, s.Raw())
	}
	for i := range c.Disabled.Policies {
		p := &c.Disabled.Policies[i]
		list = append(list, status.Policy{Name: p.Name, Fallback: string(p.Fallback), Compiled: "nothing: it is not enabled"}.Raw())
	}
	return list
}

func policyFamily(r *rules.PolicyReport, family rules.Family, names map[int]string) status.PolicyFamily {
	choice, applies := r.Choice[family]
	s := status.PolicyFamily{Applies: applies, Reason: choice.Reason, Shares: make(map[string]float64, len(choice.Members))}
	for _, m := range choice.Members {
		s.Shares[names[m.Uplink]] = m.Share
	}
	return s
}
