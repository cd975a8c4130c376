//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// offices are two routers with a LAN each and a tunnel between them. A phone may call either.
//
//	host1 ── [office1] ── [net] ── [office2] ── host2
//	                        └── [phone]
type offices struct {
	testing.TB
	routers [2]*router
	keys    map[string]string // public ones, by file
}

func newOffices(t *testing.T) *offices {
	t.Helper()
	namespaces(t, "net", "office1", "office2", "host1", "host2", "phone")
	mustScript(t, `
		ip netns exec net sysctl -qw net.ipv4.ip_forward=1
		ip -n net address add 192.0.2.129/32 dev lo
		link() { # NAMESPACE DEVICE ADDRESS GATEWAY PEER-NAMESPACE PEER-DEVICE LENGTH
			ip link add $2 netns $1 type veth peer name $6 netns $5
			ip -n $1 address add $3/$7 dev $2; ip -n $5 address add $4/$7 dev $6
			ip -n $1 link set $2 up; ip -n $5 link set $6 up
			[ -z "$8" ] || ip -n $1 route add default via $4
		}
		link office1 wan0 198.51.100.2 198.51.100.1 net office1 24 ""
		link office2 wan0 203.0.113.2 203.0.113.1 net office2 24 ""
		link phone wan0 192.0.2.2 192.0.2.1 net phone 25 default
		for n in 1 2; do
			link host$n eth0 10.$n.0.2 10.$n.0.1 office$n lan0 24 default
			ip netns exec office$n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1
		done
		ip -n phone link add wg0 type wireguard
		ip -n phone address add 10.9.0.2/32 dev wg0
		ip -n phone link set wg0 up`)
	o := &offices{TB: t, keys: make(map[string]string)}
	dir := t.TempDir()
	for _, name := range []string{"phone", "phones1", "phones2", "site1", "site2"} {
		o.keys[name] = newKey(t, filepath.Join(dir, name))
	}
	mustScript(t, "ip netns exec phone wg set wg0 private-key "+filepath.Join(dir, "phone"))
	for i := range o.routers {
		n, m := i+1, 2-i
		wan := [2]string{"198.51.100", "203.0.113"}
		r := newBox(t, fmt.Sprintf("office%d", n))
		r.configure(fmt.Sprintf(`
[[uplink]]
name = "fiber"
device = "wan0"
  [uplink.ipv4]
  method = "static"
  address = "%[3]s.2/24"
  gateway = "%[3]s.1"
  [uplink.ipv6]
  method = "off"
  [uplink.probe]
  targets = ["192.0.2.129"]
%[5]s
[[uplink]]
name = "phones"
kind = "wireguard"
device = "wg-phones"
peer_routes = true
  [uplink.ipv4]
  masquerade = false
  [uplink.wireguard]
  private_key_file = "%[6]s/phones%[1]d"
  listen_port = 51820
  addresses = ["10.9.0.1/32"]
  peers = [ { public_key = "%[7]s", allowed_ips = ["10.9.0.2/32"] } ]
[[uplink]]
name = "site"
kind = "wireguard"
device = "wg-site"
peer_routes = true
  [uplink.ipv4]
  masquerade = false
%[9]s
  [uplink.wireguard]
  private_key_file = "%[6]s/site%[1]d"
  listen_port = 51821
  addresses = ["10.0.30.%[1]d/32"]
  peers = [ { public_key = "%[8]s", endpoint = "%[4]s.2:51821", allowed_ips = ["10.0.30.%[2]d/32", "10.%[2]d.0.0/24", "10.9.0.0/24"] } ]
`, n, m, wan[i], wan[1-i], unhurriedProbes, dir, o.keys["phone"], o.keys[fmt.Sprintf("site%d", m)],
			map[int]string{1: `  masquerade_from = ["10.9.0.0/24"]`}[n]))
		o.routers[i] = r
	}
	return o
}

// ping asks once, from a namespace.
func (o *offices) ping(from, to string) error {
	_, err := script(fmt.Sprintf("ip netns exec %s ping -n -c 1 -W 1 %s", from, to))
	return err
}

// call has the phone call a router and no other, and returns when the handshake is done.
func (o *offices) call(n int) time.Time {
	o.Helper()
	mustScript(o, fmt.Sprintf(`
		for key in $(ip netns exec phone wg show wg0 peers); do ip netns exec phone wg set wg0 peer $key remove; done
		ip netns exec phone wg set wg0 peer %s endpoint %s:51820 allowed-ips 0.0.0.0/0 persistent-keepalive 25
		ip -n phone route replace 10.0.0.0/8 dev wg0`, o.keys[fmt.Sprintf("phones%d", n)], [2]string{"198.51.100.2", "203.0.113.2"}[n-1]))
	o.routers[n-1].await("a handshake", func() error {
		if out, err := script("ip netns exec phone wg show wg0 latest-handshakes"); err != nil || strings.HasSuffix(strings.TrimSpace(out), "\t0") {
			return errors.New("none yet")
		}
		return nil
	})
	return time.Now()
}

