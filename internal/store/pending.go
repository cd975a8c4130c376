package store

import (
	"encoding/json"
	"sync"
)

// PendingLog is a [Log] whose values wait until they can be written. All methods may be called by any goroutine.
type PendingLog struct {
	disk *Saver

	mu      sync.Mutex
	log     *Log // guarded by mu, as what follows
	unsaved []any
}

// PendingLog returns the log of a name, which holds up to limit bytes.
func (s *Saver) PendingLog(name string, limit int64) *PendingLog {
	return &PendingLog{disk: s, log: s.Log(name, limit)}
}

// Append writes values, or has the saver try it again later.
func (l *PendingLog) Append(values ...any) {
	l.mu.Lock()
	l.unsaved = append(l.unsaved, values...)
	l.mu.Unlock()
	l.disk.Write(l.log.Name(), func() error {
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
func (l *PendingLog) Load(each func(json.RawMessage)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.log.Load(each)
	for _, v := range l.unsaved {
		line, _ := json.Marshal(v) // as the log would
		each(line)
	}
	return err
}
