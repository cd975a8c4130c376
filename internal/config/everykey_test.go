package config

import (
	"net/netip"
	"time"
)

const everyKey = `
[daemon]
state_dir = "/srv/uplinkd"
socket = "/srv/uplinkd.sock"
listen = "[::1]:80"
token_file = "/srv/token"
hosts = ["router.lan", "192.0.2.9"]
hooks = "/srv/hooks"
webhook = "https://192.0.2.10/x?y=z"
ula = "fd12:3456:789a::/48"

[kernel]
protocol = 200
rule_priority = 1_000
table_base = 0x100
mark_mask = "0x00FF0000"
link_group = 9
main_default = false
ingress_qdisc = true
table_names = "/srv/tables.conf"

[dns]
resolv_conf = "/srv/resolv.conf"
dnsmasq = "/srv/dnsmasq"
unbound = true
resolved = true

[[uplink]]
name = "office"
kind = "isp"
device = "ppp0"
tier = 2
weight = 256
default = false
metered = true
quota = "20GB"
failback = "manual"
[uplink.ipv4]
method = "static"
address = "198.51.100.2/30"
gateway = "198.51.100.1"
masquerade = false
masquerade_from = ["10.7.0.0/24"]
[uplink.ipv6]
method = "static"
address = "2001:db8::2/64"
gateway = "fe80::1"
masquerade = true
prefix = "2001:db8:4000::/48"
[uplink.probe]
targets = [
  "192.0.2.1", "2001:db8::1",
  "tcp://192.0.2.2:443", "tcp://[2001:db8::2]:443",
  "http://192.0.2.3/generate_204", "https://[2001:db8::3]:8443?x=%20y",
  "dns://192.0.2.53?name=example.net", "dns://[2001:db8::53]:5353?name=_x.example.net.",
]
interval = "1m30s"
fast_interval = "10s"
timeout = "150ms"
fall = 20
rise = 1000
budget = "0.5MB"
min_targets_up = 4
[uplink.quality]
good_rtt = "50ms"
good_jitter = "5ms"
good_loss = 0.002
fair_rtt = "80ms"
fair_jitter = "9ms"
fair_loss = 0.1
[uplink.dns]
servers = ["192.0.2.53", "2001:db8::53", "fe80::53"]

[[uplink]]
name = "tunnel"
device = "gre1"
[uplink.ipv6]
method = "ra"
delegation = true
prefix_hint = "2001:db8:a00::/56"
request_address = true
translate = true

[[lan]]
device = "br-lan"
subnet_id = 0xffff
prefixes_from = ["tunnel"]
advertise = false
dns = ["uplinks", "self", "2001:db8::53"]
search = ["Home.example."]

[[policy]]
name = "some"
uplinks = ["tunnel", ["office"]]
fallback = "unreachable"
sticky = "source"
from = ["192.168.1.7", "@work", "192.168.1.0/24"]
to = "@streaming"
protocol = ["tcp", 132]
sport = "1024-65535"
dport = [25, "8000-8080"]
iif = "br-lan"
fwmark = "0x1/0xff"
dscp = ["EF", 0x0a]
mac = ["02:00:00:00:00:10", "02-00-00-00-00-AB"]
except = "10.0.0.0/8"

[[policy]]
name = "own"
uplinks = ["office"]
uid = [1000, "2000-2999"]
fwmark = 7

[[set]]
name = "work"
addresses = ["2001:db8:7::/64", "192.0.2.7"]

[[set]]
name = "streaming"
filled = true
timeouts = true

[[tproxy]]
name = "proxy"
iif = ["br-lan", "br-guest"]
protocol = ["tcp", "udp"]
dport = 443
from = "192.168.0.0/16"
to = "@streaming"
mac = "02:00:00:00:00:10"
except = ["10.0.0.0/8"]
port = 12345
on_failure = "reject"
` + everyTunnelKey

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var everyValue = Config{
	Daemon: Daemon{
		StateDir: "/srv/uplinkd", Socket: "/srv/uplinkd.sock", Listen: "[::1]:80", TokenFile: "/srv/token", Hosts: []string{"router.lan", "192.0.2.9"}, Hooks: "/srv/hooks", Webhook: "https://192.0.2.10/x?y=z",
		ULA: ULA{Prefix: netip.MustParsePrefix("fd12:3456:789a::/48")},
	},
	Kernel: Kernel{
		Protocol: 200, RulePriority: 1000, TableBase: 256, MarkMask: 0xff0000, LinkGroup: 9, MainDefault: Off, IngressQdisc: true,
		TableNames: "/srv/tables.conf",
	},
	DNS: Resolution{ResolvConf: "/srv/resolv.conf", Dnsmasq: "/srv/dnsmasq", Unbound: true, Resolved: true},
	Uplinks: []Uplink{{
		Name: "office", Kind: "isp", Device: "ppp0", Tier: 2, Weight: 256, Metered: true, Quota: 20e9, Failback: FailbackManual,
		IPv4: IP{
			Method:  MethodStatic,
			Address: netip.MustParsePrefix("198.51.100.2/30"), Gateway: netip.MustParseAddr("198.51.100.1"),
			Masquerade: Off, MasqueradeFrom: nets("10.7.0.0/24"),
		},
		IPv6: IP{
			Method:  MethodStatic,
			Address: netip.MustParsePrefix("2001:db8::2/64"), Gateway: netip.MustParseAddr("fe80::1"),
			Masquerade: On, Prefix: netip.MustParsePrefix("2001:db8:4000::/48"),
		},
		Probe: Probe{
			Targets: targets(
				"192.0.2.1", "2001:db8::1", "tcp://192.0.2.2:443", "tcp://[2001:db8::2]:443",
				"http://192.0.2.3/generate_204", "https://[2001:db8::3]:8443?x=%20y",
				"dns://192.0.2.53?name=example.net", "dns://[2001:db8::53]:5353?name=_x.example.net.",
			),
			Fixed: true, Budget: 500000, Interval: 90 * time.Second, FastInterval: 10 * time.Second, Timeout: 150 * time.Millisecond,
			Fall: 20, Rise: 1000, MinTargetsUp: 4,
		},
		Quality: Quality{Good: Limits{50 * time.Millisecond, 5 * time.Millisecond, 0.002}, Fair: Limits{80 * time.Millisecond, 9 * time.Millisecond, 0.1}},
		DNS:     Servers{Named: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("fe80::53")}},
	}, {
		Name: "tunnel", Kind: "isp", Device: "gre1", Tier: 1, Weight: 1, Default: true, Failback: FailbackAfterStable,
		IPv4: IP{Method: MethodAuto, Masquerade: Automatic},
		IPv6: IP{
			Method: MethodRA, Delegation: true, PrefixHint: netip.MustParsePrefix("2001:db8:a00::/56"),
			RequestAddress: true, Translate: true,
		},
		Probe: DefaultUplink("", "").Probe, Quality: DefaultUplink("", "").Quality, DNS: Servers{Auto: true},
	}, everyWireGuard(), everyGRETAP(), everyVXLAN(), everySIT()},
	Tunnels: everyTunnel,
	LANs: []LAN{{
		Device: "br-lan", SubnetID: 65535, PrefixesFrom: []string{"tunnel"},
		DNS:    DNS{Uplinks: true, Self: true, Servers: []netip.Addr{netip.MustParseAddr("2001:db8::53")}},
		Search: []string{"home.example"},
	}},
	Sets: []Set{
		{Name: "work", Addresses: nets("192.0.2.7/32", "2001:db8:7::/64")},
		{Name: "streaming", Filled: true, Timeouts: true},
	},
	Policies: []Policy{
		{
			Name: "some", Uplinks: [][]string{{"tunnel"}, {"office"}}, Fallback: FallbackUnreachable, Sticky: StickySource,
			Match: Match{
				From: Addresses{Prefixes: nets("192.0.2.7/32", "192.168.1.0/24", "2001:db8:7::/64")}, To: Addresses{Filled: []string{"streaming"}},
				IIF: []string{"br-lan"}, Protocols: []uint8{6, 132}, SPorts: []Range{{1024, 65535}}, DPorts: []Range{{25, 25}, {8000, 8080}},
				Mark: 1, MarkMask: 0xff, DSCP: []uint8{46, 10}, MACs: [][6]byte{{2, 5: 0x10}, {2, 5: 0xab}},
			},
			Except: nets("10.0.0.0/8"),
		},
		{
			Name: "own", Uplinks: [][]string{{"office"}}, Fallback: FallbackDefault, Sticky: StickyFlow,
			Match: Match{UIDs: []Range{{1000, 1000}, {2000, 2999}}, Mark: 7, MarkMask: 0xff00ffff},
		},
	},
	TProxies: []TProxy{{
		Name: "proxy", Port: 12345, OnFailure: OnFailureReject, Except: nets("10.0.0.0/8"),
		Match: Match{
			From: Addresses{Prefixes: nets("192.168.0.0/16")}, To: Addresses{Filled: []string{"streaming"}},
			IIF: []string{"br-lan", "br-guest"}, Protocols: []uint8{6, 17}, DPorts: []Range{{443, 443}}, MACs: [][6]byte{{2, 5: 0x10}},
		},
	}},
}
