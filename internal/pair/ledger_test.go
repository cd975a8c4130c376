package pair

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func newLedger(node string) *ledger { return &ledger{Node: node, Records: make(map[string]Record)} }

func value(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	b, _ := json.Marshal(s)
	return b
}

func TestWhatIsNewerWinsAndWhatIsInUseIsTrue(t *testing.T) {
	a, b := newLedger("a"), newLedger("b")
	a.put("leases4/fiber", value("first"))
	for _, r := range a.newer(nil) {
		b.merge(r, false)
	}
	stale := b.Records["leases4/fiber"]
	a.put("leases4/fiber", value("second"))
	if a.put("leases4/fiber", value("second")) {
		t.Error("what is known is news")
	}
	if a.merge(stale, false) {
		t.Error("an older record was taken")
	}
	for range 5 { // b was primary too, and wrote more
		b.put("leases4/fiber", value("b"+fmt.Sprint(b.Clock)))
	}
	if a.merge(b.Records["leases4/fiber"], true); string(a.Records["leases4/fiber"].Value) != `"second"` {
		t.Error("what is in use was overwritten")
	}
	if b.merge(a.Records["leases4/fiber"], false); string(b.Records["leases4/fiber"].Value) != `"second"` {
		t.Error("what is in use does not win at the other router")
	}
	a.put("leases4/fiber", nil)
	if b.merge(a.Records["leases4/fiber"], false); !(func() bool { r := b.Records["leases4/fiber"]; return r.gone() }()) {
		t.Error("a lease that is over is still there")
	}
}

func TestALedgerIsBounded(t *testing.T) {
	l := newLedger("a")
	if l.put("k", make([]byte, maxValue+1)) || l.merge(Record{Key: "k", Stamp: Stamp{1, "b"}, Value: make([]byte, maxValue+1)}, false) {
		t.Error("a record of any length is taken")
	}
	for i := range 2 * maxRecords {
		l.put(fmt.Sprint("own", i), value("x"))
		l.merge(Record{Key: fmt.Sprint("other", i), Stamp: Stamp{uint64(i), "b"}, Value: value("x")}, false)
	}
	if len(l.Records) > maxRecords {
		t.Errorf("%d records", len(l.Records))
	}
	if l.merge(Record{Key: "own1", Stamp: Stamp{1 << 63, "b"}, Value: value("y")}, false) {
		t.Error("a count that leaves no room above it is taken")
	}
	var damaged ledger
	if err := json.Unmarshal([]byte(`{"node":"x","clock":3,"records":{"a":{"key":"b","count":1,"node":"n","value":1},"c":{"key":"c","count":9,"node":"n","value":1}}}`), &damaged); err != nil {
		t.Fatal(err)
	}
	if damaged.usable(); len(damaged.Node) != 32 || len(damaged.Records) != 1 || damaged.Clock != 9 {
		t.Errorf("%+v", damaged)
	}
}

// machine is a router of the histories below. Its server is the truth about leases: one for each uplink, for whoever asks as the pair.
type machine struct {
	*ledger
	disk      ledger // what a restart finds
	primary   bool
	confirmed map[string]bool
}

func (m *machine) save() {
	m.disk = *m.ledger
	m.disk.Records = maps.Clone(m.Records)
}

// TestHistories: partitions, restarts, role changes and two primaries at once, in any order; when the two hear each other again and one of them is primary,
// both know the same, and no lease that the servers gave is missing.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		both := []*machine{{ledger: newLedger("a")}, {ledger: newLedger("b")}}
		keys := []string{"leases4/fiber", "leases6/fiber", "leases4/lte"}
		server := make(map[string]string) // by key
		for _, m := range both {
			m.confirmed = make(map[string]bool)
			m.save()
		}
		// sync is what one connection carries: all that to lacks, or the first part of it.
		sync := func(from, to *machine, part int) {
			records := from.newer(to.have())
			if part >= 0 {
				records = records[:min(part, len(records))]
			}
			if from.primary && to.primary {
				return
			}
			for _, r := range records {
				to.merge(r, to.primary && to.confirmed[r.Key])
			}
			to.save()
		}
		lease := func(m *machine, key string) { // the client of a primary asks, and is given what the pair has, or something new
			if server[key] == "" || rapid.Bool().Draw(t, "renumbered") {
				server[key] = fmt.Sprint(rapid.IntRange(1, 1000).Draw(t, "address"))
			}
			m.put(key, value(server[key]))
			m.confirmed[key] = true
			m.save()
		}
		t.Repeat(map[string]func(*rapid.T){
			"lease": func(t *rapid.T) {
				m := rapid.SampledFrom(both).Draw(t, "router")
				if m.primary {
					lease(m, rapid.SampledFrom(keys).Draw(t, "key"))
				}
			},
			"hear": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "who")
				sync(both[i], both[1-i], rapid.IntRange(-1, 2).Draw(t, "part"))
			},
			"role": func(t *rapid.T) {
				m := rapid.SampledFrom(both).Draw(t, "router")
				m.primary = !m.primary
				clear(m.confirmed)
			},
			"restart": func(t *rapid.T) {
				m := rapid.SampledFrom(both).Draw(t, "router")
				*m.ledger = m.disk
				m.Records = maps.Clone(m.disk.Records)
				clear(m.confirmed)
			},
		})
		// keepalived decides, and the two hear each other.
		p := rapid.IntRange(0, 1).Draw(t, "primary")
		both[p].primary, both[1-p].primary = true, false
		clear(both[1-p].confirmed)
		settle := func() {
			for range 4 {
				sync(both[0], both[1], -1)
				sync(both[1], both[0], -1)
			}
		}
		settle()
		for key, address := range server { // its clients confirm what they hold
			both[p].put(key, value(address))
			both[p].confirmed[key] = true
		}
		settle()
		if diff := cmp.Diff(both[0].Records, both[1].Records); diff != "" {
			t.Fatalf("they do not know the same:\n%s", diff)
		}
		for key, address := range server {
			if r := both[1-p].Records[key]; string(r.Value) != string(value(address)) {
				t.Fatalf("%s is %s, and the server gave %s", key, r.Value, address)
			}
		}
		for _, m := range both { // whatever is heard late changes nothing any more
			before := maps.Clone(m.Records)
			for _, r := range slices.Concat(both[0].newer(nil), both[1].newer(nil)) {
				m.merge(r, m.primary)
			}
			if diff := cmp.Diff(before, m.Records); diff != "" {
				t.Fatalf("a record that was heard again changes something:\n%s", diff)
			}
		}
	})
}

// TestAStaleRouterLearnsBeforeItSpeaks: what the one that was away knew is not true because it is primary now.
func TestAStaleRouterLearnsBeforeItSpeaks(t *testing.T) {
	away, here := newLedger("a"), newLedger("b")
	away.put("leases4/fiber", value("old"))
	for _, r := range away.newer(nil) {
		here.merge(r, false)
	}
	here.put("leases4/fiber", value("new"))
	for _, r := range here.newer(away.have()) { // away is primary, and has confirmed nothing yet
		away.merge(r, false)
	}
	if got := string(away.Records["leases4/fiber"].Value); got != `"new"` {
		t.Errorf("%s", got)
	}
}
