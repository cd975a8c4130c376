package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Where there are so many routes as a routing daemon makes, listing all of them takes longer than a switch may. Those that are
// not ours and lead by no uplink are then listed only now and then, beside everything else. All others are read anew for each
// snapshot, by dumps that the kernel itself filters.
const (
	manyRoutes = 2000
	// manyDevices is where a dump for each device, for which the kernel walks all routes, takes longer than one of them all.
	manyDevices = 20
	// routesKept is how long those are kept: what they change, mostly what is a local network, is noticed so much later.
	routesKept = 15 * time.Second
	nearTries  = 3
)

// routeList has the routes of a family that a snapshot is about.
type routeList struct {
	near   []netcfg.Route // our own, and those by the devices that are near
	others []netcfg.Route
	routed *rules.RoutedNetworks
	at     time.Time
	// What near was, and which index others had while they were up: a route leads by that, and goes when the device is set down.
	devices []string
	indexes map[string]int
}

// refreshed is a list that was made beside everything else, or why it was not.
type refreshed struct {
	family rules.Family
	list   *routeList
	err    error
}

// routes lists what planning looks at: table main, our tables, and whatever carries our protocol number. Near are the devices whose
// routes must be known as they are now or, when it is urgent, as they were when nothing has been heard since.
func (k *Kernel) routes(family rules.Family, near []string, urgent bool) ([]netcfg.Route, *rules.RoutedNetworks, error) {
	l, err := k.lister()
	if err != nil {
		return nil, nil, err
	}
	k.takeRefreshed(false)
	if kept := k.kept[family]; kept != nil && len(near) <= manyDevices && kept.holds(near, k.devices.up) {
		list, err := k.nearRoutes(l, family, near, urgent)
		if err == nil {
			if time.Since(kept.at) >= routesKept {
				k.refresh(family, near)
			}
			return append(list, kept.others...), kept.routed, nil
		}
		if k.failed(err); k.routeLister == nil {
			return nil, nil, err
		}
	}
	delete(k.kept, family)
	list, err := l.all(family, near, 0, dumpTries)
	if err != nil {
		k.failed(err)
		return nil, nil, err
	}
	if l.strict && list.routed.Len() >= manyRoutes {
		routes := slices.Concat(list.near, list.others)
		list.near = nil
		k.kept[family] = list
		return routes, list.routed, nil
	}
	routes := append(list.near, list.others...)
	for r := range list.routed.Routes() {
		routes = append(routes, *r)
	}
	return routes, nil, nil
}

// lister is what lists routes for snapshots.
func (k *Kernel) lister() (*routeLister, error) {
	if k.routeLister == nil {
		l, err := newRouteLister(k.numbers)
		if err != nil {
			return nil, err
		}
		k.routeLister = l
	}
	k.routeLister.devices = k.devices
	return k.routeLister, nil
}

// failed gives a socket up on which the rest of an answer may come.
func (k *Kernel) failed(err error) {
	if !errors.Is(err, errInterrupted) && !errors.As(err, new(refusal)) {
		_ = k.routeLister.conn.close()
		k.routeLister = nil
	}
}

// refresh lists all routes of a family beside everything else, unless that is being done.
func (k *Kernel) refresh(family rules.Family, near []string) {
	if k.refreshing != nil {
		return
	}
	l, err := newRouteLister(k.numbers)
	if err != nil {
		delete(k.kept, family) // the next snapshot says why
		return
	}
	l.devices = k.devices
	about, done := k.kept[family].routed.Len(), make(chan refreshed, 1)
	k.refreshing = done
	go func() {
		list, err := l.all(family, near, about, nearTries)
		done <- refreshed{family, list, errors.Join(err, l.conn.close())}
	}()
}

// takeRefreshed takes what was listed beside, when it is there; wait waits for it.
func (k *Kernel) takeRefreshed(wait bool) {
	if k.refreshing == nil || !wait && len(k.refreshing) == 0 {
		return
	}
	r := <-k.refreshing
	k.refreshing = nil
	kept := k.kept[r.family]
	switch {
	case kept == nil: // it was listed anew meanwhile, and there are few
	case errors.Is(r.err, errInterrupted): // what is there serves on
		kept.at = time.Now()
	case r.err != nil || r.list.routed.Len() < manyRoutes:
		delete(k.kept, r.family)
	default:
		r.list.near = nil
		k.kept[r.family] = r.list
	}
}

// holds reports whether what is kept is of use: the devices that are near are the same, and no other has changed its name, was set down or has gone.
func (l *routeList) holds(near []string, up map[string]int) bool {
	if !slices.Equal(l.devices, near) {
		return false
	}
	for device, was := range l.indexes {
		if up[device] != was {
			return false
		}
	}
	return true
}

