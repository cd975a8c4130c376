package usage

import (
	"encoding/json"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/status"
)

func TestAQuotaIsUsedUpAndComesBackWithTheMonth(t *testing.T) {
	c := &config.Config{Uplinks: []config.Uplink{{Name: "lte", Quota: 1000}, {Name: "fiber"}}}
	var woken int
	var events []status.Event
	m := New(Options{Log: slog.New(slog.DiscardHandler), Wake: func() { woken++ }, OnEvent: func(e status.Event) { events = append(events, e) },
		Save: func(string, func() any) {}})
	m.Configure(c)
	november := time.Date(2026, 11, 30, 23, 59, 0, 0, time.Local)
	step := func(now time.Time, bytes uint64, wantOver bool, wantChanged ...string) {
		t.Helper()
		woken, events = 0, nil
		m.accounts.add(now, "lte", bytes)
		m.accounts.add(now, "fiber", 10*bytes)
		m.reviewQuotas(now)
		if over := m.OverQuota(); over["lte"] != wantOver || over["fiber"] {
			t.Errorf("%v: over %v", now, over)
		}
		var changed []string
		for _, e := range events {
			changed = append(changed, e.Uplink)
		}
		if diff := cmp.Diff(wantChanged, changed); diff != "" || woken != len(changed) {
			t.Errorf("%v: planning was woken %d times (-want +got):\n%s", now, woken, diff)
		}
	}
	step(november, 999, false)
	step(november, 1, true, "lte")
	step(november, 5, true)
	c.Uplinks[0].Quota = 2000 // the owner buys more
	step(november, 0, false, "lte")
	step(november, 995, true, "lte")
	step(november.Add(time.Minute), 7, false, "lte")
	if day, month := m.Volume(november.Add(time.Minute), "lte"); day != 7 || month != 7 {
		t.Errorf("in December: %d, %d", day, month)
	}
	if day, month := m.Volume(november, "lte"); day != 2000 || month != 2000 {
		t.Errorf("in November: %d, %d", day, month)
	}
	got := m.Usage().Uplinks
	want := status.List[status.UplinkUsage]{{Name: "lte", QuotaBytes: 2000, Days: status.List[status.DatedBytes]{{Date: "2026-12-01", Bytes: 7}, {Date: "2026-11-30", Bytes: 2000}},
		Months: status.List[status.DatedBytes]{{Date: "2026-12", Bytes: 7}, {Date: "2026-11", Bytes: 2000}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestVolumesAreBounded counts over years, and finds the latest days as they were, however often it is restarted.
func TestVolumesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := make(accounts)
		now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
		var last int64
		for range rapid.IntRange(1, 150).Draw(t, "days") {
			now = now.AddDate(0, 0, rapid.IntRange(1, 40).Draw(t, "later"))
			last = rapid.Int64Range(0, 1e9).Draw(t, "bytes")
			u.add(now, "lte", uint64(last))
			if rapid.Bool().Draw(t, "restart") {
				text, err := json.Marshal(u.clone())
				if err != nil {
					t.Fatal(err)
				}
				u = make(accounts)
				if err := json.Unmarshal(text, &u); err != nil {
					t.Fatal(err)
				}
			}
		}
		a := u["lte"]
		if len(a.Days) > keptDays || len(a.Months) > keptMonths {
			t.Errorf("%d days and %d months are kept", len(a.Days), len(a.Months))
		}
		if day, month := u.volume(now, "lte"); day != last || month < day {
			t.Errorf("today %d of %d, this month %d", day, last, month)
		}
	})
}

func TestRatesComeFromCounters(t *testing.T) {
	s := sampler{before: map[int]counters.Device{}, now: map[int]counters.Device{}}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	read := func(later time.Duration, rx, tx uint64, wantReceived, wantSent float32) {
		t.Helper()
		at = at.Add(later)
		clear(s.now)
		s.now[3] = counters.Device{ReceivedBytes: rx, SentBytes: tx}
		got := s.sample(at, map[string]int{"fiber": 3, "lte": 0})
		r, x := got["fiber"].values[received], got["fiber"].values[sent]
		if wantReceived < 0 && r == r || wantReceived >= 0 && (r != wantReceived || x != wantSent) {
			t.Errorf("%d, %d: %v and %v a second, want %v and %v", rx, tx, r, x, wantReceived, wantSent)
		}
		if gone := got["lte"].values[received]; gone == gone {
			t.Errorf("a device that is not there receives %v", gone)
		}
	}
	read(0, 1000, 50, -1, 0) // the first look has nothing to compare with
	read(2*time.Second, 3000, 50, 1000, 0)
	if got := s.delta["fiber"]; got != (traffic{2000, 0}) {
		t.Errorf("delta %+v", got)
	}
	read(time.Second, 10, 0, -1, 0) // another device with the same index
	if got := s.delta["fiber"]; got != (traffic{}) {
		t.Errorf("delta %+v", got)
	}
	read(time.Second, 20, 4, 10, 4)
}

func TestAccountsOutliveADamagedFileAndAClockThatIsSet(t *testing.T) {
	day := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	a := accounts{"none": nil, "empty": {}, "lte": {
		Days:   map[string]int64{"2026-11-20": 5, "2026-1-2": 1, "x": 1, "2026-11-19": -1, "2026-11-18": math.MaxInt64},
		Months: map[string]int64{"2026-11": 7, "2026-13": 1, "": 1},
	}}
	a.tidy()
	if x := a["lte"]; len(a) != 2 || len(x.Days) != 1 || len(x.Months) != 1 {
		t.Errorf("%+v", a["lte"])
	}
	a.clone()
	a.add(day, "empty", 1)
	// A clock in the far future, day after day, and then right again: today counts, whatever else is there.
	for n := range 3 * keptDays {
		a.add(day.AddDate(50, 0, n), "lte", 1)
	}
	for n := range 3 * keptDays {
		a.add(day.AddDate(0, 0, n), "lte", 100)
		a.add(day.AddDate(0, 0, n), "lte", 100)
		want := int64(200)
		if n == 0 {
			want += 5
		}
		if today, _ := a.volume(day.AddDate(0, 0, n), "lte"); n > 0 && today != want {
			t.Fatalf("day %d has %d bytes", n, today)
		}
		if x := a["lte"]; len(x.Days) > keptDays || len(x.Months) > keptMonths {
			t.Fatalf("%d days, %d months", len(x.Days), len(x.Months))
		}
	}
	if _, month := a.volume(day, "lte"); month == 0 {
		t.Error("the month has nothing")
	}
}
