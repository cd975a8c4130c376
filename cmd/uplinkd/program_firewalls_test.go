package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// iptablesForwards are the lab's port forwardings by iptables, of any sort and family: the command, and the host of the LAN.
func iptablesForwards(iptables, host string) string {
	return fmt.Sprintf("%[1]s -t nat -A PREROUTING -i wan+ -p tcp --dport %[3]d -j DNAT --to-destination %[2]s\n%[1]s -t nat -A PREROUTING -i wan+ -p udp --dport %[4]d -j DNAT --to-destination %[2]s\n",
		iptables, host, lab.ForwardedTCP, lab.ForwardedUDP)
}

// TestBesideIPTablesLegacy has a firewall of the old sort, and an owner's marks that are set without a mask, as many
// manuals have it.
func TestBesideIPTablesLegacy(t *testing.T) {
	script := ""
	for iptables, host := range map[string]string{"iptables-legacy": lab.LANHost4, "ip6tables-legacy": lab.LANHost6} {
		script += strings.ReplaceAll(`@ -P FORWARD DROP
@ -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
@ -A FORWARD -i lan0 -j ACCEPT
@ -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
@ -t mangle -A PREROUTING -j CONNMARK --restore-mark
@ -t mangle -A PREROUTING -m mark --mark 0 -i lan0 -j MARK --set-mark 10
@ -t mangle -A PREROUTING -m mark --mark 0 -j MARK --set-mark 20
@ -t mangle -A POSTROUTING -j CONNMARK --save-mark
`, "@", iptables) + iptablesForwards(iptables, host)
	}
	script += "iptables-legacy -t nat -A POSTROUTING -o wan1 -j MASQUERADE\niptables-legacy -t nat -A POSTROUTING -o wan2 -j MASQUERADE\n"
	playBeside(t, besideScene{
		program: "iptables-legacy", version: "iptables-legacy --version | cut -d' ' -f2",
		start: func(h *house) { h.in(script) },
		stop: func(h *house) {
			h.in("for t in iptables-legacy ip6tables-legacy; do $t -P FORWARD ACCEPT; for n in filter nat mangle; do $t -t $n -F; done; done")
		},
		reload: "for t in iptables ip6tables; do $t-legacy-save >/run/rules; $t-legacy-restore </run/rules; done",
	})
}

func TestBesideUFW(t *testing.T) {
	nat := func(host string) string {
		return "*nat\n:PREROUTING ACCEPT [0:0]\n" + strings.ReplaceAll(iptablesForwards("", host), " -t nat ", "") + "COMMIT\n"
	}
	playBeside(t, besideScene{
		program: "ufw", version: "ufw version | sed -n 's/^ufw //p'",
		prepare: fmt.Sprintf(`cd /etc/ufw
cat - before.rules >before.new <<'X'
%sX
cat - before6.rules >before6.new <<'X'
%sX
mv before.new before.rules; mv before6.new before6.rules
ufw allow 7000/tcp; ufw allow 7001/udp; ufw route allow in on lan0
for host in %s %s; do ufw route allow proto tcp to $host port %d; ufw route allow proto udp to $host port %d; done
`, nat(lab.LANHost4), nat(lab.LANHost6), lab.LANHost4, lab.LANHost6, lab.ForwardedTCP, lab.ForwardedUDP),
		start:  func(h *house) { h.in("ufw --force enable") },
		stop:   func(h *house) { h.in("ufw disable") },
		reload: "ufw reload",
	})
}

