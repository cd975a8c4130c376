package status

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/uplink"
)

// Planned is what a status takes from a configuration and its latest plan, which lacks what a reload has just brought.
type Planned struct {
	Config *config.Config
	IDs    map[string]int // of uplinks and of groups of policies
	Plan   *rules.Config
	Report *rules.Report
}

// Uplinks lists those of the configuration in its order, without what engines know of them, then those that are not enabled, and those that
// the other router of a pair has.
func (p Planned) Uplinks() []Uplink {
	list := make([]Uplink, 0, len(p.Config.Uplinks)+len(p.Config.Disabled.Uplinks)+len(p.Config.Waiting))
	sites := make(map[int]bool)
	for i := range p.Plan.Uplinks {
		sites[p.Plan.Uplinks[i].ID] = p.Plan.Uplinks[i].Site
	}
	for i := range p.Config.Uplinks {
		u := &p.Config.Uplinks[i]
		id := p.IDs[u.Name]
		s := p.routed(u)
		s.Default, s.QuotaBytes, s.CarriedBy = u.Default && !sites[id], u.Quota, p.carriers(u)
		for _, f := range rules.Families {
			info := p.Report.Paths[rules.Path{Uplink: id, Family: f}]
			s.MTU = max(s.MTU, info.DeviceMTU)
			if u.HardwareAddress != [6]byte{} && info.DeviceHardware != [6]byte{} {
				s.HardwareAddress = info.DeviceHardware.String()
			}
		}
		list = append(list, s)
	}
	for i := range p.Config.Disabled.Uplinks {
		s := configured(&p.Config.Disabled.Uplinks[i])
		s.IPv4 = FamilyStatus{State: uplink.Disabled, Code: uplink.CodeOff, Reason: "enabled = false"}
		s.IPv6 = s.IPv4
		list = append(list, s)
	}
	for i := range p.Config.Waiting {
		s := p.routed(&p.Config.Waiting[i])
		s.IPv4 = FamilyStatus{State: uplink.Disabled, Code: uplink.CodeElsewhere, Reason: "the other router of the pair has it"}
		s.IPv6 = s.IPv4
		list = append(list, s)
	}
	return list
}

func configured(u *config.Uplink) Uplink {
	return Uplink{Name: u.Name, Kind: u.Kind, Device: u.Device, Tier: u.Tier, Weight: u.Weight, Metered: u.Metered, Failback: string(u.Failback)}
}

// routed is an uplink that has a table and a mark.
func (p Planned) routed(u *config.Uplink) Uplink {
	s, numbers := configured(u), planinput.KernelNumbers(p.Config.Kernel)
	s.Table, s.Mark = int(numbers.Table(p.IDs[u.Name])), Mark(numbers.Mark(p.IDs[u.Name]))
	return s
}

// carriers lists what carries an uplink now: its carrier, then the carrier's own, and so on.
func (p Planned) carriers(u *config.Uplink) []string {
	var names []string
	for u != nil && len(names) < len(p.Config.Uplinks) {
		next := u.Over
		if next == "" {
			id := 0
			for _, f := range rules.Families {
				if id == 0 {
					id = p.Report.Carrier(p.IDs[u.Name], f)
				}
			}
			for name, known := range p.IDs {
				if known == id && id != 0 {
					next = name
				}
			}
		}
		i := slices.IndexFunc(p.Config.Uplinks, func(o config.Uplink) bool { return o.Name == next })
		if i < 0 {
			break
		}
		u = &p.Config.Uplinks[i]
		names = append(names, u.Name)
	}
	return names
}

