package reconcile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// abortRemovedAddrs aborts local connections on addresses that have just been taken away, and that this machine has nowhere else: no
// answer reaches them any more, and their packets would go on leaving with a source that nobody here has.
func (e *Engine) abortRemovedAddrs(changes []netcfg.Op, obs *rules.Observed) error {
	var removed []netip.Addr
	for _, op := range changes {
		if del, ok := op.(netcfg.DelAddr); ok && !slices.Contains(removed, del.Prefix.Addr()) {
			removed = append(removed, del.Prefix.Addr())
		}
	}
	removed = slices.DeleteFunc(removed, func(a netip.Addr) bool {
		return slices.ContainsFunc(obs.Addrs, func(have rules.Addr) bool { return have.Prefix.Addr() == a })
	})
	if len(removed) == 0 {
		return nil
	}
	sockets, err := e.o.Kernel.DestroySockets(removed)
	if err != nil {
		return fmt.Errorf("telling local connections of removed addresses %v: %w", removed, err)
	}
	if sockets > 0 {
		e.o.Log.Info("aborted connections on removed addresses", "addresses", removed, "sockets", sockets)
	}
	return nil
}
