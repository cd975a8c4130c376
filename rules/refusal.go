package rules

import (
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// dropRefused leaves parameters alone that cannot be set, and names them: a container's /proc/sys is read-only, and all
// else works there.
func (p *planner) dropRefused() {
	p.state.Sysctls = slices.DeleteFunc(p.state.Sysctls, func(s netcfg.Sysctl) bool {
		why, refused := p.obs.RefusedSysctls[s.Name]
		if !refused || p.obs.Sysctls[s.Name] == s.Value {
			return false
		}
		p.problem("sysctl-refused", "warning", fmt.Sprintf("%s cannot be set to %s: %s (%s)", s.Name, s.Value, why, s.Why),
			fmt.Sprintf("let uplinkd write to /proc/sys, or set it from outside the container: sysctl -w %s=%s", s.Name, s.Value))
		return true
	})
}

// needTables wants no tables where the kernel has no nftables, or would not show it: routes and rules alone still lead
// every packet to some uplink.
func (p *planner) needTables() {
	if p.obs.NoTables == "" {
		return
	}
	p.state.Table, p.state.Policies = nil, nil
	p.problem("no-nftables", "error", "nftables cannot be read, so nothing is masqueraded, filtered or kept on its uplink: "+p.obs.NoTables,
		"run uplinkd as root; modprobe nf_tables, or use a kernel that has it (uplinkd doctor lists what else is missing)")
}
