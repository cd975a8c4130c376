package kernel

import (
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// nearRoutes are our own routes of a family and those by devices that are near, as they were read.
type nearRoutes struct {
	list    []netcfg.Route
	at      time.Time
	changes uint64 // that had been heard of before
}

// HeardBy has urgent snapshots rely on a watcher, which runs, for what has changed since routes were read.
func (k *Kernel) HeardBy(w *Watcher) { k.watcher = w }

// nearRoutes lists them where there are a great many others.
func (k *Kernel) nearRoutes(l *routeLister, family rules.Family, near []string, urgent bool) ([]netcfg.Route, error) {
	if k.watcher == nil {
		return l.near(family, near)
	}
	devices := make(map[int]bool, len(near))
	for _, device := range near {
		devices[k.devices.index[device]] = true
	}
	k.watcher.listenFor(nearChange{devices, k.numbers.Protocol})
	changes := k.watcher.nearChanges.Load()
	if last := k.near[family]; urgent && last != nil && last.changes == changes && time.Since(last.at) < routesKept {
		return slices.Clone(last.list), nil
	}
	now := time.Now()
	list, err := l.near(family, near)
	if err != nil {
		delete(k.near, family)
		return nil, err
	}
	k.near[family] = &nearRoutes{slices.Clone(list), now, changes}
	return list, nil
}

// nearChange tells messages that nearRoutes may be others after.
type nearChange struct {
	devices  map[int]bool // indexes
	protocol uint8        // ours
}

func (c *nearChange) equal(o nearChange) bool {
	return c != nil && c.protocol == o.protocol && maps.Equal(c.devices, o.devices)
}

// in reports whether a message tells of one, or may hide one: the kernel removes IPv4 routes without a word when their device is set
// down, and older ones when an address of any device goes that they have for a source (fib_sync_down_dev and fib_sync_down_addr in
// net/ipv4/fib_semantics.c).
func (c *nearChange) in(m event) bool {
	if c == nil || len(m.body) < 8 {
		return true
	}
	near := func() bool { return c.devices[int(native32(m.body[4:]))] } // of struct ifinfomsg, and ifaddrmsg
	switch m.typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return c.route(m.body)
	case unix.RTM_NEWLINK:
		return near() && (len(m.body) < unix.SizeofIfInfomsg || native32(m.body[8:])&unix.IFF_UP == 0)
	case unix.RTM_DELLINK, unix.RTM_NEWADDR:
		return near()
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return false
	}
	return m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES
}

// route reports whether a route is ours, or does not lead by one device that is not near.
func (c *nearChange) route(body []byte) bool {
	if len(body) < unix.SizeofRtMsg || body[5] == c.protocol {
		return true
	}
	for typ, value := range attributes(body[unix.SizeofRtMsg:]) {
		if typ == unix.RTA_OIF {
			return c.devices[int(native32(value))]
		}
	}
	return true
}
