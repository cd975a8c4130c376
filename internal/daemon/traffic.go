package daemon

import (
	"context"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// trafficPace is how often the packet counters are looked at.
const trafficPace = 50 * time.Millisecond

// watchTraffic has the paths of a device probed at once when traffic leaves by it and none comes back:
// a dead provider is then noticed without waiting for the calm pace.
func (d *Daemon) watchTraffic(ctx context.Context) error {
	counters, err := kernel.OpenTraffic()
	if err != nil {
		return err
	}
	defer counters.Close()
	devices := make(map[int]*uplink.Silence) // by interface index, as the next
	received := make(map[int]uint64)         // packets
	now := make(map[int]kernel.Counters)
	ticker := time.NewTicker(trafficPace)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := counters.Read(now); err != nil {
			d.log.Debug("packet counters cannot be read", "err", err)
			continue
		}
		for index, paths := range d.pathsByDevice() {
			c, exists := now[index]
			if !exists {
				delete(devices, index)
				delete(received, index)
				continue
			}
			if devices[index] == nil {
				devices[index] = new(uplink.Silence)
			}
			if received[index] != c.Received {
				received[index] = c.Received
				d.judge.heard(paths)
			}
			if devices[index].Observe(time.Now(), c.Received, c.Sent, func() time.Duration { return d.judge.slowest(paths) }) {
				d.judge.hint(paths)
			}
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
