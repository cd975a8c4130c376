package reconcile_test

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
)

// A connection on an address that is gone gets no answer for ever: it hears so at once. One that has only another prefix
// length now goes on.
func TestConnectionsOnRemovedAddressesAreAborted(t *testing.T) {
	for _, c := range []struct {
		gateway    string
		had, has   []string
		aborted    string
		addressing func(*rules.Uplink) *rules.Addressing
	}{
		{"fe80::1", []string{"2001:db8:a::2/64", "2001:db8:a::3/64"}, []string{"2001:db8:a::3/128", "2001:db8:c::2/64"}, "2001:db8:a::2",
			func(u *rules.Uplink) *rules.Addressing { return &u.IPv6 }},
		{"198.51.100.1", []string{"198.51.100.72/26", "198.51.100.73/26"}, []string{"198.51.100.73/32", "198.51.100.140/26"}, "198.51.100.72",
			func(u *rules.Uplink) *rules.Addressing { return &u.IPv4 }},
	} {
		cfg := config()
		assign := func(addresses []string) {
			a := &rules.Assignment{Gateway: netip.MustParseAddr(c.gateway)}
			for _, text := range addresses {
				a.Addresses = append(a.Addresses, rules.Address{Prefix: netip.MustParsePrefix(text)})
			}
			cfg.Uplinks = slices.Clone(cfg.Uplinks)
			*c.addressing(&cfg.Uplinks[0]) = rules.Addressing{Enabled: true, Managed: true, Assign: a}
		}
		assign(c.had)
		b := newBench(cfg)
		b.pass(t)
		b.pass(t)
		assign(c.has)
		b.SetConfig(cfg)
		b.pass(t)
		destroyed := slices.DeleteFunc(b.kernel.Log(), func(l string) bool { return !strings.HasPrefix(l, "destroy") })
		if want := []string{"destroy [" + c.aborted + "]"}; !slices.Equal(destroyed, want) {
			t.Errorf("%q, want %q", destroyed, want)
		}
	}
}

// connected is a kernel that has connections.
type connected struct {
	*fakekernel.Kernel
	connections []rules.Connection
	err         error
}

func (k *connected) DeleteConnections(old func(*rules.Connection) string) (map[string]int, error) {
	n := make(map[string]int)
	k.connections = slices.DeleteFunc(k.connections, func(c rules.Connection) bool {
		why := old(&c)
		n[why]++
		return why != "" && k.err == nil
	})
	return n, k.err
}

// An address that comes back within seconds, as when a DHCP client is restarted, has lost nobody's connections. One that stays away has.
func TestConnectionsEndWithAnAddressThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		b := newBench(cfg)
		ip := netip.MustParseAddr
		lan, remote, at, other := ip("203.0.113.130"), ip("192.0.2.1"), ip("198.51.100.2"), ip("203.0.113.2")
		k := &connected{Kernel: b.kernel, connections: []rules.Connection{
			{Family: rules.IPv4, Source: at, Dest: remote, ReplyDest: at},
			{Family: rules.IPv4, Source: lan, Dest: remote, ReplyDest: at},
			{Family: rules.IPv4, Source: remote, Dest: at, ReplyDest: remote},
			{Family: rules.IPv4, Source: lan, Dest: remote, ReplyDest: other},
			{Family: rules.IPv4, Source: remote, Dest: other, ReplyDest: remote},
		}}
		var former []netip.Addr
		b.Engine = reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: cfg,
			OnSnapshot: func(o *rules.Observed) { former = o.Former }})
		has := func(text string) {
			k.Change(func(o *rules.Observed) {
				for i := range o.Addrs {
					if o.Addrs[i].Device == "wan1" {
						o.Addrs[i].Prefix = netip.MustParsePrefix(text)
					}
				}
			})
		}
		ended := func() bool {
			return slices.ContainsFunc(k.Log(), func(l string) bool { return strings.HasPrefix(l, "destroy [198.51.100.2]") })
		}
		wants := func(when string, list int, connections int, told bool) {
			t.Helper()
			if len(former) != list || list == 1 && former[0] != at || len(k.connections) != connections || ended() != told {
				t.Errorf("%s: %v, %d connections, told %v", when, former, len(k.connections), ended())
			}
		}
		b.pass(t)
		has("198.51.100.7/26")
		b.pass(t)
		wants("lost", 1, 5, false)
		time.Sleep(4 * time.Second)
		has("198.51.100.2/26")
		b.pass(t)
		if slices.Contains(former, at) {
			t.Errorf("it is back, and still %v", former)
		}
		time.Sleep(6 * time.Second)
		b.pass(t)
		wants("back", 0, 5, false)
		has("198.51.100.7/26")
		b.pass(t)
		time.Sleep(4 * time.Second)
		b.pass(t)
		wants("away for 4 s", 1, 5, false)
		time.Sleep(time.Second)
		k.err = unix.ENOBUFS
		if r := b.Pass(); r.Err == nil {
			t.Error("an error is lost")
		}
		wants("away for 5 s, and it cannot be done", 0, 5, true)
		k.err = nil
		b.pass(t)
		wants("done", 0, 2, true)
	})
}
