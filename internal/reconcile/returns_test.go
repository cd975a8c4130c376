package reconcile_test

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// What the spare carries ends once, when new traffic goes by the uplink that takes it back, and not before its routes are there.
func TestAnUplinkThatIsBackTakesBackWhatOthersCarry(t *testing.T) {
	cfg := config()
	cfg.Uplinks[0].TakesBack = true
	b := newBench(cfg)
	ip := netip.MustParseAddr
	spare, remote := ip("203.0.113.2"), ip("192.0.2.1")
	lan := rules.Connection{Family: rules.IPv4, Source: ip("203.0.113.130"), Dest: remote, ReplyDest: spare, Protocol: unix.IPPROTO_TCP, SPort: 40000, DPort: 443, Mark: numbers.Mark(2)}
	made := rules.Connection{Family: rules.IPv4, Source: spare, Dest: remote, ReplyDest: spare, Protocol: unix.IPPROTO_TCP, SPort: 40001, DPort: 443, Mark: numbers.Mark(2)}
	arrived := rules.Connection{Family: rules.IPv4, Source: remote, Dest: spare, ReplyDest: remote, Protocol: unix.IPPROTO_TCP, SPort: 40002, DPort: 22, Mark: numbers.Mark(2)}
	k := &connected{Kernel: b.kernel}
	b.Engine = reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: cfg})
	refuse := func(op netcfg.Op) error {
		if r, is := op.(netcfg.PutRoute); is && r.Table == numbers.TableBase {
			return unix.EINVAL
		}
		return nil
	}
	for _, step := range []struct {
		name   string
		before func()
		ends   bool
	}{
		{"at the start it carries the default", func() {}, false},
		{"it is dead", func() { b.verdicts.set(fiber4, rules.Dead) }, false},
		{"it is doubtful", func() { b.verdicts.set(fiber4, rules.Doubtful) }, false},
		{"it is back, and its route is refused", func() { k.Refuse(refuse); b.verdicts.set(fiber4, rules.Good) }, false},
		{"connections cannot be listed", func() { k.Refuse(nil); k.err = unix.ENOBUFS }, false},
		{"it carries the default", func() { k.err = nil }, true},
		{"that was it", func() {}, false},
		{"both are dead", func() { b.verdicts.set(fiber4, rules.Dead); b.verdicts.set(lte4, rules.Dead) }, false},
		{"the spare is back", func() { b.verdicts.set(lte4, rules.Good) }, false},
		{"it is drained", func() { b.verdicts.drain(fiber4, true) }, false},
		{"it is back, and drained", func() { b.verdicts.set(fiber4, rules.Good) }, false},
		{"it may be used", func() { b.verdicts.drain(fiber4, false) }, true},
		{"the other one takes nothing back", func() { b.verdicts.set(lte4, rules.Dead); b.Pass(); b.verdicts.set(lte4, rules.Good) }, false},
	} {
		k.connections = []rules.Connection{lan, made, arrived}
		told := func() int {
			return len(slices.DeleteFunc(k.Log(), func(l string) bool { return !strings.HasPrefix(l, "destroy connections") }))
		}
		before := told()
		step.before()
		b.Pass()
		b.Pass()
		if step.ends != !slices.Contains(k.connections, lan) || step.ends != !slices.Contains(k.connections, made) || step.ends != (told() > before) {
			t.Errorf("%s: left %v, log %q", step.name, k.connections, k.Log())
		}
		if !slices.Contains(k.connections, arrived) {
			t.Errorf("%s: what came in by the spare was ended", step.name)
		}
	}
}
