package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestBesideKeepalived has keepalived hold an address of the LAN and one of the second line.
func TestBesideKeepalived(t *testing.T) {
	playBeside(t, besideScene{
		program: "keepalived", version: "keepalived --version 2>&1 | sed -n '1s/.*v\\([0-9.]*\\).*/\\1/p'",
		Options: lab.Options{DNAT: true},
		prepare: `cat >/etc/keepalived.conf <<'X'
global_defs {
	vrrp_garp_master_refresh 5
}
vrrp_instance house {
	state MASTER
	interface lan0
	virtual_router_id 7
	priority 150
	advert_int 1
	virtual_ipaddress {
		203.0.113.140/25 dev lan0
		203.0.113.20/26 dev wan2
	}
}
X`,
		start: func(h *house) {
			h.serve("keepalived", "-n", "-l", "-f", "/etc/keepalived.conf", "-p", "/run/keepalived.pid", "-r", "/run/vrrp.pid")
			h.await("the addresses that keepalived holds", func() error {
				if out := h.sh("router", "ip -4 -o address"); !strings.Contains(out, "203.0.113.140/") || !strings.Contains(out, "203.0.113.20/") {
					return errors.New(out)
				}
				return nil
			})
		},
		works: func(h *house) error {
			if u := h.Uplink("lte"); !u.Address4.Masked().Contains(netip.MustParseAddr("203.0.113.20")) {
				return fmt.Errorf("the line has %v", u.Address4)
			}
			return h.ask("inet", services[0], netip.MustParseAddr("203.0.113.20"), 2*time.Second)
		},
	})
}
