package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchBuffer is the receive buffer of a subscription in bytes: room for some thousand events.
const watchBuffer = 1 << 20

// Groups of linux/rtnetlink.h and linux/netfilter/nfnetlink.h that tell of what a Snapshot reads.
var (
	routeGroups = []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	}
	netfilterGroups = []uint32{unix.NFNLGRP_NFTABLES}
)

// Watcher is a subscription to changes of links, addresses, routes, rules and nftables.
type Watcher struct {
	conns []*netlink.Conn
	// Urgent is called when an uplink's device gets or loses its carrier. It must not block, and is to be set before Run.
	Urgent  func()
	uplinks atomic.Pointer[map[int]bool]
	changes atomic.Uint64
	// nearChanges counts what near tells of, and losses; nil counts more than it need.
	near        atomic.Pointer[nearChange]
	nearChanges atomic.Uint64
}

// Changes counts, in batches, the events that were received, and losses of some. It may be called by any goroutine, before Run too.
func (w *Watcher) Changes() uint64 { return w.changes.Load() }

// SetUplinks tells the interface indexes of the uplinks' devices.
func (w *Watcher) SetUplinks(indexes map[int]bool) { w.uplinks.Store(&indexes) }

// listenFor has nearChanges count what c tells of, from now on.
func (w *Watcher) listenFor(c nearChange) {
	if !w.near.Load().equal(c) {
		w.near.Store(&c)
		w.nearChanges.Add(1) // others have not been counted
	}
}

// carriers knows which devices were up with carrier when that was last heard, by interface index.
type carriers map[int]bool

// flipped reports whether a message says that one of the devices has another carrier than before.
func (c carriers) flipped(m event, of map[int]bool) bool {
	if m.typ != unix.RTM_NEWLINK || len(m.body) < unix.SizeofIfInfomsg {
		return false
	}
	index, flags := int(int32(native32(m.body[4:]))), native32(m.body[8:])
	if !of[index] {
		return false
	}
	up := flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP != 0
	before, known := c[index]
	c[index] = up
	return !known || before != up
}

// Subscribe starts to collect events in the calling thread's network namespace. Whoever takes a
// snapshot after it returns misses nothing.
func Subscribe() (*Watcher, error) {
	w := &Watcher{}
	for family, groups := range map[int][]uint32{unix.NETLINK_ROUTE: routeGroups, unix.NETLINK_NETFILTER: netfilterGroups} {
		conn, err := netlink.Dial(family, nil)
		if err != nil {
			w.Close()
			return nil, fmt.Errorf("subscribing to netlink family %d: %w", family, err)
		}
		w.conns = append(w.conns, conn)
		// The forced size needs CAP_NET_ADMIN and may exceed the limit; without it, fewer events fit.
		_ = conn.SetReadBuffer(watchBuffer)
		for _, g := range groups {
			if err := conn.JoinGroup(g); err != nil {
				w.Close()
				return nil, fmt.Errorf("joining netlink group %d of family %d: %w", g, family, err)
			}
		}
	}
	return w, nil
}

// Close ends the subscription.
func (w *Watcher) Close() {
	for _, c := range w.conns {
		_ = c.Close()
	}
}

// Run calls hint whenever something changed, or when events were lost (ENOBUFS), until the context
// ends. Hint must not block.
func (w *Watcher) Run(ctx context.Context, hint func()) error {
	stop := context.AfterFunc(ctx, func() {
		for _, c := range w.conns {
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	var group sync.WaitGroup
	failed := make([]error, len(w.conns))
	for i, c := range w.conns {
		group.Go(func() { failed[i] = w.receive(ctx, c, hint) })
	}
	group.Wait()
	return errors.Join(failed...)
}

// A routing daemon may change hundreds of routes a second. That many changes of nothing else ask for a look at once, and further
// ones together, after a while.
const (
	routeHints = 20
	routePause = 5 * time.Second
)

// event is a message that the kernel sends unasked; its body is gone with the next.
type event struct {
	typ  uint16
	body []byte
}

// isRoute reports whether an event is of a route. Types of netfilter are larger.
func (m event) isRoute() bool { return m.typ == unix.RTM_NEWROUTE || m.typ == unix.RTM_DELROUTE }

// events appends those of a datagram, and one without a type for what cannot be read.
func events(list []event, b []byte) []event {
	for len(b) > 0 {
		length := 0
		if len(b) >= unix.NLMSG_HDRLEN {
			length = int(binary.NativeEndian.Uint32(b))
		}
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return append(list, event{})
		}
		list = append(list, event{binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:length]})
		b = b[min(len(b), (length+3)&^3):]
	}
	return list
}

const (
	// eventBuffer has room for the datagrams of events: what tells of one change fits into a page or two.
	eventBuffer = 32 << 10
	// eventsAtOnce is how many datagrams are read before the context is asked.
	eventsAtOnce = 256
)

// receive reads all that is there with each wake-up, into one buffer: a host of containers has thousands of events a second.
func (w *Watcher) receive(ctx context.Context, c *netlink.Conn, hint func()) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("receiving netlink events: %w", err)
	}
	take, later := w.taker(hint)
	defer later.Stop()
	buffer := make([]byte, eventBuffer)
	var list []event
	for {
		var failed error
		err := raw.Read(func(fd uintptr) (done bool) {
			for range eventsAtOnce {
				n, _, err := unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
				switch {
				case errors.Is(err, unix.EAGAIN):
					return done
				case errors.Is(err, unix.EINTR):
					continue
				case err != nil:
					failed = err
					return true
				}
				list = events(list[:0], buffer[:n])
				take(list)
				done = true
			}
			return true
		})
		switch err = errors.Join(err, failed); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			w.changes.Add(1)
			w.nearChanges.Add(1)
			hint()
		case err != nil:
			return fmt.Errorf("receiving netlink events: %w", err)
		}
	}
}

// taker returns what takes the events of a datagram, and its timer.
func (w *Watcher) taker(hint func()) (take func([]event), later *time.Timer) {
	known := make(carriers)
	later = time.AfterFunc(0, hint)                         // after routePause, when there have been many changes of routes; harmless now
	left, quiet, due := routeHints, time.Now(), time.Time{} // quiet: since when no route has changed
	return func(list []event) {
		w.changes.Add(1)
		if slices.ContainsFunc(list, w.near.Load().in) {
			w.nearChanges.Add(1)
		}
		if uplinks := w.uplinks.Load(); uplinks != nil && w.Urgent != nil {
			for _, m := range list {
				if known.flipped(m, *uplinks) {
					w.Urgent()
				}
			}
		}
		if !slices.ContainsFunc(list, func(m event) bool { return !m.isRoute() }) {
			now := time.Now()
			if now.Sub(quiet) >= routePause {
				left, due = routeHints, time.Time{}
			}
			quiet = now
			if left--; left < 0 {
				if now.After(due) {
					due = now.Add(routePause)
					later.Reset(routePause)
				}
				return
			}
		}
		hint()
	}, later
}
