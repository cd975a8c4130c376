//go:build vm

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// allThroughTheVPS sends all IPv4 through a server elsewhere, which answers nothing inside the tunnel but WireGuard itself.
const allThroughTheVPS = `
[[uplink]]
name = "fiber"
device = "wan1"
tier = 2
` + targets + unhurriedProbes + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 3
` + targets + unhurriedProbes + `
[[uplink]]
name = "vps"
kind = "wireguard"
device = "wg0"
underlay = ["lte", "fiber"]
  [uplink.wireguard]
  private_key_file = "KEY"
  addresses = ["10.0.31.2/24"]
  peers = [ { public_key = "PEER", endpoint = "vps.example.net:51820", allowed_ips = ["0.0.0.0/0"] } ]
  [uplink.probe]
  targets = ["handshake://10.0.31.1"]
  rise = 2
`

// names answers for vps.example.net, and remembers who has asked.
type names struct {
	mu     sync.Mutex
	is     string
	askers []netip.Addr
}

func (n *names) ServeDNS(rw dns.ResponseWriter, r *dns.Msg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, err := netip.ParseAddrPort(rw.RemoteAddr().String()); err == nil && !slices.Contains(n.askers, a.Addr().Unmap()) {
		n.askers = append(n.askers, a.Addr().Unmap())
	}
	m := new(dns.Msg).SetReply(r)
	if q := r.Question[0]; q.Qtype == dns.TypeA {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(n.is)})
	}
	_ = rw.WriteMsg(m) // the asker will ask again
}

// lead has the name lead elsewhere, and returns who asked before.
func (n *names) lead(to string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	askers := n.askers
	n.is, n.askers = to, nil
	return askers
}

// newVPS is the usual world with a server behind its Internet, which the name leads to.
func newVPS(t *testing.T) (*router, *names) {
	t.Helper()
	r := newRouter(t, lab.Options{}, "")
	r.pace = emulated
	namespaces(t, "vps")
	key, peer := filepath.Join(r.dir, "key"), filepath.Join(r.dir, "peer")
	public, theirs := newKey(t, key), newKey(t, peer)
	mustScript(t, fmt.Sprintf(`
		ip link add tovps netns %[1]s type veth peer name up0 netns vps
		ip -n %[1]s address add 192.0.2.225/29 dev tovps; ip -n %[1]s link set tovps up
		ip -n %[1]s address add 192.0.2.54/32 dev lo
		ip -n vps address add 192.0.2.226/29 dev up0; ip -n vps link set up0 up
		ip -n vps route add default via 192.0.2.225
		ip -n vps link add wg0 type wireguard; ip -n vps address add 10.0.31.1/24 dev wg0
		ip netns exec vps wg set wg0 private-key %[2]s listen-port 51820 peer %[3]s allowed-ips 10.0.31.2/32
		ip -n vps link set wg0 up
		ip netns exec vps sysctl -qw net.ipv4.ip_forward=1
		ip netns exec vps nft 'table ip t { chain nat { type nat hook postrouting priority 100; oifname up0 masquerade; };
			chain in { type filter hook input priority 0; iifname wg0 drop; }; }'
		mkdir -p /etc/netns/%[4]s; echo nameserver 192.0.2.54 > /etc/netns/%[4]s/resolv.conf`,
		r.Host("inet").Namespace(), peer, public, r.Host("router").Namespace()))
	n := &names{is: "192.0.2.226"}
	socket, err := r.Host("inet").ListenPacket("udp", "192.0.2.54:53")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: n}
	go func() { _ = server.ActivateAndServe() }() // ends with its socket
	t.Cleanup(func() { _ = socket.Close() })
	r.configure(strings.NewReplacer("KEY", key, "PEER", theirs).Replace(allThroughTheVPS))
	// What the tunnel sends, by where it leaves.
	r.sh("router", `nft 'table inet spy { chain post { type filter hook postrouting priority 300; udp dport 51820 jump sent; };
		chain sent { oifname "wan1" counter; oifname "wan2" counter; oifname "wg0" counter; }; }'`)
	return r, n
}

