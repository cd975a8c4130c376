package daemon

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

// docVolumes is the document of what metered uplinks have carried.
const docVolumes = "volumes"

const (
	// volumePace is how often it is written: flash wears out, and a crash may cost that much of the count.
	volumePace = 10 * time.Minute
	// keptDays and keptMonths bound it.
	keptDays, keptMonths = 62, 25

	dayForm, monthForm = "2006-01-02", "2006-01"
)

// account is what one uplink has carried, both directions, by local date and by month.
type account struct {
	Days   map[string]int64 `json:"days"`
	Months map[string]int64 `json:"months"`
}

// volumes counts what metered uplinks carry, and knows which are above their quota.
type volumes struct {
	mu       sync.Mutex
	accounts map[string]*account // by uplink name
	over     map[string]bool     // replaced, never changed in place
}

func newVolumes() *volumes {
	return &volumes{accounts: make(map[string]*account), over: make(map[string]bool)}
}

// counted reports whether the bytes of an uplink are kept.
func counted(u *config.Uplink) bool { return u.Metered || u.Quota > 0 }

// add counts bytes of an uplink.
func (u *volumes) add(now time.Time, name string, bytes uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := u.accounts[name]
	if a == nil {
		a = &account{}
		u.accounts[name] = a
	}
	a.Days = addTo(a.Days, now.Format(dayForm), int64(bytes), keptDays)
	a.Months = addTo(a.Months, now.Format(monthForm), int64(bytes), keptMonths)
}

// addTo adds to one date of a map and drops the oldest that are more than kept. The forms of dates sort as the
// dates do.
func addTo(m map[string]int64, date string, bytes int64, kept int) map[string]int64 {
	if m == nil {
		m = make(map[string]int64)
	}
	m[date] += bytes
	for _, old := range slices.Sorted(maps.Keys(m))[:max(0, len(m)-kept)] {
		delete(m, old)
	}
	return m
}

// of returns what an uplink has carried today and this month.
func (u *volumes) of(now time.Time, name string) (day, month int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := u.accounts[name]
	if a == nil {
		return 0, 0
	}
	return a.Days[now.Format(dayForm)], a.Months[now.Format(monthForm)]
}

// review decides anew which uplinks are above their quota, and returns those for which that has changed.
func (u *volumes) review(now time.Time, c *config.Config) (over map[string]bool, changed []string) {
	over = make(map[string]bool)
	for i := range c.Uplinks {
		x := &c.Uplinks[i]
		if _, month := u.of(now, x.Name); x.Quota > 0 && month >= x.Quota {
			over[x.Name] = true
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range c.Uplinks {
		if name := c.Uplinks[i].Name; over[name] != u.over[name] {
			changed = append(changed, name)
		}
	}
	u.over = over
	return over, changed
}

// isOver returns the uplinks that are above their quota.
func (u *volumes) isOver() map[string]bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.over
}

// kept returns a copy for the disk.
func (u *volumes) kept() map[string]*account {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make(map[string]*account, len(u.accounts))
	for name, a := range u.accounts {
		out[name] = &account{maps.Clone(a.Days), maps.Clone(a.Months)}
	}
	return out
}

// table returns what is known of one uplink, the latest dates first.
func (u *volumes) table(x *config.Uplink) status.UplinkUsage {
	out := status.UplinkUsage{Name: x.Name, QuotaBytes: x.Quota}
	u.mu.Lock()
	defer u.mu.Unlock()
	out.OverQuota = u.over[x.Name]
	if a := u.accounts[x.Name]; a != nil {
		out.Days, out.Months = dated(a.Days), dated(a.Months)
	}
	return out
}

func dated(m map[string]int64) []status.DatedBytes {
	var list []status.DatedBytes
	for _, date := range slices.Backward(slices.Sorted(maps.Keys(m))) {
		list = append(list, status.DatedBytes{Date: date, Bytes: m[date]})
	}
	return list
}

// countVolumes counts what the devices of metered uplinks have moved, and has planning know of quotas.
func (d *Daemon) countVolumes(now time.Time, moved map[string]traffic) {
	c := d.current()
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; counted(u) {
			d.volumes.add(now, u.Name, moved[u.Name].received+moved[u.Name].sent)
		}
	}
	d.reviewQuotas(now, c)
}

// reviewQuotas drains the uplinks that are above their quota, and takes back those that are not any more.
func (d *Daemon) reviewQuotas(now time.Time, c *config.Config) {
	over, changed := d.volumes.review(now, c)
	if len(changed) == 0 {
		return
	}
	d.monitor.SetOverQuota(over)
	d.engine.Hint()
	for _, name := range changed {
		message := "the month's quota is used up: new traffic goes elsewhere while there is an elsewhere"
		if !over[name] {
			message = "has quota again: it may carry new traffic"
		}
		_, month := d.volumes.of(now, name)
		d.log.Warn("quota", "uplink", name, "over", over[name], "bytes", month)
		d.event(status.Event{Kind: status.EventQuota, Uplink: name, Message: message, Reason: fmt.Sprintf("%d bytes this month", month)})
	}
	d.saveVolumes()
}

func (d *Daemon) saveVolumes() { d.save(docVolumes, func() any { return d.volumes.kept() }) }

// Usage returns what metered uplinks have carried.
func (d *Daemon) Usage() status.Usage {
	var out status.Usage
	c := d.current()
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; counted(u) {
			out.Uplinks = append(out.Uplinks, d.volumes.table(u))
		}
	}
	return out
}
