package rules

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectDevices is about the devices that packets come in by; "lan*" is for all whose names begin so.
type SelectDevices []string

// Key is iif.
func (SelectDevices) Key() string    { return "iif" }
func (SelectDevices) about() packets { return allPackets &^ packetsLocal }

func (d SelectDevices) inRules(Family) ruleForm {
	if slices.ContainsFunc(d, isPattern) {
		return ruleForm{cannot: "rules know no patterns of device names"}
	}
	return each(d, false, func(r *netcfg.Rule, device string) { r.IIF = device })
}

// A set holds no patterns.
func (d SelectDevices) expressions(Family) (list []nft.Expr) {
	names := sorted(d)
	patterns := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !isPattern(name) })
	switch names = slices.DeleteFunc(names, isPattern); len(names) {
	case 0:
	case 1:
		list = append(list, nft.Device{Name: names[0]})
	default:
		list = append(list, nft.Devices{Names: names})
	}
	for _, name := range patterns {
		list = append(list, nft.Device{Name: name})
	}
	return list
}

// Connection tracking keeps no devices: what is behind them stands for them.
func (d SelectDevices) tracked(p *planner) func(*Connection) bool {
	sources, routed := p.networksBehind(d), p.obs.Routed
	return func(c *Connection) bool {
		return inet.Within(sources, c.Source) || routed[c.Family.Index()].has(c.Source, func(device string) bool { return matchesDevice(d, device) })
	}
}