// sent counts the tunnel's own packets by device.
func (r *router) sent(device string) (n int) {
	r.Helper()
	for line := range strings.Lines(r.sh("router", "nft list chain inet spy sent")) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), fmt.Sprintf("oifname %q counter packets ", device)); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				r.Fatal(err)
			}
		}
	}
	return n
}

// appears waits until new flows of the LAN host appear with an address.
func (r *router) appears(p *lab.FlowProbe, as string) {
	r.Helper()
	since := time.Now()
	r.await("new flows to appear as "+as, func() error {
		flows := p.Flows()
		for _, f := range slices.Backward(flows) {
			if f.Start.Before(since) {
				break
			}
			if f.Err == nil && f.Source.Addr() == netip.MustParseAddr(as) {
				return nil
			}
		}
		return fmt.Errorf("none of the latest of %d flows does", len(flows))
	})
}

func (r *router) awaitVPSCarrier(name string) {
	r.Helper()
	r.await("the underlay to be "+name, func() error {
		for _, u := range r.status().Uplinks {
			if u.Name == "vps" && slices.Equal(u.CarriedBy, []string{name}) {
				return nil
			}
		}
		return errors.New("it is another")
	})
}

func TestVMAllGoesThroughAServerElsewhere(t *testing.T) {
	r, name := newVPS(t)
	r.serve()
	r.start()
	flows := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7"), Interval: 200 * time.Millisecond, Timeout: 3 * time.Second}
	defer r.probe(flows)()
	r.appears(flows, "192.0.2.226")
	r.awaitState("vps", uplink.Up)
	r.awaitVPSCarrier("lte")

	// Services on the addresses of the providers are answered by these, by all of them.
	reached := func() {
		t.Helper()
		for _, u := range []string{"fiber", "lte"} {
			for _, s := range services[:2] {
				r.await("an answer", func() error {
					return r.ask("inet", s, r.Uplink(u).Address4.Addr(), unhurried)
				})
			}
		}
	}
	reached()

	// The tunnel follows its carriers, there and back.
	byFiber := r.sent("wan1")
	broken := time.Now()
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitVPSCarrier("fiber")
	t.Logf("the underlay moved %v after its provider died", time.Since(broken).Round(time.Millisecond))
	r.appears(flows, "192.0.2.226")
	if r.sent("wan1") == byFiber {
		t.Error("the tunnel has not used fiber")
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitVPSCarrier("lte")
	r.appears(flows, "192.0.2.226")

	// The server gets another address. That is found when it answers no handshake any more; who is asked for the name is
	// asked over the underlay, where it would be of no use to ask through the tunnel.
	name.lead("192.0.2.227")
	mustScript(t, `peer=$(ip netns exec vps wg show wg0 peers); ip netns exec vps wg set wg0 peer $peer remove
		ip -n vps address delete 192.0.2.226/29 dev up0; ip -n vps address add 192.0.2.227/29 dev up0
		ip -n vps route replace default via 192.0.2.225
		ip netns exec vps wg set wg0 peer $peer allowed-ips 10.0.31.2/32`)
	moved := time.Now()
	r.awaitState("vps", uplink.Suspect, uplink.Down)
	t.Logf("that nobody answers was found after %v", time.Since(moved).Round(time.Millisecond))
	r.appears(flows, r.Uplink("fiber").Address4.Addr().String())
	r.appears(flows, "192.0.2.227")
	t.Logf("the server was found at its new address after %v", time.Since(moved).Round(time.Millisecond))
	reached()

	// The name leads into the tunnel.
	if askers := name.lead("10.0.31.7"); !slices.Equal(askers, []netip.Addr{r.Uplink("lte").Address4.Addr()}) {
		t.Errorf("the name was asked for by %v, which is not the underlay", askers)
	}
	mustScript(t, "ip -n vps link set up0 down")
	r.await("the loop to be told", func() error {
		for _, p := range r.status().Problems {
			if p.Code == "tunnel-loop" {
				return nil
			}
		}
		return errors.New("there is no such problem")
	})
	if n := r.sent("wg0"); n != 0 {
		t.Errorf("%d packets of the tunnel have entered it", n)
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}
