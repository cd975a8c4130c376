package daemon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/kernel"
)

func TestWhoLooksAtTheSameMomentSharesOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, readings, broken := time.Now(), uint64(0), error(nil)
		c := newCounters(func(out map[int]kernel.Counters) error {
			readings++
			clear(out)
			out[7] = kernel.Counters{Received: readings}
			return broken
		})
		look := func(wantReading uint64, wantAt time.Duration) {
			t.Helper()
			got := map[int]kernel.Counters{3: {Sent: 1}} // of a device that is gone
			at, err := c.look(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[int]kernel.Counters{7: {Received: wantReading}}, got); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if at.Sub(began) != wantAt {
				t.Errorf("they are of %v, want %v", at.Sub(began), wantAt)
			}
			got[7] = kernel.Counters{} // theirs to change
		}
		look(1, 0)
		look(1, 0)
		time.Sleep(counterAge)
		look(1, 0)
		time.Sleep(busyPace - counterAge)
		look(2, busyPace)
		look(2, busyPace)
		time.Sleep(busyPace)
		broken = errors.New("no buffers")
		for range 2 {
			if _, err := c.look(map[int]kernel.Counters{}); !errors.Is(err, broken) {
				t.Errorf("got %v, want %v", err, broken)
			}
		}
		broken = nil
		look(5, 2*busyPace)
	})
}
