package monitor

import (
	"context"
	"time"

	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// busyInterval is how often the packet counters are read while people use an uplink, and idleInterval while there is
	// hardly more than our own probes: each reading wakes the processor.
	busyInterval = 50 * time.Millisecond
	idleInterval = 500 * time.Millisecond
	// busyPackets is how many packets, sent by one device within busyWindow, are more than our probes, and busySpan how
	// long it counts as used for them.
	busyPackets = 20
	busyWindow  = time.Second
	busySpan    = 10 * time.Second
	// streamRate is the packets a second that no neighbours send unasked: a stream comes in.
	streamRate = 100
)

// watchTraffic has the paths of a device probed at once when traffic leaves by it and none comes back: a dead provider
// is then noticed without waiting for the next probe.
func (m *Monitor) watchTraffic(ctx context.Context) {
	devices := make(map[int]*deviceTraffic) // by interface index
	readings := make(map[int]counters.Device)
	var usedAt time.Time // when a device was last seen in use
	timer := time.NewTimer(busyInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		if interval := readingInterval(now.Sub(usedAt)); interval == idleInterval {
			timer.Reset(schedule.Until(m.o.Phase, now, interval))
		} else {
			timer.Reset(interval)
		}
		if _, err := m.o.Counters(readings); err != nil {
			m.o.Log.Debug("packet counters cannot be read", "err", err)
			continue
		}
		for index, paths := range m.pathsByDevice() {
			reading, exists := readings[index]
			if !exists {
				delete(devices, index)
				continue
			}
			device := devices[index]
			if device == nil {
				device = &deviceTraffic{Device: reading, at: now}
				devices[index] = device
			}
			if device.use.observe(now, reading.Sent) {
				usedAt = now
			}
			if device.Received != reading.Received {
				m.noteInbound(paths, isStream(reading.Received-device.Received, now.Sub(device.at)))
			}
			if bits, ok := device.load.observe(now, reading); ok {
				m.noteLoad(paths, bits, now)
			}
			device.Device, device.at = reading, now
			if device.oneWay.Observe(now, reading.Received, reading.Sent, func() time.Duration { return m.slowestRTT(paths) }) {
				m.ProbeNow(paths)
			}
		}
	}
}

// pathsByDevice groups the paths whose device has carrier by its interface index.
func (m *Monitor) pathsByDevice() map[int][]rules.Path {
	m.mu.Lock()
	defer m.mu.Unlock()
	paths := make(map[int][]rules.Path)
	for path, f := range m.facts {
		if f.Carrier {
			paths[f.Index] = append(paths[f.Index], path)
		}
	}
	return paths
}

// noteInbound notes that the device of the paths receives, and whether that is a stream.
func (m *Monitor) noteInbound(paths []rules.Path, stream bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.watching(paths) {
		p.inboundAt = time.Now()
		p.Received(p.inboundAt)
		if stream {
			p.InboundStream(p.inboundAt)
		}
	}
}

// noteLoad tells the paths of a device how many bits a second it moves.
func (m *Monitor) noteLoad(paths []rules.Path, bits float64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.watching(paths) {
		p.Load(bits, now)
	}
}

// slowestRTT returns the longest round-trip time of the paths.
func (m *Monitor) slowestRTT(paths []rules.Path) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := time.Duration(0)
	for _, p := range m.watching(paths) {
		longest = max(longest, p.RTT())
	}
	return longest
}

// deviceTraffic is what the readings of a device have shown.
type deviceTraffic struct {
	counters.Device
	at     time.Time // when they were these
	oneWay uplink.OneWayDetector
	use    useMeter
	load   loadMeter
}

// isStream reports whether so many packets in so much time are a stream.
func isStream(packets uint64, in time.Duration) bool {
	return packets >= 3 && float64(packets) >= streamRate*in.Seconds()
}

// loadMeter is how much a device moves, over windows of a second.
type loadMeter struct {
	since time.Time
	at    counters.Device // at that time
}

// observe returns the bits a second of a window that ends now, in the direction that moved more.
func (l *loadMeter) observe(now time.Time, c counters.Device) (bits float64, ok bool) {
	elapsed := now.Sub(l.since)
	if elapsed < busyWindow {
		return 0, false
	}
	before := l.at
	ok = !l.since.IsZero() && c.ReceivedBytes >= before.ReceivedBytes && c.SentBytes >= before.SentBytes
	l.since, l.at = now, c
	return 8 * float64(max(c.ReceivedBytes-before.ReceivedBytes, c.SentBytes-before.SentBytes)) / elapsed.Seconds(), ok
}

// useMeter tells whether people use a device, from its counter of packets sent.
type useMeter struct {
	since time.Time
	sent  uint64 // at that time
}

// observe reports whether the device has sent more than our probes, lately.
func (u *useMeter) observe(now time.Time, sent uint64) bool {
	used := sent-u.sent > busyPackets && !u.since.IsZero()
	if used || now.Sub(u.since) >= busyWindow {
		u.since, u.sent = now, sent
	}
	return used
}

// readingInterval returns how long to wait for the next reading, given how long no device was seen in use.
func readingInterval(unused time.Duration) time.Duration {
	if unused < busySpan {
		return busyInterval
	}
	return idleInterval
}
