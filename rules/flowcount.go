package rules

import (
	"strings"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// Flows counts the connections of an uplink, as conntrack tells them apart, since its counters were made.
type Flows struct {
	Out uint64 // begun by this router or behind it; not by sockets that ask for the uplink by its mark, as our probes do
	In  uint64 // begun beyond the uplink, whether anybody answered or not
}

// The counters of our table have these before the name of the uplink.
const (
	flowsOut = "flows_out_"
	flowsIn  = "flows_in_"
)

// countOutgoing counts what has just been pinned to an uplink. It stands behind the pin, so that packets of older connections never
// come to it.
func (p *planner) countOutgoing(u *Uplink) []nft.Expr {
	return []nft.Expr{nft.New{}, nft.Mark{Mask: p.k.MarkMask, Value: p.k.Mark(u.ID), Not: true}, nft.NamedCounter{Name: flowsOut + u.Name}}
}

// CountedFlows sorts the packets of the counters of our table, by their names, by uplink name.
func CountedFlows(counters map[string]uint64) map[string]Flows {
	flows := make(map[string]Flows)
	for counter, packets := range counters {
		if name, ok := strings.CutPrefix(counter, flowsOut); ok {
			f := flows[name]
			f.Out = packets
			flows[name] = f
		} else if name, ok := strings.CutPrefix(counter, flowsIn); ok {
			f := flows[name]
			f.In = packets
			flows[name] = f
		}
	}
	return flows
}