// ExplainLack adds to the reasons of an uplink that lacks its device or its default route what an owner can do about it. Routerless is true
// where the DHCP lease names no router, translates where the translator of a line without IPv4 runs.
func (p Planned) ExplainLack(s *Uplink, u *config.Uplink, routerless, translates bool) {
	for _, of := range []*FamilyStatus{&s.IPv4, &s.IPv6} {
		switch {
		case of == &s.IPv4 && u.IPv4.Method == config.MethodCLAT:
			if of.Code == uplink.CodeNoDevice && !translates {
				of.Reason = "the translator, tayga, does not run"
			}
		case of.Code == uplink.CodeNoDevice:
			of.Reason = config.NoDevice(u.Device, config.DeviceList(config.PresentDevices()))
		case of.Code != uplink.CodeNoGateway || of != &s.IPv4:
		case routerless:
			of.Reason += `: the DHCP lease names no router; if you know it, method = "static" with address and gateway`
		case u.IPv4.Method == config.MethodAuto && slices.ContainsFunc(p.Report.Problems, func(p rules.Problem) bool { return p.Code == "default-lost" }):
			of.Reason += `: give it its own metric, or method = "dhcp"`
		case u.IPv4.Method == config.MethodAuto:
			of.Reason += `: method = "dhcp", or a default route with its own metric`
		}
	}
}

// Policies tells of each policy who carries its traffic.
func (p Planned) Policies() []json.RawMessage {
	names := make(map[int]string, len(p.Config.Uplinks))
	for i := range p.Config.Uplinks {
		names[p.IDs[p.Config.Uplinks[i].Name]] = p.Config.Uplinks[i].Name
	}
	numbers := planinput.KernelNumbers(p.Config.Kernel)
	tables := map[config.LeftTo]int{config.LeftToMain: int(netcfg.TableMain), config.LeftToDefault: int(numbers.TableBase)}
	reports := make(map[string]*rules.PolicyReport, len(p.Report.Policies))
	for i := range p.Report.Policies {
		reports[p.Report.Policies[i].Name] = &p.Report.Policies[i]
	}
	var list []json.RawMessage
	for i := range p.Config.Policies {
		policy := &p.Config.Policies[i]
		s := Policy{Name: policy.Name, Enabled: true, Fallback: string(policy.Fallback), Table: int(numbers.Table(p.IDs[policy.Group()]))}
		if policy.LeftTo != config.LeftToNobody {
			s.Table = tables[policy.LeftTo]
		}
		if r := reports[policy.Name]; r != nil {
			s.Compiled = r.Reason
			s.IPv4, s.IPv6 = policyFamily(r, rules.IPv4, names), policyFamily(r, rules.IPv6, names)
		}
		list = append(list, s.Raw())
	}
	for i := range p.Config.Disabled.Policies {
		policy := &p.Config.Disabled.Policies[i]
		list = append(list, Policy{Name: policy.Name, Fallback: string(policy.Fallback), Compiled: "nothing: it is not enabled"}.Raw())
	}
	return list
}

func policyFamily(r *rules.PolicyReport, family rules.Family, names map[int]string) PolicyFamily {
	choice, applies := r.Choice[family]
	s := PolicyFamily{Applies: applies, Reason: choice.Reason, Shares: make(map[string]float64, len(choice.Members))}
	for _, m := range choice.Members {
		s.Shares[names[m.Uplink]] = m.Share
	}
	return s
}

// Forwards tells of each forwarded port where it leads.
func (p Planned) Forwards() (list []Forward) {
	for i := range p.Config.Forwards {
		f := &p.Config.Forwards[i]
		s := Forward{Name: f.Name, Port: portRange(f.Ports), ToPort: f.ToPort, LAN: f.LAN, Uplinks: f.Uplinks}
		for _, protocol := range f.Protocols {
			s.Protocols = append(s.Protocols, protocolNames[protocol])
		}
		if at := slices.IndexFunc(p.Report.Forwards, func(r rules.ForwardReport) bool { return r.Name == f.Name }); at >= 0 {
			s.To4, s.To6 = p.Report.Forwards[at].To[rules.IPv4], p.Report.Forwards[at].To[rules.IPv6]
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
