package dhcp6

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// life is how long the servers here let a prefix live, in seconds. WIDE derives T1 and T2 by itself.
type life struct {
	t1, t2, preferred, valid int
	pool                     string // of 2001:db8:a000::/48, the first part: a000
}

type server struct {
	name, pkg, command string
	start              func(w *world, l life) *program
	ready              string // what it says when it listens
	rebinds            Reason // what it answers to a Rebind of a lease that it knows
	exclude            string // what it excludes from the first prefix
	ignores            bool   // it says nothing to a Rebind of a lease that it does not know
}

func kea(w *world, l life) *program {
	conf := w.file("kea.json", fmt.Sprintf(`{"Dhcp6": {
		"interfaces-config": {"interfaces": ["isp"]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0001", "persist": false},
		"renew-timer": %[1]d, "rebind-timer": %[2]d, "preferred-lifetime": %[3]d, "valid-lifetime": %[4]d,
		"option-data": [{"name": "dns-servers", "data": "2001:db8:ffff::53"}],
		"subnet6": [{"subnet": "2001:db8:ffff::/64", "interface": "isp", "rapid-commit": true,
			"pools": [{"pool": "2001:db8:ffff::100-2001:db8:ffff::1ff"}],
			"pd-pools": [{"prefix": "2001:db8:%[5]s::", "prefix-len": 48, "delegated-len": 56,
				"excluded-prefix": "2001:db8:%[5]s:0:ff00::", "excluded-prefix-len": 72}]}],
		"loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 40, "output_options": [{"output": "stdout"}]}]}}`,
		l.t1, l.t2, l.preferred, l.valid, l.pool))
	return w.command(`cd "$2"; KEA_PIDFILE_DIR="$2" KEA_LOCKFILE_DIR="$2" exec kea-dhcp6 -c "$1"`, conf, w.dir)
}

func isc(w *world, l life) *program {
	conf := w.file("dhcpd6.conf", fmt.Sprintf(`default-lease-time %[4]d; preferred-lifetime %[3]d;
		option dhcp-renewal-time %[1]d; option dhcp-rebinding-time %[2]d;
		option dhcp6.preference 255; authoritative;
		subnet6 2001:db8:ffff::/64 { prefix6 2001:db8:%[5]s:: 2001:db8:%[5]s:ff00:: /56; range6 2001:db8:ffff::100 2001:db8:ffff::1ff; }`,
		l.t1, l.t2, l.preferred, l.valid, l.pool))
	return w.command(`: > "$2"; exec dhcpd -6 -f -d -cf "$1" -lf "$2" -pf "$3" isp`, conf, w.dir+"/isc.leases", w.dir+"/isc.pid")
}

func dibbler(w *world, l life) *program {
	conf := w.file("server.conf", fmt.Sprintf(`log-level 8
		iface "isp" {
			t1 %d
			t2 %d
			preferred-lifetime %d
			valid-lifetime %d
			class { pool 2001:db8:ffff::100-2001:db8:ffff::1ff }
			pd-class { pd-pool 2001:db8:%s::/48
				pd-length 56 }
		}`, l.t1, l.t2, l.preferred, l.valid, l.pool))
	// Its paths are fixed.
	return w.command(`mkdir -p /etc/dibbler /var/lib/dibbler /var/log/dibbler
		for d in /etc/dibbler /var/lib/dibbler /var/log/dibbler; do mount -t tmpfs tmpfs $d; done
		cp "$1" /etc/dibbler/server.conf; exec dibbler-server run`, conf)
}

func wide(w *world, l life) *program {
	conf := w.file("dhcp6s.conf", fmt.Sprintf(`host router { duid %s; prefix 2001:db8:%s:100::/56 %d %d; };
		interface isp { preference 3; allow rapid-commit; };`, ours, l.pool, l.preferred, l.valid))
	return w.command(`mount -t tmpfs tmpfs /var/lib/dhcpv6; exec dhcp6s -f -D -c "$1" -P "$2" isp`, conf, w.dir+"/wide.pid")
}

