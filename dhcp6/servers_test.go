package dhcp6

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// life is how long the servers here let a prefix live, in seconds. WIDE derives T1 and T2 by itself.
type life struct{ t1, t2, preferred, valid int }

type server struct {
	name, pkg, command string
	start              func(w *world, l life) *program
	rebinds            Reason // what it answers to a Rebind of a lease that it knows
}

func kea(w *world, l life) *program {
	conf := w.file("kea.json", fmt.Sprintf(`{"Dhcp6": {
		"interfaces-config": {"interfaces": ["isp"]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0001", "persist": false},
		"renew-timer": %d, "rebind-timer": %d, "preferred-lifetime": %d, "valid-lifetime": %d,
		"option-data": [{"name": "dns-servers", "data": "2001:db8:ffff::53"}],
		"subnet6": [{"subnet": "2001:db8:ffff::/64", "interface": "isp", "rapid-commit": true,
			"pools": [{"pool": "2001:db8:ffff::100-2001:db8:ffff::1ff"}],
			"pd-pools": [{"prefix": "2001:db8:a000::", "prefix-len": 48, "delegated-len": 56,
				"excluded-prefix": "2001:db8:a000:0:ff00::", "excluded-prefix-len": 72}]}],
		"loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 40, "output_options": [{"output": "stdout"}]}]}}`,
		l.t1, l.t2, l.preferred, l.valid))
	return w.command(`cd "$2"; KEA_PIDFILE_DIR="$2" KEA_LOCKFILE_DIR="$2" exec kea-dhcp6 -c "$1"`, conf, w.dir)
}

func isc(w *world, l life) *program {
	conf := w.file("dhcpd6.conf", fmt.Sprintf(`default-lease-time %[4]d; preferred-lifetime %[3]d;
		option dhcp-renewal-time %[1]d; option dhcp-rebinding-time %[2]d;
		option dhcp6.preference 255; authoritative;
		subnet6 2001:db8:ffff::/64 { prefix6 2001:db8:a000:: 2001:db8:a000:ff00:: /56; range6 2001:db8:ffff::100 2001:db8:ffff::1ff; }`,
		l.t1, l.t2, l.preferred, l.valid))
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
			pd-class { pd-pool 2001:db8:a000::/48
				pd-length 56 }
		}`, l.t1, l.t2, l.preferred, l.valid))
	// Its paths are fixed.
	return w.command(`mkdir -p /etc/dibbler /var/lib/dibbler /var/log/dibbler
		for d in /etc/dibbler /var/lib/dibbler /var/log/dibbler; do mount -t tmpfs tmpfs $d; done
		cp "$1" /etc/dibbler/server.conf; exec dibbler-server run`, conf)
}

func wide(w *world, l life) *program {
	conf := w.file("dhcp6s.conf", fmt.Sprintf(`host router { duid %s; prefix 2001:db8:a000:100::/56 %d %d; };
		interface isp { preference 3; allow rapid-commit; };`, ours, l.preferred, l.valid))
	return w.command(`mount -t tmpfs tmpfs /var/lib/dhcpv6; exec dhcp6s -f -D -c "$1" -P "$2" isp`, conf, w.dir+"/wide.pid")
}

var servers = []server{
	{"kea", "kea-dhcp6-server", "kea-dhcp6", kea, Rebound},
	{"isc", "isc-dhcp-server", "dhcpd", isc, Rebound},
	{"dibbler", "dibbler-server", "dibbler-server", dibbler, Granted},
	{"wide", "wide-dhcpv6-server", "dhcp6s", wide, Rebound},
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

func each(t *testing.T, f func(t *testing.T, s server)) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f(t, s)
		})
	}
}

func TestRealServersDelegateRenewAndRebind(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		w := newWorld(t)
		w.installed(s.pkg, s.command)
		p := s.start(w, life{t1: 2, t2: 4, preferred: 6, valid: 10})
		h := w.household(nil, nil)
		first := h.await(12*time.Second, Granted, p)
		prefix := first.Lease.Prefixes[0].Prefix
		if !mustPrefix("2001:db8:a000::/48").Contains(prefix.Addr()) || prefix.Bits() != 56 || prefix != prefix.Masked() {
			t.Errorf("delegated %v", prefix)
		}
		h.await(6*time.Second, Renewed, p)
		p.suspend(t, time.Until(h.last.Rebind)+1500*time.Millisecond)
		again := h.await(5*time.Second, s.rebinds, p)
		if got := again.Lease.Prefixes; len(got) != 1 || got[0].Prefix != prefix || again.Parts[0].Fate != Extended {
			t.Errorf("after the Rebind: %+v, want %v extended", again, prefix)
		}
		if t.Failed() || testing.Verbose() {
			t.Logf("client:\n%s\nserver:\n%s", h.log, &p.out)
		}
	})
}
