package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
		group.Go(func() { failed[i] = receive(ctx, c, hint) })
	}
	group.Wait()
	return errors.Join(failed...)
}

func receive(ctx context.Context, c *netlink.Conn, hint func()) error {
	for {
		_, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
			hint()
		default:
			return fmt.Errorf("receiving netlink events: %w", err)
		}
	}
}
