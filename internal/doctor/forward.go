package doctor

import (
	"fmt"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
)

// RefusedForward says that somebody's packet filter lets no new connection pass from an uplink to the host of a forwarded port.
type RefusedForward struct {
	Forward string
	Uplink  string
	Device  string // the uplink's
	LAN     string
	Family  rules.Family
	By      string // chain: "inet filter, chain forward"
}

// Calls lists where calls of forwarded ports come in and go on, By being empty.
func (o *Observation) Calls() (list []RefusedForward) {
	for i := range o.Report.Forwards {
		f := &o.Report.Forwards[i]
		for j := range o.Config.Uplinks {
			u := &o.Config.Uplinks[j]
			for _, family := range rules.Families {
				info := o.Report.Paths[rules.Path{Uplink: u.ID, Family: family}]
				if f.To[family].IsValid() && f.Has(u) && u.Family(family).Enabled && info.Up {
					list = append(list, RefusedForward{Forward: f.Name, Uplink: u.Name, Device: u.Device, LAN: f.Device, Family: family})
				}
			}
		}
	}
	return list
}

// forwardsRefused finds forwarded ports whose calls a firewall drops. It sees them when their destination is translated: a rule for that lets
// them pass, and what else somebody forwards.
func forwardsRefused(o *Observation, found found) {
	for _, r := range o.RefusedForwards {
		found(Warning, fmt.Sprintf("the firewall lets no new %s connection from %s (%s) to %s: forward %s is not reached by it (nftables %s)", r.Family.Name(), r.Uplink, r.Device, r.LAN, r.Forward, r.By),
			fmt.Sprintf("nft insert rule %s iifname %q oifname %q ct status dnat accept, and the same where your firewall keeps its rules", strings.Replace(r.By, ", chain", "", 1), r.Device, r.LAN))
	}
}
