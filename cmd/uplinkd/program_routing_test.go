package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// behind is a network behind a router of the LAN, which a routing daemon there tells to ours; behindHost is a host in it.
const (
	behind     = "198.51.100.160/28"
	behindHost = "198.51.100.161"
)

// dynamic is a routing daemon on the router and on a LAN host, which has the network behind. argv is its command line; in it and in the
// text of its file, FILE, DIR and DEVICE are replaced.
func dynamic(program, version, text string, argv ...string) besideScene {
	replaced := func(h *house, host, device, s string) string {
		dir := filepath.Join(h.dir, host)
		return os.Expand(s, func(name string) string {
			return map[string]string{"DIR": dir, "FILE": dir + "/conf", "DEVICE": device}[name]
		})
	}
	line := func(h *house, host, device string) []string {
		h.Helper()
		var words []string
		for _, word := range argv {
			words = append(words, replaced(h, host, device, word))
		}
		dir := filepath.Join(h.dir, host)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			h.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil { // for a program that gives up being root
			h.Fatal(err)
		}
		if err := os.WriteFile(dir+"/conf", []byte(replaced(h, host, device, text)), 0o644); err != nil {
			h.Fatal(err)
		}
		return words
	}
	return besideScene{
		program: program, version: version, Options: lab.Options{DNAT: true},
		start: func(h *house) {
			if _, err := os.Stat(filepath.Join(h.dir, "lan")); err != nil {
				h.sh("lan", "ip link set lo up; ip address add "+behindHost+"/28 dev lo; sysctl -qw net.ipv4.ip_forward=1")
				words := line(h, "lan", "eth0")
				h.background("lan", words[0], words[1:]...)
			}
			h.serve(line(h, "router", "lan0")...)
			h.await("the network behind to be known", func() error {
				_, err := h.try("ip route get " + behindHost + " | grep -q 'via " + lab.LANHost4 + "'")
				return err
			})
		},
		works: func(h *house) error {
			probe := &lab.FlowProbe{From: h.Host("lan"), Network: "udp", Source: netip.MustParseAddr(behindHost), Target: addrPort(other4), Timeout: 2 * time.Second}
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // one flow
			if err := probe.Run(ctx); err != nil {
				return err
			}
			if err := probe.Flows()[0].Err; err != nil {
				return fmt.Errorf("from the network behind: %w", err)
			}
			return nil
		},
	}
}

// TestBesideFRR has zebra and ospfd.
func TestBesideFRR(t *testing.T) {
	playBeside(t, dynamic("FRR", "/usr/lib/frr/zebra --version | sed -n '1s/zebra version //p'",
		"interface ${DEVICE}\n ip ospf hello-interval 1\n ip ospf dead-interval 4\nrouter ospf\n network "+lab.LANRouter4+"/25 area 0\n redistribute connected\n",
		"sh", "-ec", `chown frr: ${DIR}; echo hostname here >${DIR}/zebra.conf
/usr/lib/frr/zebra -u frr -g frr -f ${DIR}/zebra.conf -i ${DIR}/zebra.pid -z ${DIR}/zserv.api --vty_socket ${DIR} &
while [ ! -e ${DIR}/zebra.vty ]; do sleep 0.1; done
trap 'kill %1; wait' TERM
/usr/lib/frr/ospfd -u frr -g frr -f ${FILE} -i ${DIR}/ospfd.pid -z ${DIR}/zserv.api --vty_socket ${DIR} & 
trap 'kill %1 %2; wait; exit 0' TERM
wait`))
}

func TestBesideBIRD(t *testing.T) {
	playBeside(t, dynamic("BIRD", "bird --version 2>&1 | sed 's/.* //'",
		"protocol device { }\nprotocol direct { ipv4; }\nprotocol kernel { ipv4 { export where source = RTS_OSPF || source = RTS_OSPF_EXT2; }; }\n"+
			"protocol ospf v2 { ipv4 { export where source = RTS_DEVICE; }; area 0 { interface \"${DEVICE}\" { hello 1; dead 4; }; }; }\n",
		"bird", "-f", "-c", "${FILE}", "-s", "${DIR}/bird.ctl"))
}