var servers = []server{
	{name: "kea", pkg: "kea-dhcp6-server", command: "kea-dhcp6", start: kea, ready: "DHCP6_STARTED", rebinds: Rebound, exclude: "2001:db8:a000:0:ff00::/72"},
	{name: "isc", pkg: "isc-dhcp-server", command: "dhcpd", start: isc, ready: "Sending on", rebinds: Rebound},
	{name: "dibbler", pkg: "dibbler-server", command: "dibbler-server", start: dibbler, ready: "Accepting connections", rebinds: Granted},
	{name: "wide", pkg: "wide-dhcpv6-server", command: "dhcp6s", start: wide, ready: "", rebinds: Rebound, ignores: true},
}

// suspend stops a program for a while, as a busy or unreachable server.
func (p *program) suspend(t *testing.T, d time.Duration) {
	t.Helper()
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGSTOP {
			time.Sleep(d)
		}
	}
}

// each runs a test with every server. They wait most of the time.
func each(t *testing.T, f func(t *testing.T, s server)) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f(t, s)
		})
	}
}

// delegated wants a lease of one prefix from the servers' pool, and returns it.
func delegated(t testing.TB, ch Change) netip.Prefix {
	t.Helper()
	return delegatedOf(t, ch, "2001:db8:a000::/48")
}

func delegatedOf(t testing.TB, ch Change, pool string) netip.Prefix {
	t.Helper()
	if ch.Lease == nil || len(ch.Lease.Prefixes) != 1 {
		t.Fatalf("%s: %+v", ch.Reason, ch.Lease)
	}
	p := ch.Lease.Prefixes[0].Prefix
	if !mustPrefix(pool).Contains(p.Addr()) || p.Bits() != 56 || p != p.Masked() {
		t.Errorf("%s: %v is not of the pool", ch.Reason, p)
	}
	return p
}

// There is no router advertisement here, with or without M and O flags: ipv6.md 1.20.
func TestRealServersDelegateRenewRebindAndTakeBack(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		w := newWorld(t)
		w.installed(s.pkg, s.command)
		p := s.start(w, life{2, 4, 6, 10, "a000"})
		h := w.household(nil, nil)
		prefix := delegated(t, h.await(12*time.Second, p, Granted))
		if exclude := h.last.Prefixes[0].Exclude; s.exclude != "" && exclude != mustPrefix(s.exclude) || s.exclude == "" && exclude.IsValid() {
			t.Errorf("excluded %v, want %s (ipv6.md 1.18)", exclude, s.exclude)
		}
		h.await(15*time.Second, p, Renewed)
		p.suspend(t, time.Until(h.last.Rebind)+1500*time.Millisecond)
		if again := h.await(15*time.Second, p, s.rebinds); delegated(t, again) != prefix || again.Prefixes[0].Outcome != Extended {
			t.Errorf("after the Rebind: %+v, want %v extended", again, prefix)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond) // less than the first RT
		defer cancel()
		if err := h.Release(ctx); err != nil {
			t.Errorf("%v\nserver:\n%s", err, &p.out)
		}
		if ch := h.await(15*time.Second, p, Returned); ch.Lease != nil {
			t.Errorf("%+v", ch)
		}
	})
}

// ipv6.md 1.13, 1.16.
func TestRealServersKnowUsAfterRestartsAndFlaps(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		w := newWorld(t).noDAD()
		w.installed(s.pkg, s.command)
		p := s.start(w, life{20, 30, 40, 60, "a000"})
		h := w.household(nil, nil)
		prefix := delegated(t, h.await(12*time.Second, p, Granted))
		verify := func(what string, h *household) {
			t.Helper()
			if got := delegated(t, h.await(15*time.Second, p, Verified, Granted)); got != prefix {
				t.Errorf("after %s: %v, want %v", what, got, prefix)
			}
		}
		h.end()
		h = w.household(stored(t, h.last), nil)
		if got := delegated(t, h.await(15*time.Second, p, Restored)); got != prefix {
			t.Errorf("restored %v, want %v", got, prefix)
		}
		verify("a restart of the client", h)
		h.relink("ip link set wan down; ip link set wan up")
		verify("a flap of the link", h)
		h.SetLink(w.index(), false)
		w.wire()
		h.SetLink(w.index(), true)
		verify("the device was made anew", h)

		// The server loses its bindings, and all but Kea their DUID too.
		p.kill()
		p = s.start(w, life{20, 30, 40, 60, "a000"})
		p.ready(t, s.ready)
		h.relink("ip link set wan down; ip link set wan up")
		if s.ignores {
			p.ready(t, "received rebind")
			h.quiet(2 * time.Second) // and the lease holds: TestARestartAsksByRebindAndKeepsThePrefix
			return
		}
		ch := h.await(15*time.Second, p, Verified, Granted)
		t.Logf("after the server's restart: %s %v %s", ch.Reason, ch.Prefixes, ch.Note)
		if got := delegated(t, ch); got == prefix && ch.Prefixes[0].Outcome != Extended {
			t.Errorf("after the server's restart: %+v", ch)
		}
	})
}

