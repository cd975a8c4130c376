package daemon

import (
	"context"
	"time"

	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// busyPace is how often the packet counters are looked at while people use an uplink, and idlePace
	// while there is hardly more than our own probes: each look wakes the processor.
	busyPace = 50 * time.Millisecond
	idlePace = 500 * time.Millisecond
	// busyPackets is how many packets, sent by one device within busyWindow, are more than our probes, and
	// busySpan how long it counts as used for them.
	busyPackets = 20
	busyWindow  = time.Second
	busySpan    = 10 * time.Second
	// floodRate is the packets a second that no neighbours send unasked: a stream comes in.
	floodRate = 100
)

// watchTraffic has the paths of a device probed at once when traffic leaves by it and none comes back:
// a dead provider is then noticed without waiting for the calm pace.
func (d *Daemon) watchTraffic(ctx context.Context) error {
	devices := make(map[int]*deviceTraffic) // by interface index
	seen := make(map[int]counters.Device)
	var used time.Time // when a device was last seen in use
	timer := time.NewTimer(busyPace)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		now := time.Now()
		if pace := trafficPace(now.Sub(used)); pace == idlePace {
			timer.Reset(schedule.Until(d.started, now, pace))
		} else {
			timer.Reset(pace)
		}
		if _, err := d.counters.Read(seen); err != nil {
			d.log.Debug("packet counters cannot be read", "err", err)
			continue
		}
		for index, paths := range d.pathsByDevice() {
			c, exists := seen[index]
			if !exists {
				delete(devices, index)
				continue
			}
			device := devices[index]
			if device == nil {
				device = &deviceTraffic{Device: c, at: now}
				devices[index] = device
			}
			if device.use.observe(now, c.Sent) {
				used = now
			}
			if device.Received != c.Received {
				d.judge.heard(paths, flooded(c.Received-device.Received, now.Sub(device.at)))
			}
			device.at = now
			if bits, ok := device.load.observe(now, c); ok {
				d.judge.load(paths, bits, now)
			}
			device.Device = c
			if device.silence.Observe(now, c.Received, c.Sent, func() time.Duration { return d.judge.slowest(paths) }) {
				d.judge.hint(paths)
			}
		}
	}
}

// deviceTraffic is what the looks at a device have shown.
type deviceTraffic struct {
	counters.Device
	at      time.Time // when they were these
	silence uplink.Silence
	use     usage
	load    load
}

// flooded reports whether so many packets in so much time are a stream.
func flooded(packets uint64, in time.Duration) bool {
	return packets >= 3 && float64(packets) >= floodRate*in.Seconds()
}

// load is how much a device moves, over windows of a second.
type load struct {
	since time.Time
	at    counters.Device // at that time
}

// observe returns the bits a second of a window that ends now, in the direction that moved more.
func (l *load) observe(now time.Time, c counters.Device) (bits float64, ok bool) {
	elapsed := now.Sub(l.since)
	if elapsed < busyWindow {
		return 0, false
	}
	before := l.at
	ok = !l.since.IsZero() && c.ReceivedBytes >= before.ReceivedBytes && c.SentBytes >= before.SentBytes
	l.since, l.at = now, c
	return 8 * float64(max(c.ReceivedBytes-before.ReceivedBytes, c.SentBytes-before.SentBytes)) / elapsed.Seconds(), ok
}

// usage tells whether people use a device, from its counter of packets sent.
type usage struct {
	since time.Time
	sent  uint64 // at that time
}

// observe reports whether the device has sent more than our probes, lately.
func (u *usage) observe(now time.Time, sent uint64) bool {
	used := sent-u.sent > busyPackets && !u.since.IsZero()
	if used || now.Sub(u.since) >= busyWindow {
		u.since, u.sent = now, sent
	}
	return used
}

// trafficPace returns how long to wait for the next look, given how long no device was seen in use.
func trafficPace(unused time.Duration) time.Duration {
	if unused < busySpan {
		return busyPace
	}
	return idlePace
}

// load tells the paths of a device how much it moves.
func (j *judge) load(paths []rules.Path, bits float64, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, path := range paths {
		if w := j.watched[path]; w != nil {
			w.Load(bits, now)
		}
	}
}

// pathsByDevice groups the paths whose device has carrier by its interface index.
func (d *Daemon) pathsByDevice() map[int][]rules.Path {
	paths := make(map[int][]rules.Path)
	for path, f := range d.engine.Last().Report.Facts {
		if f.Carrier {
			paths[f.Index] = append(paths[f.Index], path)
		}
	}
	return paths
}