func TestBesideFirewalld(t *testing.T) {
	prepare := "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1\nconf() { firewall-offline-cmd \"$@\" >/dev/null; }\nfor d in wan1 wan2; do conf --zone=external --add-interface=$d; done\nconf --zone=internal --add-interface=lan0\n" +
		"conf --zone=external --add-port=7000/tcp; conf --zone=external --add-port=7001/udp\n" +
		"conf --new-policy=out; conf --policy=out --add-ingress-zone=internal; conf --policy=out --add-egress-zone=external; conf --policy=out --set-target=ACCEPT\n"
	for protocol, port := range map[string]int{"tcp": lab.ForwardedTCP, "udp": lab.ForwardedUDP} {
		prepare += fmt.Sprintf("conf --zone=external --add-forward-port=port=%[1]d:proto=%[2]s:toport=%[1]d:toaddr=%[3]s\n"+
			"conf --zone=external --add-rich-rule='rule family=\"ipv6\" forward-port port=\"%[1]d\" protocol=\"%[2]s\" to-port=\"%[1]d\" to-addr=\"%[4]s\"'\n", port, protocol, lab.LANHost4, lab.LANHost6)
	}
	playBeside(t, besideScene{
		program: "firewalld", version: "firewall-offline-cmd --version", prepare: prepare,
		start: func(h *house) {
			if h.env == nil {
				h.env = []string{"DBUS_SYSTEM_BUS_ADDRESS=" + h.startBus()}
			}
			h.serve("firewalld", "--nofork", "--nopid")
			h.await("firewalld", func() error { _, err := h.try("firewall-cmd --state"); return err })
		},
		reload: "firewall-cmd --reload",
	})
}

func TestBesideShorewall(t *testing.T) {
	playBeside(t, besideScene{
		program: "shorewall", version: "shorewall version",
		prepare: fmt.Sprintf(`cd /etc/shorewall
sed -e 's/^STARTUP_ENABLED=.*/STARTUP_ENABLED=Yes/; s/^IP_FORWARDING=.*/IP_FORWARDING=Keep/; s/^LOG_BACKEND=.*/LOG_BACKEND=/' /usr/share/doc/shorewall/examples/two-interfaces/shorewall.conf >shorewall.conf
printf 'fw firewall\nnet ipv4\nloc ipv4\n' >zones
printf '?FORMAT 2\nnet wan1 tcpflags,nosmurfs,routefilter\nnet wan2 tcpflags,nosmurfs,routefilter\nloc lan0 tcpflags\n' >interfaces
printf 'loc net ACCEPT\nfw net ACCEPT\nfw loc ACCEPT\nloc fw ACCEPT\nnet all DROP\nall all REJECT\n' >policy
printf '?SECTION NEW\nACCEPT net fw tcp 7000\nACCEPT net fw udp 7001\nACCEPT net fw icmp\nDNAT net loc:%[1]s tcp %[2]d\nDNAT net loc:%[1]s udp %[3]d\n' >rules
printf 'MASQUERADE 203.0.113.128/25 wan1\nMASQUERADE 203.0.113.128/25 wan2\n' >snat
`, lab.LANHost4, lab.ForwardedTCP, lab.ForwardedUDP),
		start:  func(h *house) { h.in("shorewall start") },
		stop:   func(h *house) { h.in("shorewall clear") },
		reload: "shorewall reload",

		noForwards6: true,
	})
}

func TestBesideFail2ban(t *testing.T) {
	playBeside(t, besideScene{
		program: "fail2ban", version: "fail2ban-server --version | sed -n '1s/.*v//p'", Options: lab.Options{DNAT: true},
		prepare: `cat >/etc/fail2ban/jail.local <<'X'
[DEFAULT]
banaction = nftables
backend = polling
[sshd]
enabled = true
port = 7000
logpath = /var/log/auth.log
X
: >/var/log/auth.log
mkdir -p /run/fail2ban`,
		start: func(h *house) {
			h.serve("fail2ban-server", "-xf", "--logtarget=STDOUT", "start")
			h.await("fail2ban", func() error { _, err := h.try("fail2ban-client set sshd banip 192.0.2.99"); return err })
		},
		works: func(h *house) error {
			_, err := h.try("nft list table inet f2b-table | grep -q 192.0.2.99")
			return err
		},
	})
}
