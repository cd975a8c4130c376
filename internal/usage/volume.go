package usage

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

const (
	// keptDays and keptMonths bound an account.
	keptDays, keptMonths = 62, 25

	dayForm, monthForm = "2006-01-02", "2006-01"
)

// account is what one uplink has carried, both directions, by local date and by month.
type account struct {
	Days   map[string]int64 `json:"days"`
	Months map[string]int64 `json:"months"`
}

// accounts holds those of metered uplinks, by uplink name.
type accounts map[string]*account

// add counts bytes of an uplink.
func (a accounts) add(now time.Time, name string, bytes uint64) {
	x := a[name]
	if x == nil {
		x = &account{}
		a[name] = x
	}
	x.Days = addTo(x.Days, now.Format(dayForm), int64(bytes), keptDays)
	x.Months = addTo(x.Months, now.Format(monthForm), int64(bytes), keptMonths)
}

// addTo adds to one date of a map and drops the oldest that are more than kept. The forms of dates sort as the
// dates do.
func addTo(m map[string]int64, date string, bytes int64, kept int) map[string]int64 {
	if m == nil {
		m = make(map[string]int64)
	}
	m[date] += bytes
	dates := slices.Sorted(maps.Keys(m))
	for len(dates) > kept {
		// Dates that are to come are of a clock that was wrong, then or now. They end the day's count last.
		if dates[0] != date {
			delete(m, dates[0])
			dates = dates[1:]
		} else {
			delete(m, dates[len(dates)-1])
			dates = dates[:len(dates)-1]
		}
	}
	return m
}

// maxBytes is more than any line carries in a month.
const maxBytes = 1 << 60

// tidy drops what a damaged file may hold: no account, dates that are none, bytes that cannot be.
func (a accounts) tidy() {
	for name, x := range a {
		if x == nil {
			delete(a, name)
			continue
		}
		for form, m := range map[string]map[string]int64{dayForm: x.Days, monthForm: x.Months} {
			maps.DeleteFunc(m, func(date string, bytes int64) bool {
				at, err := time.Parse(form, date)
				return err != nil || at.Format(form) != date || bytes < 0 || bytes > maxBytes
			})
		}
	}
}

// volume returns what an uplink has carried today and this month, in bytes.
func (a accounts) volume(now time.Time, name string) (day, month int64) {
	x := a[name]
	if x == nil {
		return 0, 0
	}
	return x.Days[now.Format(dayForm)], x.Months[now.Format(monthForm)]
}

// over returns the uplinks that have used up their month.
func (a accounts) over(now time.Time, uplinks []config.Uplink) map[string]bool {
	over := make(map[string]bool)
	for i := range uplinks {
		u := &uplinks[i]
		if _, month := a.volume(now, u.Name); u.Quota > 0 && month >= u.Quota {
			over[u.Name] = true
		}
	}
	return over
}

func (a accounts) clone() accounts {
	out := make(accounts, len(a))
	for name, x := range a {
		out[name] = &account{maps.Clone(x.Days), maps.Clone(x.Months)}
	}
	return out
}

// dated lists the amounts of a map, the latest date first.
func dated(m map[string]int64) []status.DatedBytes {
	var list []status.DatedBytes
	for _, date := range slices.Backward(slices.Sorted(maps.Keys(m))) {
		list = append(list, status.DatedBytes{Date: date, Bytes: m[date]})
	}
	return list
}

// TakeOver takes the accounts that another router has kept, by document and uplink: what an uplink has carried there counts here.
func (m *Meter) TakeOver(documents map[string]map[string]json.RawMessage) (failed error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, value := range documents[docVolumes] {
		var x account
		if value == nil {
			continue
		}
		if err := json.Unmarshal(value, &x); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		m.accounts[name] = &x
	}
	m.accounts.tidy()
	return failed
}
