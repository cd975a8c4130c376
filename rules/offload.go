package rules

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// prioOffload is behind everybody's packet filter: what one of them drops is carried by no flowtable.
const prioOffload = 300

// offload has a flowtable carry what is established between a LAN and an uplink, past all further chains
// (Documentation/networking/nf_flowtable.rst). What is not pinned is none of ours. The entries of connections that have to move are
// deleted like those of others; what leaves by a device is looked at by its egress filter as before.
func (p *planner) offload(t *nft.Table) {
	if !p.cfg.Offload {
		return
	}
	if p.obs.NoOffload != "" {
		p.problem("no-offload", "warning", "offload = true has no effect: "+p.obs.NoOffload,
			"use a kernel with CONFIG_NF_FLOW_TABLE and CONFIG_NFT_FLOW_OFFLOAD (modules nf_flow_table_inet, nft_flow_offload) and start uplinkd again; or remove offload from [kernel]")
		return
	}
	if t.Flowtable = p.offloadingDevices(); len(t.Flowtable) == 0 {
		return
	}
	c := nft.Chain{Name: "offload", Type: "filter", Hook: "forward", Priority: prioOffload}
	c.Add("established and pinned", nft.Pinned{Mask: p.k.MarkMask}, nft.Established{}, nft.Protocols{List: []uint8{protocolTCP, protocolUDP}}, nft.Offload{})
	t.Chains = append(t.Chains, c)
}

// offloadingDevices are those of uplinks and of local networks that are there, sorted.
func (p *planner) offloadingDevices() []string {
	var devices []string
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; !u.Site {
			devices = append(devices, u.Device)
		}
	}
	for _, a := range p.obs.Addrs {
		if p.isLocal(a.Device, a.Prefix) {
			devices = append(devices, a.Device)
		}
	}
	slices.Sort(devices)
	return slices.DeleteFunc(slices.Compact(devices), func(device string) bool {
		_, there := p.obs.Link(device)
		return !there || p.obs.foreseen[device]
	})
}
