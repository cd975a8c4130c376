package daemon

import (
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/rules"
)

// addWithdrawn tells planning which prefixes the hosts of each LAN may still hold though nobody delegates them: those that
// are being denied, and those that have been taken away since the hosts were told last. The ledgers are by device.
func addWithdrawn(out *rules.Config, ledgers map[string]*ndisc.Ledger, now time.Time) {
	delegated := func(e *ndisc.Entry) bool {
		return slices.ContainsFunc(out.Uplinks, func(u rules.Uplink) bool {
			return slices.ContainsFunc(u.Delegations, func(d rules.Delegation) bool { return d.Prefix == e.Delegation })
		})
	}
	for i := range out.LANs {
		lan := &out.LANs[i]
		ledger := ledgers[lan.Device]
		if ledger == nil {
			continue
		}
		var list []netip.Prefix
		for n := range ledger.Entries {
			e := &ledger.Entries[n]
			if e.Uplink != "" && (e.Stale && now.Before(e.Valid) || !e.Stale && !delegated(e)) {
				list = append(list, e.Prefix)
			}
		}
		lan.Withdrawn = list
	}
}

// addWithdrawn is the function of that name for the LANs' ledgers as they are.
func (l *lans) addWithdrawn(out *rules.Config, now time.Time) {
	l.holding.Lock()
	defer l.holding.Unlock()
	addWithdrawn(out, l.ledgers, now)
}
