package daemon

import (
	"encoding/json"
	"sync"

	"github.com/uplinkd/uplinkd/internal/store"
)

const (
	// docOutages is the log of outages in the state directory, and outageBytes its bound: some thousands of them.
	docOutages  = "outages"
	outageBytes = 4 << 20
)

// outageLog keeps outages that are over. What cannot be written waits.
type outageLog struct {
	disk *saver

	mu      sync.Mutex
	log     *store.Log // guarded by mu, as what follows
	unsaved []any
}

// Append writes values, or has the saver try it again later.
func (l *outageLog) Append(values ...any) {
	l.mu.Lock()
	l.unsaved = append(l.unsaved, values...)
	l.mu.Unlock()
	l.disk.write(l.log.Name(), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.unsaved) == 0 {
			return nil
		}
		if err := l.log.Append(l.unsaved...); err != nil {
			return err
		}
		l.unsaved = nil
		return nil
	})
}

// Load passes on all that was appended, the oldest first.
func (l *outageLog) Load(each func(json.RawMessage)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.log.Load(each)
	for _, v := range l.unsaved {
		line, _ := json.Marshal(v) // as the log would
		each(line)
	}
	return err
}
