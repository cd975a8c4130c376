//go:build vm

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// The LAN's network, and that of another site with a host and the gateway.
const lanNet, remoteNet, remoteHost, remoteGateway = "203.0.113.128/25", "192.0.2.192/26", "192.0.2.200", lab.Client4

// bestPath has the IKE_SA follow the default route, there and back. As it is installed, charon keeps an address until it gets no answer.
const bestPath = "install_routes = no\nprefer_best_path = yes"

// swanctlConf is the connection of one end. The one with an address that stays is called and gives dead callers up.
func swanctlConf(id, local, remote, localNet, remoteNet, start, dead string) string {
	return fmt.Sprintf(`connections { site {
	version = 2
	proposals = aes128-sha256-modp2048
	dpd_delay = 2s
	local_addrs = %s
	remote_addrs = %s
	local {
		auth = psk
		id = %s
	}
	remote { auth = psk }
	children { net {
		esp_proposals = aes128-sha256
		local_ts = %s
		remote_ts = %s
		start_action = %s
		dpd_action = %s
	} }
} }
secrets { ike-all { secret = "of both sites" } }
`, local, remote, id, localNet, remoteNet, start, dead)
}

// strongSwan is charon with a policy between the LAN and the network of another site, on both of which it runs. Its settings on the router are given.
func strongSwan(settings string) besideScene {
	write := func(h *house, name, settings, connection string) {
		h.Helper()
		for file, text := range map[string]string{
			name + ".conf": fmt.Sprintf("include /etc/strongswan.conf\ncharon {\n%s\nretransmit_timeout = 1\nretransmit_tries = 4\nplugins { vici { socket = unix://%s } } }\n"+
				"charon-systemd { filelog { stderr { time_format = %%T\ndefault = 1 } }\njournal { default = -1 } }\n", settings, h.dir+"/"+name+".vici"),
			name + ".swanctl": connection,
		} {
			if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o600); err != nil {
				h.Fatal(err)
			}
		}
	}
	load := func(h *house, name string) string {
		return "swanctl --load-all --uri unix://" + h.dir + "/" + name + ".vici --file " + h.dir + "/" + name + ".swanctl"
	}
	return besideScene{
		program: "strongSwan", version: "swanctl --version 2>&1 | sed -n 's/^strongSwan \\([0-9.]*\\).*/\\1/p'", Options: lab.Options{DNAT: true},
		config: strings.ReplaceAll(dualWAN, targets, targets+unhurriedProbes),
		start: func(h *house) {
			if _, err := os.Stat(h.dir + "/far.conf"); err != nil {
				write(h, "near", settings, swanctlConf("router", "%any", remoteGateway, lanNet, remoteNet, "trap|start", "restart"))
				// The site has one address, whatever else the world's Internet has.
				write(h, "far", "install_routes = no\ninterfaces_ignore = isp1, isp2", swanctlConf("site", remoteGateway, "%any", remoteNet, lanNet, "none", "clear"))
				for _, isp := range []string{"isp1", "isp2"} {
					h.sh(isp, "nft 'table inet seen { chain f { type filter hook forward priority -10; ip daddr "+remoteNet+" counter drop; }; }'")
				}
				h.sh(lab.Internet, "ip address add "+remoteHost+"/32 dev lo; ip route add "+lanNet+" $(ip route get 203.0.113.2 | grep -o 'via [0-9.]*') src "+remoteHost)
				h.sh(lab.Internet, "nft 'table inet seen { chain i { type filter hook input priority 0; ip daddr "+remoteHost+" ip saddr != "+lab.LANHost4+" counter drop; ip daddr "+remoteHost+" meta secpath missing drop; }; }'")
				h.background(lab.Internet, "unshare", "-m", "sh", "-ec", "mount -t tmpfs tmpfs /run; exec env STRONGSWAN_CONF="+h.dir+"/far.conf charon-systemd")
				h.await("the other site", func() error { _, err := h.Host(lab.Internet).Run("sh", "-ec", load(h, "far")); return err })
			}
			h.serve("env", "STRONGSWAN_CONF="+h.dir+"/near.conf", "charon-systemd")
			h.await("the policy", func() error {
				out, err := h.try(load(h, "near") + "; ip xfrm policy | grep -q 'dst " + remoteNet + "'")
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			})
		},
		works: func(h *house) error {
			_, err := h.Host("lan").Run("ping", "-n", "-c", "1", "-W", "2", remoteHost)
			for _, at := range []string{"isp1", "isp2", lab.Internet} {
				if seen := h.sh(at, "nft list table inet seen"); !strings.Contains(seen, "counter packets 0 bytes 0 drop") {
					h.Fatalf("in the clear, or translated, at %s:\n%s", at, seen)
				}
			}
			return err
		},
	}
}

// loadESP loads the modules of the algorithms by a first state. It takes an emulated machine longer than charon waits for an answer.
func loadESP(t *testing.T) {
	t.Helper()
	mustScript(t, "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel auth-trunc 'hmac(sha256)' 0x"+strings.Repeat("11", 32)+
		" 128 enc 'cbc(aes)' 0x"+strings.Repeat("22", 16)+"; ip xfrm state flush")
}

// TestVMBesideStrongSwan has what is sent from the LAN to the other site arrive there encrypted, whatever happens to the lines, to charon and to uplinkd;
// no provider sees any of it in the clear.
func TestVMBesideStrongSwan(t *testing.T) {
	loadESP(t)
	playBeside(t, strongSwan(bestPath))
}

// A line that dies without a word keeps its address and its routes. charon leaves it at once when it is told to prefer the best path, by MOBIKE, and
// comes back with the line; else it waits for dead-peer detection, and stays where it then is.
func TestVMStrongSwanFollowsALine(t *testing.T) {
	loadESP(t)
	for _, c := range []struct {
		settings, afterwards string
		sa                   string // the number of the IKE_SA: a second one was agreed on anew
	}{{bestPath, "198.51.100.2", "site: #1,"}, {"", "203.0.113.2", "site: #2,"}} {
		h := newHouse(t, strongSwan(c.settings))
		h.startProgram()
		h.daemon()
		h.house("at first", "fiber", "fiber", "lte")
		from := func(address string) {
			t.Helper()
			h.await("the tunnel to come from "+address, func() error {
				sas, err := h.try("swanctl --list-sas --uri unix://" + h.dir + "/near.vici 2>/dev/null")
				if !strings.Contains(sas, c.sa) || !strings.Contains(sas, "'router' @ "+address+"[") {
					err = errors.Join(err, errors.New(sas))
				}
				return errors.Join(err, h.scene.works(h))
			})
		}
		if err := h.Break(lab.Blackhole, "fiber"); err != nil {
			t.Fatal(err)
		}
		h.awaitState("fiber", uplink.Down)
		from("203.0.113.2")
		if err := h.Heal(); err != nil {
			t.Fatal(err)
		}
		h.awaitState("fiber", uplink.Up)
		h.house("by the first line again", "fiber", "fiber", "lte")
		from(c.afterwards)
		h.sentProperly()
		h.stopProgram()
		h.kill()
	}
}
