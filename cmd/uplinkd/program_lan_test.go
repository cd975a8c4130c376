package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestBesideRadvd has radvd advertise the router to the LAN, which uplinkd is not told to do.
func TestBesideRadvd(t *testing.T) {
	playBeside(t, besideScene{
		program: "radvd", version: "radvd --version 2>&1 | sed -n '1s/.*: //p'", Options: lab.Options{DNAT: true},
		prepare: "printf 'interface lan0 {\\n AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\\n prefix 2001:db8:1::/64 { };\\n};\\n' >/etc/radvd.conf",
		start: func(h *house) {
			h.sh("lan", "sysctl -qw net.ipv6.conf.eth0.accept_ra=2")
			h.serve("radvd", "-n", "-C", "/etc/radvd.conf", "-p", "/run/radvd.pid")
		},
		works: func(h *house) error {
			if out := h.sh("lan", "ip -6 route show default proto ra"); !strings.Contains(out, "dev eth0") {
				return errors.New("the host has no route by radvd: " + out)
			}
			return nil
		},
	})
}
