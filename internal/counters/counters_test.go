package counters

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhoLooksAtTheSameMomentSharesOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pace = 50 * time.Millisecond
		began, readings, broken := time.Now(), uint64(0), error(nil)
		r := NewReader(func(out map[int]Device) error {
			readings++
			clear(out)
			out[7] = Device{Received: readings}
			return broken
		})
		read := func(wantReading uint64, wantAt time.Duration) {
			t.Helper()
			got := map[int]Device{3: {Sent: 1}} // of a device that is gone
			at, err := r.Read(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[int]Device{7: {Received: wantReading}}, got); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if at.Sub(began) != wantAt {
				t.Errorf("they are of %v, want %v", at.Sub(began), wantAt)
			}
			got[7] = Device{} // theirs to change
		}
		read(1, 0)
		read(1, 0)
		time.Sleep(maxAge)
		read(1, 0)
		time.Sleep(pace - maxAge)
		read(2, pace)
		read(2, pace)
		time.Sleep(pace)
		broken = errors.New("no buffers")
		for range 2 {
			if _, err := r.Read(map[int]Device{}); !errors.Is(err, broken) {
				t.Errorf("got %v, want %v", err, broken)
			}
		}
		broken = nil
		read(5, 2*pace)
	})
}