// The ISP changes its prefixes: what is told is at once what goes and what comes.
func TestRealServersRenumber(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		w := newWorld(t).noDAD()
		w.installed(s.pkg, s.command)
		l := life{20, 30, 40, 60, "a000"}
		if s.ignores {
			l = life{2, 3, 4, 6, "a000"}
		}
		p := s.start(w, l)
		h := w.household(nil, nil)
		before := delegated(t, h.await(12*time.Second, p, Granted))
		p.kill()
		l.pool = "b000"
		p = s.start(w, l)
		p.ready(t, s.ready)
		if s.ignores {
			h.await(15*time.Second, p, Lapsed)
			delegatedOf(t, h.await(15*time.Second, p, Granted), "2001:db8:b000::/48")
			return
		}
		h.relink("ip link set wan down; ip link set wan up")
		ch := h.await(15*time.Second, p, Verified, Granted)
		delegatedOf(t, ch, "2001:db8:b000::/48")
		if len(ch.Prefixes) != 2 || ch.Prefixes[0].Prefix != before || !ch.Prefixes[0].Outcome.Gone() || ch.Prefixes[1].Outcome != Added {
			t.Errorf("%+v", ch)
		}
		t.Logf("%s %v %s", ch.Reason, ch.Prefixes, ch.Note)
	})
}

// BenchmarkSoak lets every server renew for five minutes at lifetimes of 20 and 30 seconds, and fails if a
// prefix lapses.
func BenchmarkSoak(b *testing.B) {
	const span = 5 * time.Minute
	for range b.N {
		var running sync.WaitGroup
		counts := make([]map[Reason]int, len(servers))
		lapses := make([]int, len(servers))
		for i, s := range servers {
			w := newWorld(b)
			w.installed(s.pkg, s.command)
			p := s.start(w, life{5, 12, 20, 30, "a000"})
			h := w.household(nil, nil)
			running.Go(func() {
				counts[i], lapses[i] = h.count(span)
				if counts[i][Renewed] < int(span/time.Second)/16-2 || lapses[i] > 0 {
					b.Errorf("%s: %v, %d lapses\nclient:\n%s\nserver:\n%s", s.name, counts[i], lapses[i], h.log, &p.out)
				}
			})
		}
		running.Wait()
		for i, s := range servers {
			b.ReportMetric(float64(counts[i][Renewed]), s.name+"-renewals")
			b.ReportMetric(float64(lapses[i]), s.name+"-lapses")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// count counts changes by reason, and the prefixes that went.
func (h *household) count(span time.Duration) (reasons map[Reason]int, lapses int) {
	reasons = make(map[Reason]int)
	for end := time.After(span); ; {
		select {
		case ch := <-h.changes:
			reasons[ch.Reason]++
			for _, p := range ch.Prefixes {
				if p.Outcome.Gone() {
					lapses++
				}
			}
		case <-end:
			return reasons, lapses
		}
	}
}

// ready waits until a server has said something.
func (p *program) ready(t *testing.T, line string) {
	t.Helper()
	for range 100 {
		if strings.Contains(p.out.String(), line) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the server never said %q:\n%s", line, &p.out)
}

// quiet wants no change for a while.
func (h *household) quiet(d time.Duration) {
	h.w.t.Helper()
	select {
	case ch := <-h.changes:
		h.w.t.Errorf("unexpected: %+v", ch)
	case <-time.After(d):
	}
}