// reached waits until both hosts reach the phone, and says how long after a handshake they did.
func (o *offices) reached(handshake time.Time) {
	o.Helper()
	for _, host := range []string{"host1", "host2"} {
		o.routers[0].await(host+" to reach the phone", func() error { return o.ping(host, "10.9.0.2") })
		o.Logf("%s reaches the phone %v after its handshake", host, time.Since(handshake).Round(time.Millisecond))
	}
}

// stream pings ten times a second until it is stopped, in one connection, and returns how many answers came.
func (o *offices) stream(from, to string) (stop func() (sent, answered int)) {
	o.Helper()
	var out safeBuffer
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", from, "ping", "-n", "-O", "-i", "0.1", to)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		o.Fatal(err)
	}
	o.Cleanup(cancel)
	return func() (sent, answered int) {
		cancel()
		_ = cmd.Wait()
		answered = strings.Count(out.String(), "bytes from")
		return answered + strings.Count(out.String(), "no answer yet"), answered
	}
}

// routed reports where a router sends what is for the phone.
func (o *offices) routed(n int) string {
	return strings.TrimSpace(o.routers[n-1].in("ip route show 10.9.0.2"))
}

func TestVMAPhoneIsReachedWhereverItIsConnected(t *testing.T) {
	o := newOffices(t)
	for _, r := range o.routers {
		r.start()
	}
	o.routers[0].await("the sites to reach each other", func() error { return errors.Join(o.ping("host1", "10.2.0.2"), o.ping("host2", "10.1.0.2")) })
	if got := o.routed(1); got != "" {
		t.Errorf("there is a route to a phone that never called: %s", got)
	}

	o.reached(o.call(1))
	if got := o.routed(1); !strings.Contains(got, "dev wg-phones") {
		t.Errorf("at the router that it calls, its route is %q", got)
	}
	o.routers[0].await("the phone to reach the Internet as the LAN does", func() error { return o.ping("phone", "192.0.2.129 -I wg0") })

	// The first router hides its phones from the other site.
	mustScript(t, `ip netns exec host2 nft 'table ip seen { chain in { type filter hook input priority 0; icmp type echo-request ip saddr 10.0.30.1 counter; }; }'`)
	o.routers[0].await("the phone to reach the other site", func() error { return o.ping("phone", "10.2.0.2") })
	if out := mustScript(t, "ip netns exec host2 nft list table ip seen"); strings.Contains(out, "packets 0 ") {
		t.Errorf("the phone is not hidden from the other site:\n%s", out)
	}

	// It moves without a word to the router that it leaves. Nobody has talked to it lately.
	o.reached(o.call(2))
	if got := o.routed(1); got != "" {
		t.Errorf("the router that it has left still has a route to it: %s", got)
	}

	// It moves back while both talk to it, by connections that go on.
	streams := []func() (int, int){o.stream("host1", "10.9.0.2"), o.stream("host2", "10.9.0.2")}
	o.reached(o.call(1))
	before := time.Now()
	o.routers[0].await("both streams to go on", func() error {
		if time.Since(before) < 2*time.Second {
			return errors.New("they are given two seconds")
		}
		return nil
	})
	for i, stop := range streams {
		sent, answered := stop()
		t.Logf("host%d: %d of %d echoes of one connection were answered while the phone moved", i+1, answered, sent)
	}

	// A killed daemon finds the phone where it was; nothing is lost meanwhile.
	stop := o.stream("host1", "10.9.0.2")
	o.routers[0].kill()
	o.routers[0].start()
	o.routers[0].await("the route to the phone", func() error {
		if got := o.routed(1); !strings.Contains(got, "dev wg-phones") {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	if sent, answered := stop(); sent-answered > 1 {
		t.Errorf("%d of %d packets were lost while the daemon was killed and started", sent-answered, sent)
	}

	// It goes away, and is sought in vain.
	mustScript(t, `for key in $(ip netns exec phone wg show wg0 peers); do ip netns exec phone wg set wg0 peer $key remove; done`)
	o.routers[0].await("its route to go", func() error {
		if o.ping("host1", "10.9.0.2") == nil || o.routed(1) != "" {
			return errors.New("it is there")
		}
		return nil
	})
	for _, u := range o.routers[0].status().Uplinks {
		for _, p := range u.Peers {
			if u.Name == "phones" && p.Routed || u.Name == "site" && !p.Routed {
				t.Errorf("%s: the status says of its peer: %+v", u.Name, p)
			}
		}
	}
}