func TestBesideBabeld(t *testing.T) {
	playBeside(t, dynamic("babeld", "babeld -V 2>&1 | sed 's/babeld-//'",
		"interface ${DEVICE} hello-interval 1 update-interval 2\nredistribute local ip "+behind+"\nredistribute local deny\n",
		"babeld", "-I", "${DIR}/pid", "-S", "${DIR}/state", "-c", "${FILE}"))
}

// TestBesideConntrackd has two of them, the other on a LAN host: what it is told of a connection has our pin.
func TestBesideConntrackd(t *testing.T) {
	conf := func(own, other, device, dir string) string {
		return fmt.Sprintf(`Sync {
	Mode FTFW { }
	UDP { IPv4_address %s
		IPv4_Destination_Address %s
		Port 3780
		Interface %s
	}
}
General {
	LockFile %[4]s/lock
	UNIX { Path %[4]s/ctl
	}
	Filter From Userspace { Protocol Accept { TCP
		UDP
	}
	}
}
`, own, other, device, dir)
	}
	playBeside(t, besideScene{
		program: "conntrackd", version: "conntrackd -v | sed -n '1s/.* v\\([0-9.]*\\)\\. .*/\\1/p'", Options: lab.Options{DNAT: true},
		start: func(h *house) {
			peer := filepath.Join(h.dir, "peer")
			if err := os.MkdirAll(peer, 0o755); err != nil {
				h.Fatal(err)
			}
			for file, text := range map[string]string{h.dir + "/sync": conf(lab.LANRouter4, lab.LANHost4, "lan0", h.dir), peer + "/sync": conf(lab.LANHost4, lab.LANRouter4, "eth0", peer)} {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					h.Fatal(err)
				}
			}
			if _, err := os.Stat(peer + "/ctl"); err != nil {
				h.background("lan", "conntrackd", "-C", peer+"/sync")
			}
			h.serve("conntrackd", "-C", h.dir+"/sync")
			h.await("conntrackd", func() error { _, err := h.try("conntrackd -C " + h.dir + "/sync -s"); return err })
		},
		works: func(h *house) error {
			// mark=0x01000000 or 0x02000000
			_, err := h.Host("lan").Run("sh", "-c", "conntrackd -C "+h.dir+"/peer/sync -e | grep -qE 'dport=7 .*mark=(16777216|33554432)'")
			return err
		},
	})
}

// learned is a router that has the default route of its first line, and routes to other networks, from a routing daemon of the provider.
// Daemon starts one for a shell, with its files in DIR, beside PEER by DEVICE, with the number AS;
// own is false for the provider's.
func learned(program, setup, version string, networks int, daemon func(own bool) string) besideScene {
	line := func(h *house, host, peer, device, as string) string {
		h.Helper()
		dir := filepath.Join(h.dir, host)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.Fatal(err)
		}
		return strings.NewReplacer("DIR", dir, "PEER", peer, "DEVICE", device, "AS", as).Replace(daemon(host == "router"))
	}
	return besideScene{
		program: program, version: version, Options: lab.Options{DNAT: true}, gateways: true, setup: setup,
		// zebra takes another default in main with a small metric for better than its own: none of the second line may be there.
		config:  strings.Replace(dualWAN, "tier = 2\n", "tier = 2\n  [uplink.ipv4]\n  method = \"static\"\n  address = \"203.0.113.2/26\"\n  gateway = \"203.0.113.1\"\n", 1),
		prepare: "ip route flush exact 0.0.0.0/0",
		start: func(h *house) {
			isp, own := h.Uplink("fiber").Gateway4.String(), h.Uplink("fiber").Address4.Addr().String()
			if _, err := os.Stat(filepath.Join(h.dir, "isp")); err != nil {
				device := strings.TrimSpace(h.sh("isp1", "ip -o -4 route get "+own+" | sed 's/.* dev \\([^ ]*\\).*/\\1/'"))
				h.background("isp1", "sh", "-ec", line(h, "isp", own, device, "64496"))
			}
			h.serve("sh", "-ec", line(h, "router", isp, "wan1", "64497"))
			protocol := map[string]string{"FRR": "bgp", "BIRD": "bird", "babeld": "babel"}[program]
			h.await("the routes that it learns", func() error {
				_, err := h.try(fmt.Sprintf("ip route show default proto %[1]s | grep -q 'dev wan1'; test $(ip route show proto %[1]s | wc -l) = %[2]d", protocol, networks+1))
				return err
			})
		},
	}
}

