package pair

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
)

const (
	// maxValue bounds a record, in bytes, and maxRecords their number: ten of each of 62 uplinks, and what the hosts of 62 LANs were told.
	maxValue   = 64 << 10
	maxRecords = 1024
)

// Stamp orders what two routers have written: by a count that is above everything its writer had seen (Lamport's clock), and by writers where they did
// not hear of each other. No time of day is in it.
type Stamp struct {
	Count uint64 `json:"count"`
	Node  string `json:"node"`
}

// Compare is negative when s is older than o.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.Count, o.Count), cmp.Compare(s.Node, o.Node))
}

// Record is something that the primary knows: a lease, what hosts were told. Null means that there is none any more.
type Record struct {
	Key string `json:"key"` // document/name
	Stamp
	Value json.RawMessage `json:"value"`
}

func (r *Record) gone() bool { return len(r.Value) == 0 || string(r.Value) == "null" }

// ledger holds the latest record of each key, of either router. It is pure.
type ledger struct {
	Node    string            `json:"node"`  // this router's own name, drawn once
	Clock   uint64            `json:"clock"` // the highest count seen
	Records map[string]Record `json:"records"`
}

// put notes what is true here now, and reports whether that is news.
func (l *ledger) put(key string, value json.RawMessage) bool {
	have, known := l.Records[key]
	r := Record{Key: key, Value: value}
	if known && (bytes.Equal(have.Value, value) || have.gone() && r.gone()) || !known && (r.gone() || len(l.Records) >= maxRecords) || len(value) > maxValue {
		return false
	}
	l.Clock++
	r.Stamp = Stamp{l.Clock, l.Node}
	l.Records[key] = r
	return true
}

// merge takes a record of the other router, and reports whether that changed anything. What is newer wins; but what this router has in use, it being the
// primary, is the truth, whatever the other wrote while they did not hear of each other.
func (l *ledger) merge(r Record, inUse bool) bool {
	if len(r.Key) > 256 || len(r.Value) > maxValue || r.Count > 1<<62 || r.Node == "" || len(r.Node) > 64 {
		return false
	}
	have, known := l.Records[r.Key]
	if !known && len(l.Records) >= maxRecords {
		return false
	}
	l.Clock = max(l.Clock, r.Count)
	if known && r.Compare(have.Stamp) <= 0 {
		return false
	}
	if inUse && known && !have.gone() {
		l.Clock++
		have.Stamp = Stamp{l.Clock, l.Node}
		l.Records[r.Key] = have
		return true
	}
	l.Records[r.Key] = r
	return true
}

// have returns the stamps of all records.
func (l *ledger) have() map[string]Stamp {
	stamps := make(map[string]Stamp, len(l.Records))
	for key, r := range l.Records {
		stamps[key] = r.Stamp
	}
	return stamps
}

// newer lists the records that whoever has these stamps lacks, in the order in which they were written.
func (l *ledger) newer(have map[string]Stamp) []Record {
	var list []Record
	for key, r := range l.Records {
		if s, known := have[key]; !known || s.Compare(r.Stamp) < 0 {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int { return a.Compare(b.Stamp) })
	return list
}

// usable drops what a damaged file may hold.
func (l *ledger) usable() {
	if len(l.Node) != 32 {
		l.Node = newNode()
	}
	if l.Records == nil {
		l.Records = make(map[string]Record)
	}
	maps.DeleteFunc(l.Records, func(key string, r Record) bool {
		return key != r.Key || len(r.Value) > maxValue || r.Node == "" || r.Count > 1<<62
	})
	for _, r := range l.Records {
		l.Clock = max(l.Clock, r.Count)
	}
}
