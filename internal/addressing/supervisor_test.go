package addressing

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// fakeClient is a client that notes what happens to it.
type fakeClient struct {
	name string
	log  func(string)
}

func (f *fakeClient) Run(ctx context.Context) error {
	f.log(f.name + " begins")
	<-ctx.Done()
	time.Sleep(time.Second) // it takes a while to go
	f.log(f.name + " ends")
	return nil
}

func (f *fakeClient) SetLink(index int, up bool) {
	if up {
		f.log(f.name + " has a link")
	}
}

// A client that is replaced ends before the next begins, for both would want the same port; only one that goes for good
// is removed; and what a former one says does not count.
func TestASupervisorReplacesAndRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		log := func(line string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, line)
		}
		current := make(map[string]func() bool)
		wanted := func(name, device string, key int) spec[*fakeClient] {
			return spec[*fakeClient]{device: device, key: key, make: func(c func() bool) *fakeClient {
				current[name] = c
				return &fakeClient{name, log}
			}, onRemove: func(_ context.Context, f *fakeClient) { log(f.name + " is removed") }}
		}
		var s supervisor[*fakeClient]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		step := func(want ...string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			got = nil
		}
		s.apply(map[string]spec[*fakeClient]{"fiber": wanted("first", "eth1", 1)})
		step("first begins")
		s.apply(map[string]spec[*fakeClient]{"fiber": wanted("the same", "eth1", 1)})
		step()
		s.observe(&rules.Observed{Links: []rules.Link{{Name: "eth1", Index: 7, Up: true, Carrier: true}}})
		step("first has a link")
		s.apply(map[string]spec[*fakeClient]{"fiber": wanted("second", "eth1", 2)})
		if current["first"]() || !current["second"]() {
			t.Error("the one that was replaced is heard, or the new one is not")
		}
		step("first ends", "second begins")
		s.apply(nil)
		step("second is removed", "second ends")
		s.apply(map[string]spec[*fakeClient]{"fiber": wanted("third", "eth1", 1)})
		step("third begins")
		cancel()
		<-done
		step("third ends")
	})
}

// A provider must not hear of the address that a device has before it has the one that is configured.
func TestAClientWaitsForTheHardwareAddress(t *testing.T) {
	var got []string
	up := &fakeClient{"client", func(line string) { got = append(got, line) }}
	own, wanted := [6]byte{2, 5: 1}, [6]byte{2, 5: 9}
	var s supervisor[*fakeClient]
	specs := func(hardware [6]byte) map[string]spec[*fakeClient] {
		return map[string]spec[*fakeClient]{"fiber": {device: "eth1", hardware: hardware, make: func(func() bool) *fakeClient { return up }}}
	}
	look := func(device [6]byte, want bool) {
		t.Helper()
		got = nil
		s.observe(&rules.Observed{Links: []rules.Link{{Name: "eth1", Index: 7, Up: true, Carrier: true, Hardware: device}}})
		if linked := len(got) > 0; linked != want {
			t.Errorf("with %v: %q", device, got)
		}
	}
	s.apply(specs([6]byte{}))
	look(own, true)
	s.apply(specs(wanted))
	look(own, false)
	look(wanted, true)
	look([6]byte{}, true) // it can have none, which is a problem of its own
	s.apply(specs(own))
	look(wanted, false)
}
