package daemon

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// hand is a worker that notes what happens to it.
type hand struct {
	name string
	log  func(string)
}

func (h *hand) Run(ctx context.Context) error {
	h.log(h.name + " begins")
	<-ctx.Done()
	time.Sleep(time.Second) // it takes a while to go
	h.log(h.name + " ends")
	return nil
}

func (h *hand) SetLink(index int, up bool) {
	if up {
		h.log(h.name + " has a link")
	}
}

// A worker that is replaced ends before the next begins, for both would want the same port; only one that goes for good
// says goodbye; and what a former one says does not count.
func TestACrewReplacesAndDismisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		log := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, s)
		}
		current := make(map[string]func() bool)
		seat := func(name, device string, terms int) post[*hand] {
			return post[*hand]{device: device, terms: terms, make: func(c func() bool) *hand {
				current[name] = c
				return &hand{name, log}
			}, goodbye: func(_ context.Context, h *hand) { log(h.name + " says goodbye") }}
		}
		var c crew[*hand]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = c.run(ctx) }()
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
		c.staff(map[string]post[*hand]{"fiber": seat("first", "eth1", 1)})
		step("first begins")
		c.staff(map[string]post[*hand]{"fiber": seat("the same", "eth1", 1)})
		step()
		c.observe(&rules.Observed{Links: []rules.Link{{Name: "eth1", Index: 7, Up: true, Carrier: true}}})
		step("first has a link")
		c.staff(map[string]post[*hand]{"fiber": seat("second", "eth1", 2)})
		if current["first"]() || !current["second"]() {
			t.Error("the one that was replaced is heard, or the new one is not")
		}
		step("first ends", "second begins")
		c.staff(nil)
		step("second says goodbye", "second ends")
		c.staff(map[string]post[*hand]{"fiber": seat("third", "eth1", 1)})
		step("third begins")
		cancel()
		<-done
		step("third ends")
	})
}
