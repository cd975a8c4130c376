package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// sequencesEnv is how many sequences of faults are tried with each way of addressing, seedEnv what they are drawn from, and
// firstEnv the number of the first, to see one again. make soak has 250 of each.
const (
	sequencesEnv = "UPLINKD_SEQUENCES"
	seedEnv      = "UPLINKD_SEED"
	firstEnv     = "UPLINKD_FIRST"
	fewSequences = 3
)

// A fault breaks something, and undoes that.
type fault struct {
	name string
	// uplink is what it harms, "" for none or all: all is said by silences.
	uplink   string
	silences bool // probes of every uplink may stay unanswered because of it
	do, undo func(r *chaos)
}

// chaos is a world that faults befall.
type chaos struct {
	*router
	rand     *rand.Rand
	provider *provider // of fiber; nil where others have configured the router
	plain    string    // the configuration that healing returns to
	whole    string    // the state of the kernel when nothing is broken
	fresh    string    // a configuration whose state directory holds what the daemon's does, but for what has failed
	foreign0 uint64    // foreign sources before
}

// TestFaultSequences breaks what may break, in any order and at any moment of the repair of what broke before: links,
// providers that lie, other programs, the configuration, the daemon. Whatever happens, nothing leaves with the source of
// another uplink or of the LAN, an uplink that nothing was done to is not called down, and what is healed is as a fresh
// start would make it. A failure names the seed and the faults.
func TestFaultSequences(t *testing.T) {
	t.Run("followed", func(t *testing.T) {
		t.Parallel()
		c := &chaos{router: newRouter(t, lab.Options{DNAT: true}, followed), plain: followed}
		c.sequences(c.commonFaults())
	})
	t.Run("leased", func(t *testing.T) {
		t.Parallel()
		c := &chaos{router: newRouter(t, lab.Options{DNAT: true}, leased), plain: leased}
		c.sh("router", "ip address flush dev wan1 scope global; ip -6 route flush dev wan1 default; ip route flush dev wan1")
		c.sh("isp1", "nft add element netdev isp fiber_net6 { 2001:db8:1::/64 }") // what fiber delegates at times it takes as a source
		c.provider = newProvider(c.router, "fiber")
		c.sequences(append(c.commonFaults(), c.providerFaults()...))
	})
}

// The configurations of the sequences: with a policy that has a kill switch, and short paces, for what is tried is what is
// done, not when.
var (
	followed = strings.ReplaceAll(dualWAN, targets, sequenceProbes) + tightPolicy
	leased   = sequenceLAN + strings.Replace(followed, "  [uplink.ipv6]\n", leasedFiber, 1)
)

const (
	sequenceProbes = `
  [uplink.probe]
  targets = ["192.0.2.1", "192.0.2.2", "2001:db8:ffff::1", "2001:db8:ffff::2"]
  interval = "300ms"
`
	tightPolicy = `
[[policy]]
name = "tight"
to = "192.0.2.53"
uplinks = ["lte"]
fallback = "unreachable"
`
	sequenceLAN = `
[[lan]]
device = "lan0"
prefixes_from = ["fiber"]
`
	leasedFiber = `  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "ra"
  delegation = true
`
)

func (c *chaos) sequences(faults []fault) {
	count, seed := envNumber(c.TB, sequencesEnv, fewSequences), envNumber(c.TB, seedEnv, 1)
	c.serve()
	for _, echo := range []string{"192.0.2.53:7", "[2001:db8:ffff::53]:7"} {
		if err := c.Host("inet").ServeUDPEcho(context.Background(), addrPort(echo)); err != nil {
			c.Fatal(err)
		}
	}
	c.fresh = filepath.Join(c.dir, "fresh.toml")
	c.write(c.fresh, strings.ReplaceAll(c.configured(), filepath.Join(c.dir, "state"), filepath.Join(c.dir, "fresh")))
	c.start()
	c.awaitWell()
	c.await("the state of the kernel to stay as it is", func() error { // a lease is known a moment before it is planned
		before := c.whole
		if c.whole = c.settled(); c.whole != before {
			return errors.New("it has changed")
		}
		return c.converged()
	})
	for _, target := range []string{"192.0.2.1:7", "192.0.2.53:7", "[2001:db8:ffff::1]:7"} {
		c.probe(&lab.FlowProbe{From: c.Host("lan"), Network: "udp", Target: addrPort(target), Interval: 20 * time.Millisecond, Timeout: 200 * time.Millisecond})
	}
	defer c.askFromOutside()()
	c.Cleanup(func() {
		if c.Failed() {
			c.Log(c.everything())
		}
	})
	first := envNumber(c.TB, firstEnv, 0)
	for n := first; n < first+count; n++ {
		c.rand = rand.New(rand.NewPCG(uint64(seed), uint64(n)))
		c.sequence(fmt.Sprintf("seed %d, sequence %d", seed, n), faults)
		if c.Failed() {
			return
		}
	}
}

func envNumber(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// askFromOutside has the Internet call the router's services by every uplink, so that there are answers that could leave
// by the wrong one. Whether they arrive is no matter here: what leaves wrongly is counted by the providers. An address that the
// router has lost is not called: while our table is away too, what arrives for it goes on by the default.
func (c *chaos) askFromOutside() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			for _, u := range c.Uplinks() {
				for _, at := range []netip.Addr{u.Address4.Addr(), u.Address6.Addr()} {
					if !c.has(at) {
						continue
					}
					_ = c.ask("inet", services[(n+1)%2*2+1], at, 50*time.Millisecond) // those of UDP
				}
			}
			rest(ctx, 10*time.Millisecond)
		}
	}()
	return func() { cancel(); <-done }
}

