package monitor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// segmentWait is how long a read waits for a segment before it is asked whether the targets are still silent.
	segmentWait = 100 * time.Millisecond
	// segmentPause follows each segmentBatch of them, so that a full line costs no more than 13 000 of them a second.
	segmentPause = 5 * time.Millisecond
	segmentBatch = 64
	// connectionPause is how long nobody looks after a connection has been seen to get on.
	connectionPause = time.Second
)

// segmentOpener is that of [Options].
type segmentOpener func(index int, family rules.Family) (net.PacketConn, error)

func (m *Monitor) watchConnectionsOf(name string, family rules.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, p := range m.paths {
		if p.uplink.Name == name && path.Family == family {
			m.watchConnections(path, p)
		}
	}
}

// watchConnections looks, while the targets of a path are silent, whether TCP connections by it get on in both directions.
// Then the uplink works, and cutting them would do the harm that it is meant to end. The lock is held.
func (m *Monitor) watchConnections(path rules.Path, p *monitoredPath) {
	info, ctx := m.planned[path], p.ctx
	if p.connectionsWatched || ctx == nil || info.Index == 0 || !p.Silent() {
		return
	}
	p.connectionsWatched = true
	m.running.Go(func() {
		for silent := true; silent; {
			err := p.watchConnections(ctx, m.o.TCPSegments, path.Family, info)
			if err != nil {
				m.o.Log.Warn("cannot watch TCP connections", "uplink", p.uplink.Name, "family", path.Family, "err", err)
			}
			m.mu.Lock()
			silent = err == nil && ctx.Err() == nil && p.Silent() // again, since a moment ago
			p.connectionsWatched = silent
			m.mu.Unlock()
		}
	})
}

func (p *monitoredPath) watchConnections(ctx context.Context, open segmentOpener, family rules.Family, info rules.PathInfo) error {
	for ctx.Err() == nil && p.Silent() {
		getsOn, err := p.connectionGetsOn(ctx, open, family, info)
		if err != nil {
			return err
		}
		if getsOn {
			p.Connected(time.Now())
			select {
			case <-ctx.Done():
			case <-time.After(connectionPause):
			}
		}
	}
	return nil
}

// connectionGetsOn looks until a connection gets on, or that is no question any more. It has a socket of its own: what waits in one
// that was not read meanwhile says nothing about now.
func (p *monitoredPath) connectionGetsOn(ctx context.Context, open segmentOpener, family rules.Family, info rules.PathInfo) (bool, error) {
	conn, err := open(info.Index, family)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	progress := uplink.NewTCPProgress()
	// What was acknowledged before the silence may still be under way.
	settled := time.Now().Add(p.RTT() + p.RTT()/2)
	buffer := make([]byte, 128)
	for read := 1; ctx.Err() == nil && p.Silent(); read++ {
		if read%segmentBatch == 0 {
			time.Sleep(segmentPause)
		}
		now := time.Now()
		if err := conn.SetReadDeadline(now.Add(segmentWait)); err != nil {
			return false, err
		}
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return false, err
		}
		segment, ok := uplink.ParseTCPSegment(buffer[:n])
		if ok && fromInternet(segment.Source.Addr(), info) && progress.Observe(segment) && !now.Before(settled) {
			return true, nil
		}
	}
	return false, nil
}

// fromInternet reports whether an address is beyond the provider, as far as that can be told: a modem or a neighbour on the line
// says nothing about the Internet.
func fromInternet(a netip.Addr, info rules.PathInfo) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && a != info.Gateway &&
		!slices.ContainsFunc(info.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}
