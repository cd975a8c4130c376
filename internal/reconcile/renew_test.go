package reconcile_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// tracking is a kernel that counts how often its connections are looked through.
type tracking struct {
	*fakekernel.Kernel
	looks atomic.Int64
	err   error
}

func (k *tracking) DeleteConnections(func(*rules.Connection) string) (map[string]int, error) {
	k.looks.Add(1)
	return nil, k.err
}

// Connection tracking asks the packet filter about the first packet of a connection only.
func TestConnectionsAreLookedThroughWhenThePacketFilterHasChanged(t *testing.T) {
	cfg := config()
	cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{2}}, KillSwitch: true}}
	cfg.Policies = []rules.Policy{{Name: "sealed", Group: 9, Select: rules.Selector{rules.SelectDevices{"lan*"}, rules.SelectProtocols{17}}}}
	b := newBench(cfg)
	k := &tracking{Kernel: b.kernel}
	b.Engine = reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: cfg})
	for _, step := range []struct {
		name   string
		before func()
		looks  int64
	}{
		{"at the start", func() {}, 1},
		{"nothing has changed", func() {}, 0},
		{"a route was away", func() {
			k.Change(func(o *rules.Observed) {
				o.Routes = slices.DeleteFunc(o.Routes, func(r netcfg.Route) bool { return r.Table == numbers.TableBase })
			})
		}, 0},
		{"our table was away", func() { k.Change(func(o *rules.Observed) { o.Table = nil }) }, 1},
		{"the table of policies was away", func() { k.Change(func(o *rules.Observed) { o.Policies = nil }) }, 1},
		{"it cannot be done", func() { k.err = unix.ENOBUFS; k.Change(func(o *rules.Observed) { o.Table = nil }) }, 1},
		{"it is tried again", func() { k.err = nil }, 1},
		{"and that was it", func() {}, 0},
		{"a rule is refused meanwhile", func() {
			k.Refuse(func(op netcfg.Op) error {
				if _, is := op.(netcfg.AddRule); is {
					return unix.EINVAL
				}
				return nil
			})
			k.Change(func(o *rules.Observed) {
				o.Table = nil
				o.Rules = slices.DeleteFunc(o.Rules, func(r netcfg.Rule) bool { return r.Priority == 10010 })
			})
		}, 1},
	} {
		before := k.looks.Load()
		step.before()
		b.Pass()
		if n := k.looks.Load() - before; n != step.looks {
			t.Errorf("%s: %d looks, want %d", step.name, n, step.looks)
		}
	}
}

// Only what began while nothing of ours was there is without a pin, and the first of our routes would lead it elsewhere.
func TestConnectionsOfBeforeArePinnedAheadOfTheFirstChange(t *testing.T) {
	b := newBench(config())
	b.Pass()
	b.kernel.Change(func(o *rules.Observed) { o.Table = nil })
	b.Pass()
	if log := b.kernel.Log(); len(log) < 3 || log[0] != "pin" || slices.Contains(log[1:], "pin") {
		t.Errorf("%q", log)
	}
	b.kernel.Change(func(o *rules.Observed) { o.Routes = o.Routes[:1] })
	restarted := reconcile.New(reconcile.Options{Kernel: b.kernel, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: config()})
	if r := restarted.Pass(); len(r.Changes) == 0 || slices.Contains(b.kernel.Log()[1:], "pin") {
		t.Errorf("after a restart: %d changes, %q", len(r.Changes), b.kernel.Log())
	}
}

// Where local networks come and go all the time, connections are looked through once a second, and at once for everything else.
func TestLocalNetworksThatComeAndGoAreNoReasonToLookThroughConnectionsEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{2}}, KillSwitch: true}}
		b := newBench(cfg)
		k := &tracking{Kernel: b.kernel}
		e := reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: cfg})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = e.Run(ctx) })
		synctest.Wait()
		seen := k.looks.Load()
		want := func(looks int64, when string) {
			t.Helper()
			synctest.Wait()
			if n := k.looks.Load() - seen; n != looks {
				t.Errorf("%s: %d looks, want %d", when, n, looks)
			}
			seen = k.looks.Load()
		}
		time.Sleep(2 * time.Second)
		want(0, "at rest")
		network := func(n int) {
			k.Change(func(o *rules.Observed) {
				o.Addrs = slices.DeleteFunc(o.Addrs, func(a rules.Addr) bool { return a.Device == "lan0" && a.Prefix.Bits() == 24 })
				o.Addrs = append(o.Addrs, rules.Addr{Device: "lan0", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 1}), 24)})
			})
			e.Hint()
			synctest.Wait()
		}
		network(0)
		want(1, "the first")
		for n := range 30 {
			network(n + 1)
			time.Sleep(20 * time.Millisecond)
		}
		want(0, "30 more within 0.6 s")
		time.Sleep(400 * time.Millisecond)
		want(1, "a second after the first")
		network(50)
		want(0, "another one")
		k.Change(func(o *rules.Observed) { o.Table = nil })
		e.Hint()
		want(1, "our table was away")
		network(51)
		want(0, "yet another one")
		cfg.Policies = []rules.Policy{{Name: "sealed", Group: 9, Select: rules.Selector{rules.SelectDevices{"lan*"}}}}
		e.SetConfig(cfg)
		want(1, "a policy was added")
		time.Sleep(5 * time.Second)
		want(0, "at rest again")
		cancel()
		group.Wait()
	})
}