// has reports whether the router has an address.
func (c *chaos) has(at netip.Addr) (found bool) {
	_ = c.Host("router").Do(func() error {
		addrs, err := net.InterfaceAddrs()
		found = slices.ContainsFunc(addrs, func(a net.Addr) bool { return strings.HasPrefix(a.String(), at.String()+"/") })
		return err
	})
	return found
}

// sequence does some faults, undoes some of them meanwhile and the rest at the end, and checks what must hold.
func (c *chaos) sequence(name string, faults []fault) {
	began := c.lastEvent()
	c.foreign0 = c.foreign()
	var did []string
	defer func() { c.Logf("%s: %s", name, strings.Join(did, ", ")) }()
	var undo []fault
	harmed := make(map[string]bool)
	silent := false
	step := func(what string, f *fault, act func(*chaos)) {
		did = append(did, what+" "+f.name)
		act(c)
		c.pause(400 * time.Millisecond)
	}
	for range 2 + c.rand.IntN(4) {
		f := faults[c.rand.IntN(len(faults))]
		if slices.ContainsFunc(undo, func(u fault) bool { return u.name == f.name }) {
			continue
		}
		harmed[f.uplink], silent = true, silent || f.silences
		undo = append(undo, f)
		step("do", &f, f.do)
		if len(undo) > 1 && c.rand.IntN(3) == 0 {
			i := c.rand.IntN(len(undo))
			step("undo", &undo[i], undo[i].undo)
			undo = slices.Delete(undo, i, i+1)
		}
	}
	c.rand.Shuffle(len(undo), func(i, k int) { undo[i], undo[k] = undo[k], undo[i] })
	for i := range undo {
		step("undo", &undo[i], undo[i].undo)
	}
	c.launchIfStopped()
	// An uplink that has failed three times on a busy machine is held down for a minute.
	c.awaitFor(3*patience, "a world that is healed to be taken for that", c.planned)
	c.falseAlarms(began, harmed, silent)
	c.restartFresh()
	if n := c.foreign(); n != c.foreign0 {
		c.Errorf("%d packets left with a source that belongs elsewhere; all that there were, with those that renumbering excuses: %s", n-c.foreign0, c.foreignSources())
	}
}

func (c *chaos) pause(most time.Duration) {
	rest(context.Background(), time.Duration(c.rand.Int64N(int64(most))))
}

// planned reports whether a daemon that starts afresh now would find its work done, but for who carries new traffic:
// that is remembered of what has failed.
func (c *chaos) planned() error {
	if err := c.converged(); err != nil {
		return err
	}
	c.sh("router", fmt.Sprintf("cd %s; rm -rf fresh; mkdir -m 700 fresh; for f in state/*.json; do cat $f >fresh/${f##*/}; done; rm -f fresh/verdicts.json", c.dir))
	out, err := c.program("plan", "-c", c.fresh).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
		case strings.Contains(line, " table 11700 "), strings.Contains(line, " table 254 "), strings.Contains(line, " table 11703 "):
		default:
			return fmt.Errorf("a fresh start would do: %s", line)
		}
	}
	return nil
}

// falseAlarms looks for uplinks that were called down and that nothing was done to.
func (c *chaos) falseAlarms(began uint64, harmed map[string]bool, silent bool) {
	for _, e := range c.decisions() {
		if e.ID > began && e.Kind == status.EventVerdict && e.To == string(uplink.Down) && !harmed[e.Uplink] && !silent {
			c.Errorf("%s/%s is called down, and nothing was done to it: %s %q", e.Uplink, e.Family, e.Reason, e.Evidence)
		}
	}
}

func (c *chaos) lastEvent() uint64 {
	events := c.decisions()
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].ID
}

// restartFresh restarts the daemon without what it remembers of failures, and waits until the kernel is as it was before all
// that.
func (c *chaos) restartFresh() {
	c.end(syscall.SIGTERM)
	c.sh("router", "rm -f "+filepath.Join(c.dir, "state", "verdicts.json"))
	c.start()
	c.awaitWell()
	c.await("the state of the kernel to be what it was", func() error {
		now := slices.DeleteFunc(strings.Split(c.settled(), "\n"), func(line string) bool {
			return strings.Contains(line, "proto 117 metric 2048") // a withdrawn prefix, which hosts are told of for half an hour
		})
		if diff := cmp.Diff(strings.Split(c.whole, "\n"), now); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// awaitWell waits until every path is up, fiber carries new traffic, and has what its provider delegates.
func (c *chaos) awaitWell() {
	c.Helper()
	for _, name := range []string{"fiber", "lte"} {
		c.awaitState(name, uplink.Up)
	}
	c.await("fiber to carry new traffic", func() error {
		u, err := c.uplinkStatus("fiber")
		if err != nil {
			return err
		}
		delegated := slices.ContainsFunc(u.IPv6.Delegated, func(d status.Delegated) bool { return d.Prefix == delegatedByFiber })
		if u.IPv4.Share != 1 || u.IPv6.Share != 1 || delegated != (c.provider != nil) {
			return fmt.Errorf("shares %v and %v, delegated %v", u.IPv4.Share, u.IPv6.Share, u.IPv6.Delegated)
		}
		return c.converged()
	})
}
