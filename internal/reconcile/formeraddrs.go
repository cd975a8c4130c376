package reconcile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// formerFor is how long an address that an uplink has lost may still come back, as it does when a DHCP client starts again. It is
// longer than a packet waits for the hardware address of a gateway (3 probes, one a second: net/ipv6/ndisc.c nd_tbl, net/ipv4/arp.c
// arp_tbl), so what was sent before is sent or dropped by its end.
const formerFor = 5 * time.Second

// formerAddrs are the addresses that uplinks have lost, whoever took them away.
type formerAddrs struct {
	has  map[netip.Addr]bool      // what uplinks have
	lost map[netip.Addr]time.Time // and what they had, and when it was seen to be gone
	over []netip.Addr             // lost for good; what still uses them is to be ended
}

// observe returns what uplinks have lost a moment ago, in order. An address that this machine still has, at whatever device, is not lost.
func (f *formerAddrs) observe(cfg rules.Config, obs *rules.Observed, now time.Time) []netip.Addr {
	devices := make(map[string]bool, len(cfg.Uplinks))
	for i := range cfg.Uplinks {
		devices[cfg.Uplinks[i].Device] = true
	}
	has := make(map[netip.Addr]bool)
	for _, a := range obs.Addrs {
		if devices[a.Device] && a.Prefix.Addr().IsGlobalUnicast() {
			has[a.Prefix.Addr()] = true
		}
	}
	here := func(ip netip.Addr) bool {
		return has[ip] || slices.ContainsFunc(obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr() == ip })
	}
	if f.lost == nil {
		f.lost = make(map[netip.Addr]time.Time)
	}
	for ip := range f.has {
		if _, known := f.lost[ip]; !known && !here(ip) {
			f.lost[ip] = now
		}
	}
	f.has = has
	maps.DeleteFunc(f.lost, func(ip netip.Addr, since time.Time) bool {
		if here(ip) {
			return true
		}
		over := now.Sub(since) >= formerFor
		if over {
			f.over = append(f.over, ip)
		}
		return over
	})
	return slices.SortedFunc(maps.Keys(f.lost), netip.Addr.Compare)
}

// endOnFormer ends what uses addresses that uplinks have lost for good: local connections hear of it, and what connection tracking
// translates to them, such as an open connection to a host of the LAN, begins anew. Else it would go on for many minutes, with a
// source that its provider does not know any more.
func (e *Engine) endOnFormer() error {
	if len(e.former.over) == 0 {
		return nil
	}
	over := e.former.over
	sockets, err := e.o.Kernel.DestroySockets(over)
	if err != nil {
		return fmt.Errorf("telling local connections of former addresses %v: %w", over, err)
	}
	const gone = "their address is gone"
	deleted, err := e.o.Kernel.DeleteConnections(func(c *rules.Connection) string {
		if slices.ContainsFunc(over, func(ip netip.Addr) bool { return ip == c.Source || ip == c.Dest || ip == c.ReplyDest }) {
			return gone
		}
		return ""
	})
	if err != nil {
		return err // and tries again
	}
	e.former.over = nil
	if sockets+deleted[gone] > 0 {
		e.o.Log.Info("ended connections of former addresses", "addresses", over, "sockets", sockets, "connections", deleted[gone])
	}
	return nil
}

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
