package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestBesideTailscale has the rules and routes of tailscaled (wgengine/router/router_linux.go), without itself: one of its networks, and
// packets with its mark, which read table main alone and so have to follow a failover there.
func TestBesideTailscale(t *testing.T) {
	playBeside(t, besideScene{
		program: "Tailscale", version: "echo its rules alone", Options: lab.Options{DNAT: true},
		start: func(h *house) {
			h.in(`ip link add tailscale0 type veth peer name ts-far; ip link set tailscale0 up; ip link set ts-far up
ip route add 198.51.100.192/26 dev tailscale0 table 52
for f in -4 -6; do
  ip $f rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
  ip $f rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
  ip $f rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
  ip $f rule add pref 5270 lookup 52
done
iptables-nft -N ts-input; iptables-nft -I INPUT -j ts-input; iptables-nft -N ts-forward; iptables-nft -I FORWARD -j ts-forward
iptables-nft -A ts-forward -i tailscale0 -j MARK --set-mark 0x40000/0xff0000`)
		},
		stop: func(h *house) {
			h.in(`for f in -4 -6; do for p in 5210 5230 5250 5270; do ip $f rule del pref $p; done; done; ip link del tailscale0
iptables-nft -D INPUT -j ts-input; iptables-nft -D FORWARD -j ts-forward; for c in ts-input ts-forward; do iptables-nft -F $c; iptables-nft -X $c; done`)
		},
		works: func(h *house) error {
			out, err := h.try("ip route get 198.51.100.200; ip route get 192.0.2.1; ip route get 192.0.2.1 mark 0x80000")
			lines := strings.Split(out, "\n")
			if err == nil && (len(lines) < 5 || !strings.Contains(lines[0], "dev tailscale0")) {
				err = errors.New(out)
			}
			for _, device := range []string{"dev wan1", "dev wan2"} {
				if err == nil && strings.Contains(lines[2], device) != strings.Contains(lines[4], device) {
					err = fmt.Errorf("its bypass does not follow: %s", out)
				}
			}
			return err
		},
	})
}

// pings asks an address over a tunnel of the router.
func pings(address string) func(h *house) error {
	return func(h *house) error {
		_, err := h.try("ping -n -c 1 -W 2 " + address)
		return err
	}
}

// TestBesideOpenVPN has a client that is told redirect-gateway, and whose tunnel nobody has made an uplink: traffic stays on
// the lines, doctor says so, and the tunnel follows them.
func TestBesideOpenVPN(t *testing.T) {
	const common = " --dev tun0 --dev-type tun --secret %[1]s/key --port 1194 --keepalive 1 5 --cipher AES-256-CBC"
	playBeside(t, besideScene{
		program: "OpenVPN", version: "openvpn --version | sed -n '1s/OpenVPN \\([^ ]*\\).*/\\1/p'", Options: lab.Options{DNAT: true},
		start: func(h *house) {
			if _, err := os.Stat(h.dir + "/key"); err != nil {
				h.sh("inet", fmt.Sprintf("openvpn --genkey secret %s/key", h.dir))
				h.background("inet", "sh", "-c", fmt.Sprintf("exec openvpn --ifconfig 10.8.0.1 10.8.0.2 --local "+lab.Client4+" --float"+common, h.dir))
			}
			h.serve("sh", "-c", fmt.Sprintf("exec openvpn --ifconfig 10.8.0.2 10.8.0.1 --remote "+lab.Client4+" --nobind --redirect-gateway def1"+common, h.dir))
			h.await("the tunnel", func() error { _, err := h.try("ip route show 128.0.0.0/1 | grep tun0"); return err })
		},
		works: pings("10.8.0.1"),
		known: []string{"rp-filter", "vpn-bypassed"},
	})
}

// wgQuick is wg-quick and wireguard-go with a tunnel, into which it sends what is allowed.
func wgQuick(allowed string) besideScene {
	const env = "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go LOG_LEVEL=error WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 "
	return besideScene{
		program: "wg-quick", version: "wg --version | sed 's/.* v\\([^ ]*\\) .*/\\1, to one network/'", Options: lab.Options{DNAT: true},
		prepare: "mkdir -p /run/wireguard /etc/wireguard",
		start: func(h *house) {
			if _, err := os.Stat(h.dir + "/server"); err != nil {
				h.sh("router", fmt.Sprintf(`cd %s; umask 077; for n in client server; do wg genkey >$n; wg pubkey <$n >$n.pub; done
printf '[Interface]\nPrivateKey=%%s\nListenPort=51820\n[Peer]\nPublicKey=%%s\nAllowedIPs=10.9.0.2/32\n' $(cat server) $(cat client.pub) >server.conf
printf '[Interface]\nPrivateKey=%%s\nAddress=10.9.0.2/32\n[Peer]\nPublicKey=%%s\nAllowedIPs=%s\nEndpoint=%s:51820\nPersistentKeepalive=1\n' $(cat client) $(cat server.pub) >client.conf`, h.dir, allowed, lab.Client4))
				h.background("inet", "unshare", "-m", "sh", "-ec", fmt.Sprintf("mount -t tmpfs tmpfs /run; mkdir /run/wireguard; LOG_LEVEL=error wireguard-go -f wg0 & while ! wg setconf wg0 %s/server.conf; do sleep 0.1; done\n"+
					"ip address add 10.9.0.1/32 dev wg0; ip link set wg0 up; ip route add 10.9.0.2 dev wg0; wait", h.dir))
			}
			h.in("cp " + h.dir + "/client.conf /etc/wireguard/wg0.conf; " + env + "wg-quick up wg0 >/run/up.log 2>&1 || { cat /run/up.log; exit 1; }") // wireguard-go stays, and would keep our pipe
			h.await("the tunnel", func() error { return pings("10.9.0.1")(h) })
		},
		stop:  func(h *house) { h.in(env + "wg-quick down wg0") },
		works: pings("10.9.0.1"), unseen: true,
	}
}

// TestBesideWGQuick has a tunnel to one network, of which nothing must be known.
func TestBesideWGQuick(t *testing.T) { playBeside(t, wgQuick("10.9.0.1/32")) }

// TestBesideWGQuickWithAFullTunnel has wg-quick itself set up a tunnel for all of IPv4. Whoever is started last has the rule that is asked
// first; in both orders the tunnel's own packets stay out of it and follow the lines. TestAFullTunnelOfAnotherProgramDoesNotLoop has more
// of its rules.
func TestBesideWGQuickWithAFullTunnel(t *testing.T) {
	t.Parallel()
	for first, problem := range map[string]string{"uplinkd": "foreign-full-tunnel", "wg-quick": "foreign-default"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, wgQuick("0.0.0.0/0"))
			if first == "uplinkd" {
				h.daemon()
				h.startProgram()
			} else {
				h.startProgram()
				h.daemon()
			}
			works := func(when string) {
				t.Helper()
				h.await("the tunnel to work "+when, func() error { return h.scene.works(h) })
			}
			works("at first")
			h.await("the tunnel's problem to be told", func() error { return errors.Join(h.hasProblem(problem), h.converged()) })
			if err := h.Break(lab.Blackhole, "fiber"); err != nil {
				t.Fatal(err)
			}
			h.awaitState("fiber", uplink.Down)
			works("by the second line")
			if err := h.Heal(); err != nil {
				t.Fatal(err)
			}
			h.awaitState("fiber", uplink.Up)
			works("by the first line again")
			h.kill()
			h.daemon()
			works("after uplinkd was killed")
			h.sentProperly()
			h.stopProgram()
			h.awaitBy("lan", other4, "fiber")
		})
	}
}
