package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// FlowProbe opens a new flow at a steady pace, each from a socket and port of its own, and records which succeeded:
// what a user feels who clicks on something new. The target is an echo server.
type FlowProbe struct {
	From     *Host
	Network  string // "udp": one request and its answer; "tcp": a connection and the server's first line
	Source   netip.Addr
	Target   netip.AddrPort
	Interval time.Duration // between two flows; 10 ms when zero
	Timeout  time.Duration // of one flow; 1 s when zero

	mu    sync.Mutex
	flows []Flow
}

// Flow is the outcome of one new flow.
type Flow struct {
	Start  time.Time
	Took   time.Duration
	Source netip.AddrPort // what the target saw; see [World.UplinkOf]
	Err    error
}

// End returns when the outcome was known.
func (f Flow) End() time.Time { return f.Start.Add(f.Took) }

// Run opens flows until ctx ends, waits for those that are open and returns nil.
func (p *FlowProbe) Run(ctx context.Context) error {
	if p.Network != "udp" && p.Network != "tcp" {
		return fmt.Errorf("a flow probe is udp or tcp, not %q", p.Network)
	}
	tick := time.NewTicker(orDefault(p.Interval, 10*time.Millisecond))
	defer tick.Stop()
	var open sync.WaitGroup
	defer open.Wait()
	for n := uint64(1); ; n++ {
		open.Go(func() { p.flow(context.WithoutCancel(ctx), n) })
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

func (p *FlowProbe) flow(ctx context.Context, n uint64) {
	f := Flow{Start: time.Now()}
	ctx, cancel := context.WithDeadline(ctx, f.Start.Add(orDefault(p.Timeout, time.Second)))
	defer cancel()
	f.Source, f.Err = p.ask(ctx, n)
	f.Took = time.Since(f.Start)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flows = append(p.flows, f)
}

func (p *FlowProbe) ask(ctx context.Context, n uint64) (source netip.AddrPort, err error) {
	local := ""
	if p.Source.IsValid() {
		local = p.Source.String()
	}
	conn, err := p.From.Dial(ctx, p.Network, local, p.Target.String())
	if err != nil {
		return source, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if p.Network == "tcp" {
		return AskTCP(ctx, conn)
	}
	return AskUDP(ctx, conn, binary.BigEndian.AppendUint64(nil, n))
}

// Flows returns the finished flows, in the order of their ends.
func (p *FlowProbe) Flows() []Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.flows)
}

// Stall returns the longest time without any successful new flow from since on, up to the start of the last flow whose
// outcome is known. Flows that were open already at that instant do not count.
func (p *FlowProbe) Stall(since time.Time) time.Duration { return stall(p.Flows(), since) }

func stall(flows []Flow, since time.Time) time.Duration {
	last, end, longest := since, since, time.Duration(0)
	for _, f := range flows { // in the order of their ends
		if f.Start.Before(since) {
			continue
		}
		if f.Start.After(end) {
			end = f.Start
		}
		if f.Err == nil {
			longest = max(longest, f.End().Sub(last))
			last = f.End()
		}
	}
	return max(longest, end.Sub(last))
}

// Last returns the latest successful flow that began after since.
func (p *FlowProbe) Last(since time.Time) (Flow, bool) {
	flows := p.Flows()
	for _, f := range slices.Backward(flows) {
		if f.Err == nil && f.Start.After(since) {
			return f, true
		}
	}
	return Flow{}, false
}

// WaitFor waits until a flow that began after since succeeded over the uplink, and returns it.
func (p *FlowProbe) WaitFor(ctx context.Context, uplink string, since time.Time) (found Flow, err error) {
	what := fmt.Sprintf("a new %s flow from %s over %s", p.Network, p.From.name, uplink)
	err = Until(ctx, what, func() error {
		var seen []string
		for _, f := range p.Flows() {
			if f.Err != nil || !f.Start.After(since) {
				continue
			}
			over := p.From.world.UplinkOf(f.Source.Addr())
			if over == uplink {
				found = f
				return nil
			}
			if !slices.Contains(seen, over) {
				seen = append(seen, over)
			}
		}
		if len(seen) == 0 {
			return errors.New("no flow succeeds")
		}
		return fmt.Errorf("flows use %s", strings.Join(seen, ", "))
	})
	return found, err
}
