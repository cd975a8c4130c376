package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// soakSpan is how long each server is tried.
const soakSpan = 5 * time.Minute

// soakServers start a DHCPv6 server at the provider of fiber that lends a prefix for 20 to 30 seconds.
var soakServers = map[string]func(r *router) (pid int, log *safeBuffer){
	"kea": func(r *router) (int, *safeBuffer) {
		s := r.delegateByKea(pools["fiber"], lifetimes{5, 10, 20, 30})
		return s.pid, s.log
	},
	"isc": func(r *router) (int, *safeBuffer) {
		dir := r.scratch("dhcpd6-")
		r.write(filepath.Join(dir, "conf"), `default-lease-time 30; preferred-lifetime 20; option dhcp-renewal-time 5; option dhcp-rebinding-time 10;
			authoritative; subnet6 2001:db8:a::/64 { prefix6 2001:db8:f000:: 2001:db8:f000:ff00:: /56; }`)
		r.write(filepath.Join(dir, "leases"), "")
		cmd, log, _ := r.background("isp1", "dhcpd", "-6", "-f", "-d", "-cf", dir+"/conf", "-lf", dir+"/leases", "-pf", dir+"/pid", "cust1")
		return cmd.Process.Pid, log
	},
	"dibbler": func(r *router) (int, *safeBuffer) {
		dir := r.scratch("dibbler-")
		r.write(filepath.Join(dir, "conf"), "log-level 8\niface \"cust1\" {\n t1 5\n t2 10\n preferred-lifetime 20\n valid-lifetime 30\n"+
			" pd-class {\n pd-pool 2001:db8:f000::/48\n pd-length 56\n }\n}\n")
		// Its paths are fixed.
		cmd, log, _ := r.background("isp1", "unshare", "-m", "--propagation", "private", "sh", "-e", "-c",
			`for d in /etc/dibbler /var/lib/dibbler /var/log/dibbler; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
			cp "$1" /etc/dibbler/server.conf; exec dibbler-server run`, "sh", dir+"/conf")
		return cmd.Process.Pid, log
	},
	"wide": func(r *router) (int, *safeBuffer) {
		dir := r.scratch("wide-")
		r.write(filepath.Join(dir, "conf"), fmt.Sprintf("host router { duid %s; prefix 2001:db8:f000:100::/56 20 30; };\ninterface cust1 { };\n", r.duid()))
		cmd, log, _ := r.background("isp1", "unshare", "-m", "--propagation", "private", "sh", "-e", "-c",
			`mount -t tmpfs tmpfs /var/lib/dhcpv6; exec dhcp6s -f -D -c "$1" -P "$2" cust1`, "sh", dir+"/conf", dir+"/pid")
		return cmd.Process.Pid, log
	},
}

// duid gives the router an identity before it has drawn one.
func (r *router) duid() string {
	const own = "00:04:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"
	r.sh("router", fmt.Sprintf(`mkdir -p %[1]s/state; echo '{"duid": "%[2]s"}' > %[1]s/state/identity.json`, r.dir, own))
	return own
}

// BenchmarkDelegationSoak holds a prefix that lives for 20 to 30 seconds from each server for five minutes, while a host
// sends from it. Now and then the server is silent until the client has to rebind.
func BenchmarkDelegationSoak(b *testing.B) {
	for range b.N {
		var group sync.WaitGroup
		for name, serve := range soakServers {
			r := newRouter(b, lab.Options{}, oneDelegation)
			r.listen()
			pid, log := serve(r)
			r.delegate("fiber", pools["fiber"])
			r.start()
			r.awaitHost(pools["fiber"])
			stream, stop := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
			r.awaitMore(stream)
			group.Go(func() {
				ctx, cancel := context.WithTimeout(b.Context(), soakSpan)
				defer cancel()
				for ctx.Err() == nil {
					rest(ctx, 45*time.Second)
					_ = syscall.Kill(pid, syscall.SIGSTOP)
					rest(ctx, 11*time.Second)
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
				st := stop()
				daemon := r.log.String()
				b.Logf("%s: %d of %d packets lost; %d renewals, %d rebindings; the server wrote %d lines", name, st.Sent-st.Answered, st.Sent,
					strings.Count(daemon, "reason=renewed"), strings.Count(daemon, "reason=rebound"), strings.Count(log.String(), "\n"))
				if strings.Contains(daemon, "expired") || strings.Contains(daemon, "withdrawn") {
					b.Errorf("%s: a prefix was lost", name)
				}
				b.ReportMetric(float64(st.Sent-st.Answered), name+"-lost")
			})
		}
		group.Wait()
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
