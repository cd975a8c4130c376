package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// killsEnv is how often the daemon is killed; make soak does so 500 times.
const (
	killsEnv = "UPLINKD_KILLS"
	fewKills = 12
)

// TestKilledAtAnyInstantItLosesNoPacket kills the daemon at random instants of its start and of its work, under 600
// packets a second, and starts it again. The uplinks are steady: there is nothing to lose.
func TestKilledAtAnyInstantItLosesNoPacket(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.ready()
	var streams []*lab.Stream
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 3)
	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7", "192.0.2.53:7"} {
		if strings.HasPrefix(target, "192.0.2.53") {
			if err := r.Host("inet").ServeUDPEcho(t.Context(), addrPort(target)); err != nil {
				t.Fatal(err)
			}
		}
		s := &lab.Stream{From: r.Host("lan"), Target: addrPort(target), Rate: 200, Grace: unhurried}
		streams = append(streams, s)
		go func() { done <- s.Run(ctx) }()
		r.await("the stream to flow", func() error { return answers(s, 20) })
	}
	draw := rand.New(rand.NewPCG(uint64(envNumber(t, seedEnv, 1)), 0))
	for range envNumber(t, killsEnv, fewKills) {
		// Half of the instants lie in the first tenth of a second, in which a daemon starts.
		span := time.Second
		if draw.IntN(2) == 0 {
			span = 100 * time.Millisecond
		}
		rest(ctx, time.Duration(draw.Int64N(int64(span))))
		r.kill()
		rest(ctx, time.Duration(draw.Int64N(int64(200*time.Millisecond))))
		r.launch()
	}
	r.await("the daemon to converge", r.converged)
	cancel()
	for range streams {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, s := range streams {
		if st := s.Stats(); st.Sent != st.Answered || len(st.Moves) != 1 {
			t.Errorf("to %v: %v; sources %v", s.Target, st, st.Moves)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a source that belongs elsewhere", n)
	}
}

// TestConnectionsThatHadNowhereToGoMoveAfterARestart ends the daemon while no line works.
func TestConnectionsThatHadNowhereToGoMoveAfterARestart(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.serve()
	r.ready()
	var streams []*lab.Stream
	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7"} {
		s, _ := r.streamFrom("lan", target)
		r.awaitMore(s)
		streams = append(streams, s)
	}
	for _, name := range []string{"lte", "fiber"} {
		if err := r.Break(lab.Upstream, name); err != nil {
			t.Fatal(err)
		}
		r.awaitState(name, uplink.Down)
	}
	r.await("the daemon to converge", r.converged)
	r.kill()
	r.start()
	r.awaitState("fiber", uplink.Down)
	if err := r.HealOne("lte"); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		r.await("the connection to go by lte", over(s, "fiber", "lte"))
	}
}
