package monitor

import (
	"context"
	"maps"
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
)

// watchTraffic has the paths of a device probed at once when traffic leaves by it and none comes back: a dead provider
// is then noticed without waiting for the next probe. Where people wait for an answer, there is one more reading as soon as it is late.
func (m *Monitor) watchTraffic(ctx context.Context) {
	devices := make(map[int]*deviceTraffic) // by interface index
	readings := make(map[int]counters.Device)
	var usedAt time.Time // when a device was last seen in use
	next := time.Now().Add(busyInterval)
	timer := time.NewTimer(busyInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		interval, regular := readingInterval(now.Sub(usedAt)), !now.Before(next)
		switch {
		case regular && interval == idleInterval:
			next = now.Add(schedule.Until(m.o.Phase, now, interval))
		case regular:
			next = now.Add(interval)
		}
		due := next
		if _, err := m.o.Counters(readings); err != nil {
			m.o.Log.Debug("cannot read packet counters", "err", err)
		} else {
			if regular {
				used, filled := m.noteTraffic(devices, readings, now)
				if filled {
					m.o.Wake()
				}
				if used {
					usedAt = now
				}
			}
			oneWay, late := m.noteSilence(devices, readings, now)
			if len(oneWay) > 0 {
				m.hint(oneWay, (*uplink.Watcher).HintSilence)
			}
			if interval == busyInterval && !late.IsZero() && late.Before(next) {
				due = late
			}
		}
		timer.Reset(time.Until(due))
	}
}

// noteTraffic passes a reading on to the paths of each device. It reports whether any device is in use, and whether a line has become full or
// is no longer.
func (m *Monitor) noteTraffic(devices map[int]*deviceTraffic, readings map[int]counters.Device, now time.Time) (used, filled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	byDevice := make(map[int][]rules.Path)
	for path, f := range m.planned {
		if f.Carrier {
			byDevice[f.Index] = append(byDevice[f.Index], path)
		}
	}
	maps.DeleteFunc(devices, func(index int, _ *deviceTraffic) bool { _, carries := byDevice[index]; return !carries })
	for index, list := range byDevice {
		reading, exists := readings[index]
		if !exists {
			delete(devices, index)
			continue
		}
		device := devices[index]
		if device == nil {
			device = &deviceTraffic{Device: reading}
			devices[index] = device
		}
		used = device.use.observe(now, reading.Sent) || used
		inbound := device.Received != reading.Received
		c := uplink.DeviceCounters{At: now, Received: reading.Received, Sent: reading.Sent, ReceivedBytes: reading.ReceivedBytes, SentBytes: reading.SentBytes}
		stream := device.stream.Observe(c)
		load, measured := device.load.Observe(c)
		began, stepped := device.step.Observe(c)
		device.Device, device.paths = reading, list
		paths := m.paths.of(list)
		if measured && len(paths) > 0 {
			filled = m.balance.load(&paths[0].uplink, load, now) || filled
		}
		for _, p := range paths {
			if inbound {
				p.noteInbound(now, stream)
			}
			if measured {
				p.Load(load, now)
			}
			if stepped {
				p.LoadStep(began)
			}
		}
	}
	return used, filled
}

// noteSilence returns the paths whose traffic looks one-way, and when that of the next ones will, if nothing is received; zero when nothing is
// waited for.
func (m *Monitor) noteSilence(devices map[int]*deviceTraffic, readings map[int]counters.Device, now time.Time) (oneWay []rules.Path, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for index, device := range devices {
		reading, exists := readings[index]
		if !exists {
			continue
		}
		patience := func() (longest time.Duration) {
			for _, p := range m.paths.of(device.paths) {
				longest = max(longest, p.Patience())
			}
			return longest
		}
		if device.oneWay.Observe(now, reading.Received, reading.Sent, patience) {
			oneWay = append(oneWay, device.paths...)
		}
		if due := device.oneWay.Due(patience); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return oneWay, next
}

// noteInbound notes that the device of a path receives, and whether that is a stream.
func (p *monitoredPath) noteInbound(now time.Time, stream bool) {
	p.inboundAt = now
	p.Received(now)
	if stream {
		p.InboundStream(now)
	}
}

// deviceTraffic is what the readings of a device have shown.
type deviceTraffic struct {
	counters.Device
	paths  []rules.Path
	oneWay uplink.OneWayDetector
	use    useMeter
	load   uplink.LoadMeter
	stream uplink.StreamDetector
	step   uplink.StepDetector
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
