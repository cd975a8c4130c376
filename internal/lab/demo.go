package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// demoPatience bounds each step of the demonstration.
const demoPatience = 60 * time.Second

// demonstration shows what a silent failure of the best uplink does to traffic from the LAN.
type demonstration struct {
	lab    *labRun
	probes map[string]*FlowProbe // by family
	stream *Stream               // one long-lived IPv4 flow
}

var demoFamilies = [...]string{"IPv4", "IPv6"}

// demo runs the demonstration; its traffic ends with it.
func (l *labRun) demo(ctx context.Context) error {
	lan := l.world.Host(LAN)
	d := &demonstration{
		lab: l,
		probes: map[string]*FlowProbe{
			"IPv4": {From: lan, Network: "udp", Target: netip.AddrPortFrom(netip.MustParseAddr(Echo4), EchoPort)},
			"IPv6": {From: lan, Network: "udp", Target: netip.AddrPortFrom(netip.MustParseAddr(Echo6), EchoPort)},
		},
		stream: &Stream{From: lan, Target: netip.AddrPortFrom(netip.MustParseAddr(Echo4), EchoPort), Rate: 100},
	}
	l.say("\ndemonstration: the LAN host opens a new UDP flow every 10 ms, IPv4 and IPv6, and keeps an old one busy")
	traffic, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{d.probes["IPv4"].Run, d.probes["IPv6"].Run, d.stream.Run} {
		running.Go(func() {
			if err := run(traffic); err != nil {
				l.say("  traffic: %v", err)
			}
		})
	}
	err := d.show(ctx)
	stop()
	running.Wait()
	if err != nil && ctx.Err() == nil {
		// The world stays to be looked at.
		l.say("  the demonstration failed: %v\n%s", err, l.daemon.tail())
		return nil
	}
	return err
}

func (d *demonstration) line(what, format string, args ...any) {
	d.lab.say("  %-22s %s", what, fmt.Sprintf(format, args...))
}

func (d *demonstration) show(ctx context.Context) error {
	if err := d.settled(ctx); err != nil {
		return err
	}
	broken, err := d.breakFiber(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(d.oldFlow(ctx, broken), d.remoteClient(ctx)); err != nil {
		return err
	}
	return d.heal(ctx)
}

// settled waits until all traffic uses fiber.
func (d *demonstration) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for _, family := range demoFamilies {
		if _, err := d.probes[family].WaitFor(ctx, Fiber, time.Time{}); err != nil {
			return err
		}
	}
	err := Until(ctx, "the old flow to work", func() error {
		if over := d.stream.Over(); !slices.Equal(over, []string{Fiber}) {
			return fmt.Errorf("it uses %q", over)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.line("before", "IPv4 over fiber, IPv6 over fiber; daemon: %s", d.verdicts(ctx))
	return nil
}

func (d *demonstration) breakFiber(ctx context.Context) (broken time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	if err := d.lab.world.Break(Blackhole, Fiber); err != nil {
		return broken, err
	}
	broken = d.lab.world.Status()[0].Breaks[0].Since
	d.line("break blackhole fiber", "the gateway answers, nothing beyond it does; the carrier stays")
	for _, family := range demoFamilies {
		p := d.probes[family]
		flow, err := p.WaitFor(ctx, LTE, broken)
		if err != nil {
			return broken, err
		}
		d.line("new "+family+" flows", "stood still for %s, now over lte as %s", p.Stall(broken).Round(time.Millisecond), flow.Source.Addr())
	}
	return broken, nil
}

func (d *demonstration) oldFlow(ctx context.Context, broken time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	return Until(ctx, "the old flow to move", func() error {
		moves := d.stream.Stats().Moves
		last := moves[len(moves)-1]
		if over := d.lab.world.UplinkOf(last.Source.Addr()); over != LTE {
			return fmt.Errorf("it uses %s", over)
		}
		d.line("the old flow", "moved to lte after %s, from %s to %s", last.At.Sub(broken).Round(time.Millisecond), moves[0].Source, last.Source)
		return nil
	})
}

// remoteClient asks the router at lte's addresses from the Internet; a connected socket takes no answer from another.
func (d *demonstration) remoteClient(ctx context.Context) error {
	lte := d.lab.world.Uplink(LTE)
	for _, c := range []struct{ client, address string }{
		{Client4, lte.Address4.Addr().String()}, {Client6, lte.Address6.Addr().String()},
	} {
		took, err := d.askFromInternet(ctx, c.client, c.address)
		if err != nil {
			return fmt.Errorf("asking %s from %s: %w", c.address, c.client, err)
		}
		d.line("a remote client", "%s asked %s and was answered from there in %s", c.client, c.address, took.Round(10*time.Microsecond))
	}
	return nil
}

func (d *demonstration) askFromInternet(ctx context.Context, client, address string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	target := netip.AddrPortFrom(netip.MustParseAddr(address), EchoPort)
	conn, err := d.lab.world.Host(Internet).Dial(ctx, "udp", client, target.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	start := time.Now()
	_, err = AskUDP(ctx, conn, []byte("is anybody there"))
	return time.Since(start), err
}

// heal waits for new flows to come back to fiber, telling what the daemon thinks meanwhile.
func (d *demonstration) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*demoPatience)
	defer cancel()
	if err := d.lab.world.Heal(); err != nil {
		return err
	}
	healed := time.Now()
	d.line("heal", "the daemon waits before it trusts fiber again")
	waiting, done := context.WithCancel(ctx)
	var progress sync.WaitGroup
	progress.Go(func() { d.progress(waiting, healed) })
	var errs []error
	back := make(map[string]Flow)
	for _, family := range demoFamilies {
		flow, err := d.probes[family].WaitFor(ctx, Fiber, healed)
		errs = append(errs, err)
		back[family] = flow
	}
	done()
	progress.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, family := range demoFamilies {
		d.line("new "+family+" flows", "back on fiber %.1f s after healing; longest pause since: %s",
			back[family].Start.Sub(healed).Seconds(), d.probes[family].Stall(healed).Round(time.Millisecond))
	}
	return nil
}

func (d *demonstration) progress(ctx context.Context, since time.Time) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.line(fmt.Sprintf("  %2.0f s", time.Since(since).Seconds()), "%s", d.verdicts(ctx))
		}
	}
}

// verdicts asks the daemon what it thinks of each uplink, in a few words.
func (d *demonstration) verdicts(ctx context.Context) string {
	type family struct {
		State  string `json:"state"`
		Reason string `json:"reason"`
	}
	var status struct {
		Uplinks []struct {
			Name string `json:"name"`
			IPv4 family `json:"ipv4"`
			IPv6 family `json:"ipv6"`
		} `json:"uplinks"`
	}
	if err := d.lab.daemon.get(ctx, "/api/v1/status", &status); err != nil {
		return err.Error()
	}
	var words []string
	for _, u := range status.Uplinks {
		word := u.IPv4.State
		if u.IPv6.State != word {
			word += "/" + u.IPv6.State
		}
		words = append(words, u.Name+" "+word)
	}
	return strings.Join(words, ", ")
}