// routeLister lists routes on a socket of its own. It is for one goroutine at a time.
type routeLister struct {
	conn    *rtnlConn
	strict  bool // the kernel heeds filters
	numbers rules.Kernel
	devices devices
	route   explain.TableRoute // the latest one
}

// newRouteLister connects to the kernel of the calling thread's network namespace.
func newRouteLister(numbers rules.Kernel) (*routeLister, error) {
	conn, err := openRTNL()
	if err != nil {
		return nil, err
	}
	// Without this the kernel (4.20) heeds no filter.
	strict := unix.SetsockoptInt(conn.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	return &routeLister{conn: conn, strict: strict, numbers: numbers}, nil
}

// all lists all routes. About says how many will be routed networks.
func (l *routeLister) all(family rules.Family, near []string, about, tries int) (*routeList, error) {
	isNear := func(device string) bool { return slices.Contains(near, device) }
	for range tries {
		list := &routeList{at: time.Now(), devices: slices.Clone(near), indexes: make(map[string]int)}
		var err error
		list.routed = rules.NewRoutedNetworks(func(yield func(*netcfg.Route) bool) {
			err = l.each(family, 0, 0, func(r *netcfg.Route) {
				switch {
				case l.numbers.LeadsToLocal(r, isNear):
					yield(r)
					return
				case r.Protocol == l.numbers.Protocol || slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return isNear(n.Device) }):
					list.near = append(list.near, copied(r))
					return
				}
				list.others = append(list.others, copied(r))
				for i := range r.Nexthops {
					list.indexes[r.Nexthops[i].Device] = l.devices.up[r.Nexthops[i].Device]
				}
			})
		}, about)
		for _, device := range list.routed.Devices() {
			list.indexes[device] = l.devices.up[device]
		}
		if !errors.Is(err, errInterrupted) {
			return list, err
		}
	}
	return nil, fmt.Errorf("listing %v routes: %w %d times in a row", family, errInterrupted, tries)
}

// near lists our own routes, and those by the devices, with one filtered dump for each.
func (l *routeLister) near(family rules.Family, near []string) ([]netcfg.Route, error) {
	list, err := l.filtered(family, l.numbers.Protocol, 0)
	for i, device := range near {
		index := l.devices.index[device]
		if index == 0 || err != nil {
			continue
		}
		var by []netcfg.Route
		by, err = l.filtered(family, 0, index)
		for _, r := range by {
			before := slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return slices.Contains(near[:i], n.Device) })
			if r.Protocol != l.numbers.Protocol && !before { // else it is there already
				list = append(list, r)
			}
		}
	}
	return list, err
}

// filtered lists the routes with a protocol number, or by a device; 0 is any.
func (l *routeLister) filtered(family rules.Family, protocol uint8, index int) ([]netcfg.Route, error) {
	for range nearTries {
		var list []netcfg.Route
		err := l.each(family, protocol, index, func(r *netcfg.Route) { list = append(list, copied(r)) })
		if !errors.Is(err, errInterrupted) {
			return list, err
		}
	}
	return nil, errInterrupted
}

// each hands out routes, each valid until the next.
func (l *routeLister) each(family rules.Family, protocol uint8, index int, take func(*netcfg.Route)) error {
	l.conn.interrupted = false
	err := l.conn.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, func(b []byte) []byte {
		// struct rtmsg: all 0 but the family and the protocol.
		b = append(b, familyNumber(family), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0)
		if index == 0 {
			return b
		}
		b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
		b = binary.NativeEndian.AppendUint16(b, unix.RTA_OIF)
		return binary.NativeEndian.AppendUint32(b, uint32(index))
	}, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWROUTE && l.devices.decodeRoute(body, &l.route) && l.concerns(l.route.Table, l.route.Protocol) {
			take(&l.route.Route)
		}
	})
	if err != nil {
		return fmt.Errorf("listing %v routes: %w", family, err)
	}
	if l.conn.interrupted {
		return errInterrupted
	}
	return nil
}

func (l *routeLister) concerns(table uint32, protocol uint8) bool {
	return table != unix.RT_TABLE_LOCAL && (table == netcfg.TableMain || table == l.numbers.NeighbourTable() || protocol == l.numbers.Protocol ||
		table >= l.numbers.TableBase && table <= l.numbers.TableBase+rules.MaxUplinks)
}

// copied is a route that stays.
func copied(r *netcfg.Route) netcfg.Route {
	c := *r
	c.Nexthops = slices.Clone(r.Nexthops)
	return c
}

var errInterrupted = errors.New("interrupted by changes")
