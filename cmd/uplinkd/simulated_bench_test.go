package main

import (
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// comparedTries is how often each fault is made in the lab; a world each, so many at a time.
const (
	comparedTries   = 24
	comparedAtATime = 4
)

// aloneAndIdle is what the simulator simulates: one family, three targets that answer pings, no traffic. The second
// uplink is the one whose answers have the correlator confirm a fault.
const aloneAndIdle = `
[[uplink]]
name = "fiber"
device = "wan1"
` + pinged + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
` + pinged

const pinged = `
  [uplink.ipv6]
  method = "off"
  [uplink.probe]
  targets = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
`

// BenchmarkDetectionAgainstSimulation makes the simulator's faults in the lab, on an idle line, and prints both.
func BenchmarkDetectionAgainstSimulation(b *testing.B) {
	out, err := exec.Command("go", "run", "../../uplink/simulate", "-json").Output()
	if err != nil {
		b.Fatal(err)
	}
	var simulated []struct {
		Fault, Signal string
		P50ms         float64 `json:"p50_ms"`
		P99ms         float64 `json:"p99_ms"`
	}
	if err := json.Unmarshal(out, &simulated); err != nil {
		b.Fatal(err)
	}
	// The lab loses in both directions, the simulator in one: 1-(1-p)² is the same.
	kinds := map[string]string{"near blackhole": lab.Blackhole, "far blackhole": lab.Upstream, "20 % loss": "loss=10.557", "50 % loss": "loss=29.289"}
	for _, s := range simulated {
		kind, known := kinds[s.Fault]
		if !known {
			continue
		}
		b.Run(strings.ReplaceAll(s.Fault, " ", "_"), func(b *testing.B) {
			for b.Loop() {
				d := detected(b, kind)
				d.report(b)
				b.Logf("%s found after: simulated p50 %.0f ms, p99 %.0f ms; in the lab p50 %d ms, largest of %d %d ms; medians differ by %+.0f %%",
					s.Fault, s.P50ms, s.P99ms, d[len(d)/2].Milliseconds(), len(d), d[len(d)-1].Milliseconds(),
					100*(float64(d[len(d)/2].Microseconds())/1000/s.P50ms-1))
			}
		})
	}
}

// detected breaks the fiber of many worlds, each at a random phase of the probing, and returns when the daemon's
// verdict came.
func detected(b *testing.B, kind string) distribution {
	var found distribution
	for range comparedTries / comparedAtATime {
		var mu sync.Mutex
		var group sync.WaitGroup
		for range comparedAtATime {
			r := newRouter(b, lab.Options{}, aloneAndIdle)
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			group.Go(func() {
				defer func() { r.kill(); _ = r.Close() }()
				rest(b.Context(), 15*time.Second+rand.N(3*time.Second)) // targets' times are known by then
				if err := r.Break(kind, "fiber"); err != nil {
					b.Error(err)
					return
				}
				broken := r.World.Status()[0].Breaks[0]
				began := broken.Asked.Add(broken.Since.Sub(broken.Asked) / 2)
				for deadline := time.Now().Add(3 * patience); time.Now().Before(deadline); rest(b.Context(), 100*time.Millisecond) {
					events, err := r.eventsAfter(began)
					if err != nil {
						b.Error(err)
						return
					}
					if i := slices.IndexFunc(events, func(e status.Event) bool {
						return e.Kind == status.EventVerdict && e.Uplink == "fiber" && e.To != string(uplink.Up)
					}); i >= 0 {
						mu.Lock()
						found = append(found, events[i].Time.Sub(began))
						mu.Unlock()
						return
					}
				}
				b.Errorf("%s was not found", kind)
			})
		}
		group.Wait()
	}
	slices.Sort(found)
	return found
}
