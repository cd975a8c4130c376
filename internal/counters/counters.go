// Package counters shares one reading of the devices' counters among all who need it at the same moment:
//
//	kernel (RTM_GETSTATS) ──> Reader ──┬──> internal/monitor: one-way traffic, load
//	                                   └──> internal/usage: rates, volumes
package counters

import (
	"maps"
	"sync"
	"time"
)

// maxAge is how old a reading may be: those who keep the same phase wake together, and one is enough for them. It is
// well below the 50 ms between two readings of the monitor.
const maxAge = 10 * time.Millisecond

// Device holds what a device has moved since it was made.
type Device struct {
	Received, Sent           uint64 // packets
	ReceivedBytes, SentBytes uint64
}

// Reader reads the counters of all devices. Its methods may be called by any goroutine.
type Reader struct {
	read func(map[int]Device) error

	mu     sync.Mutex
	latest map[int]Device // by interface index
	at     time.Time      // of latest; zero when it could not be read
}

// NewReader returns a Reader of a source that fills in the counters by interface index.
func NewReader(read func(map[int]Device) error) *Reader {
	return &Reader{read: read, latest: make(map[int]Device)}
}

// Read puts the counters of every device into out, by interface index, and returns when they were read: now, or up to
// 10 ms ago.
func (r *Reader) Read(out map[int]Device) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.at) > maxAge {
		r.at = time.Time{}
		if err := r.read(r.latest); err != nil {
			return time.Time{}, err
		}
		r.at = now
	}
	clear(out)
	maps.Copy(out, r.latest)
	return r.at, nil
}