// bgp is FRR, whose provider tells it the default and routes to these networks.
func bgp(setup string, networks ...string) besideScene {
	var feed string
	for _, n := range networks {
		feed += "  network " + n + "\n"
	}
	return learned("FRR", setup, "/usr/lib/frr/bgpd --version | sed -n '1s/bgpd version //p'", len(networks), func(own bool) string {
		conf := `router bgp AS
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor PEER remote-as external
 neighbor PEER timers 1 3
 neighbor PEER timers connect 1
`
		if !own {
			conf += " address-family ipv4 unicast\n  neighbor PEER default-originate\n" + feed
		}
		return `cat >DIR/bgpd.conf <<'END'
` + conf + `END
chown frr: DIR; cd DIR; trap 'kill %1; wait' TERM; rm -f zebra.vty; echo hostname here >zebra.conf
options="-u frr -g frr -z DIR/zserv.api --vty_socket DIR --log stdout"
/usr/lib/frr/zebra $options -f DIR/zebra.conf -i DIR/zebra.pid &
while [ ! -e zebra.vty ]; do sleep 0.1; done
/usr/lib/frr/bgpd $options -f DIR/bgpd.conf -i DIR/bgpd.pid &
trap 'kill %1 %2; wait; exit 0' TERM
wait`
	})
}

// TestBesideFRRWithADefaultByBGP has a provider that tells its customer the default route by BGP, and nothing else.
func TestBesideFRRWithADefaultByBGP(t *testing.T) { playBeside(t, bgp("default by BGP")) }

// TestBesideFRRWithAFeedByBGP has a provider that tells its customer routes to many networks, which zebra puts into main. The second
// line has a default in main whose metric says that zebra's own is better.
func TestBesideFRRWithAFeedByBGP(t *testing.T) {
	feed := []string{"192.0.2.0/24"}
	for i := range 2000 {
		feed = append(feed, fmt.Sprintf("198.%d.%d.%d/26", 18+i/1024, i/4%256, i%4*64))
	}
	s := bgp("2001 networks by BGP", feed...)
	s.config = dualWAN
	s.prepare += "\nip route add default via 203.0.113.1 dev wan2 metric 4278190080"
	playBeside(t, s)
}

func TestBesideBIRDWithADefaultByBGP(t *testing.T) {
	playBeside(t, learned("BIRD", "default by BGP", "bird --version 2>&1 | sed 's/.* //'", 0, func(own bool) string {
		conf := "router id AS;\nprotocol device { }\nprotocol bgp { local as AS; neighbor PEER external; hold time 3; connect retry time 1; connect delay time 1; error wait time 1, 1; ipv4 { import all; export all; }; }\n"
		if own {
			conf += "protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n"
		} else {
			conf += "protocol static { ipv4; route 0.0.0.0/0 unreachable; }\n"
		}
		return "cat >DIR/conf <<'END'\n" + conf + "END\nexec bird -f -c DIR/conf -s DIR/bird.ctl"
	}))
}

func TestBesideBabeldWithADefault(t *testing.T) {
	playBeside(t, learned("babeld", "default by Babel", "babeld -V 2>&1 | sed 's/babeld-//'", 0, func(own bool) string {
		conf := "interface DEVICE hello-interval 1 update-interval 2\nredistribute local deny\n"
		if !own {
			conf += "redistribute ip 0.0.0.0/0 le 0 proto 3\n"
		}
		return "cat >DIR/conf <<'END'\n" + conf + "END\nexec babeld -I DIR/pid -S DIR/state -c DIR/conf"
	}))
}
