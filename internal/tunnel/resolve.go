package tunnel

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	resolveInterval     = 5 * time.Second  // of names without an address
	resolveDeadInterval = 30 * time.Second // of those of a dead tunnel
	resolveTimeout      = 4 * time.Second
)

// resolve keeps the names of endpoints resolved: until they have an address, and again while their tunnel is dead.
func (e *Engine) resolve(ctx context.Context) {
	ticker := time.NewTicker(resolveInterval)
	defer ticker.Stop()
	asked := make(map[string]time.Time)
	for {
		for endpoint, mark := range e.unresolved(asked) {
			asked[endpoint] = time.Now()
			if to, err := lookUp(ctx, endpoint, mark); err != nil {
				e.o.Log.Warn("cannot resolve an endpoint", "endpoint", endpoint, "err", err)
			} else if e.found(endpoint, to) {
				e.o.Changed()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// unresolved lists the endpoints to ask for, with the mark that a tunnel's own packets have.
func (e *Engine) unresolved(asked map[string]time.Time) map[string]uint32 {
	list := make(map[string]uint32)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.uplinks {
		for _, p := range w.peers {
			if _, err := netip.ParseAddrPort(p.endpoint); err == nil || p.endpoint == "" {
				continue
			}
			_, known := w.resolved[p.endpoint]
			if !known || time.Since(asked[p.endpoint]) >= resolveDeadInterval && e.o.Dead(w.id) {
				list[p.endpoint] = w.mark
			}
		}
	}
	return list
}

// found takes an endpoint's address over, and has peers that are believed elsewhere be looked for there.
func (e *Engine) found(endpoint string, to netip.AddrPort) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.uplinks {
		if w.resolved[endpoint] == to {
			continue
		}
		for _, p := range w.peers {
			if p.endpoint == endpoint {
				w.resolved[endpoint], changed = to, true
				w.stale = append(w.stale, p.PublicKey)
			}
		}
	}
	return changed
}

// lookUp asks for the address of HOST:PORT over the way that a tunnel's packets take.
func lookUp(ctx context.Context, endpoint string, mark uint32) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.LookupPort("udp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		if err == nil {
			err = failed
		}
		return err
	}}
	resolver := net.Resolver{PreferGo: true, Dial: dialer.DialContext}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(port)), nil
}
