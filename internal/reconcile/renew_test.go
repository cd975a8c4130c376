package reconcile_test

import (
	"log/slog"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// tracking is a kernel that counts how often its connections are looked through.
type tracking struct {
	*fakekernel.Kernel
	looks int
	err   error
}

func (k *tracking) DeleteConnections(func(*rules.Connection) string) (map[string]int, error) {
	k.looks++
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
		looks  int
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
		before := k.looks
		step.before()
		b.Pass()
		if n := k.looks - before; n != step.looks {
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
