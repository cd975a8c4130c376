package config

import (
	"net/netip"
	"time"
)

const everyKey = `
[daemon]
state_dir = "/srv/uplinkd"
socket = "/srv/uplinkd.sock"
socket_group = "netdev"
listen = "[::1]:80"
token_file = "/srv/token"
hosts = ["router.lan", "192.0.2.9"]
hooks = "/srv/hooks"
webhook = "https://192.0.2.10/x?y=z"
ula = "fd12:3456:789a::/48"
mptcp = true

[pair]
virtual = ["192.168.7.1", "fe80::7:1"]
device = "br-lan"
peer = "192.168.7.3:9276"
key_file = "/etc/uplinkd/pair.key"
prepare = ["/etc/uplinkd/pair-flows", "prepare"]

[kernel]
protocol = 200
rule_priority = 1_000
table_base = 0x100
mark_mask = "0x00FF0000"
link_group = 9
main_default = false
ingress_qdisc = true
offload = true
table_names = "/srv/tables.conf"

[dns]
resolv_conf = "/srv/resolv.conf"
dnsmasq = "/srv/dnsmasq"
unbound = true
resolved = true

[[uplink]]
name = "office"
id = 9
kind = "isp"
device = "ppp0"
hardware_address = "02-00-00-00-00-AB"
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
[uplink.recover]
after = "2m"
run = ["/usr/local/sbin/reset-modem", "wwan0"]
max_per_day = 3
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
id = 2
device = "gre1"
[uplink.bandwidth]
down = "500Mbit"
up = "1.5Gbit"
[uplink.ipv6]
method = "ra"
delegation = true
prefix_hint = "2001:db8:a00::/56"
duid = "00-03-00-01-02-00-00-00-00-01"
iaid = 0
vendor_class = "3561:dslforum.org"
user_class = ["one", "two"]
request_address = true
translate = true

[[uplink]]
name = "mobile"
id = 3
device = "wwan0"
primary_only = true
[uplink.ipv4]
method = "clat"
nat64_prefix = "2001:db8:64::/96"
[uplink.ipv6]
method = "ra"
share = true

[[uplink]]
name = "common"
id = 10
device = "eth8"
shared = true

[[uplink]]
name = "later"
id = 4
device = "eth9"
enabled = false

[[tier]]
tier = 1
balance = "latency"
overflow = 0.75

[[lan]]
device = "br-lan"
subnet_id = 0xffff
prefixes_from = ["tunnel"]
advertise = false
dns = ["uplinks", "self", "2001:db8::53"]
search = ["Home.example."]
delegate_length = 60

[[policy]]
name = "some"
uplinks = [["tunnel", "office:3"]]
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
name = "not-now"
enabled = false
uplinks = ["tunnel"]
to = "192.0.2.10-192.0.2.12"

[[policy]]
name = "alone"
uplinks = ["main"]
to = ["2001:db8::1-2001:db8::2"]

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

[[set]]
name = "cn"
file = "/srv/cn.txt"

[[set]]
name = "us"
url = "https://example.net/us.txt"
refresh = "1h"

[[set]]
name = "tv"
domains = ["*.example.org", "Example.net."]

[[policy]]
name = "lists"
uplinks = ["office"]
to = ["@cn", "@us", "@tv"]

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

[[forward]]
name = "web"
protocol = ["tcp", "udp"]
port = "443"
to_port = 8443
to4 = "192.168.7.10"
to6 = "::10"
lan = "br-lan"
uplinks = ["office", "tunnel", "later"]

[[forward]]
name = "nas"
port = "8000-8010"
mac = "02:00:00:00:00:10"

[[forward]]
name = "not-now"
port = 80
to4 = "192.168.7.11"
uplinks = ["later"]

[[notify]]
name = "phone"
url = "gotify://gotify.example.net/sub"
secret_file = "/etc/uplinkd/gotify.token"
events = ["verdict", "quota"]
after = "45s"
` + everyTunnelKey

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func everyMobile() Uplink {
	u := DefaultUplink("mobile", "wwan0")
	u.ID, u.PrimaryOnly = 3, true
	u.IPv6.Method, u.IPv6.Share = MethodRA, On
	u.IPv4.Method, u.IPv4.NAT64 = MethodCLAT, netip.MustParsePrefix("2001:db8:64::/96")
	return u
}

func everyShared() Uplink {
	u := DefaultUplink("common", "eth8")
	u.ID, u.Shared = 10, true
	return u
}

var everyValue = Config{
	Pair: Pair{
		Virtual: []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fe80::7:1")}, Device: "br-lan",
		Peer: netip.MustParseAddrPort("192.168.7.3:9276"), KeyFile: "/etc/uplinkd/pair.key",
		Prepare: []string{"/etc/uplinkd/pair-flows", "prepare"},
	},
	Daemon: Daemon{
		StateDir: "/srv/uplinkd", Socket: "/srv/uplinkd.sock", SocketGroup: "netdev", Listen: "[::1]:80", TokenFile: "/srv/token", Hosts: []string{"router.lan", "192.0.2.9"}, Hooks: "/srv/hooks", Webhook: "https://192.0.2.10/x?y=z",
		ULA: ULA{Prefix: netip.MustParsePrefix("fd12:3456:789a::/48")}, MPTCP: true,
	},
	Kernel: Kernel{
		Protocol: 200, RulePriority: 1000, TableBase: 256, MarkMask: 0xff0000, LinkGroup: 9, MainDefault: Off, IngressQdisc: true, Offload: true,
		TableNames: "/srv/tables.conf",
	},
	DNS: Resolution{ResolvConf: "/srv/resolv.conf", Dnsmasq: "/srv/dnsmasq", Unbound: true, Resolved: true},
	Uplinks: []Uplink{{
		Name: "office", ID: 9, Enabled: true, Kind: "isp", Device: "ppp0", HardwareAddress: [6]byte{2, 5: 0xab}, Tier: 2, Weight: 256, Metered: true, Quota: 20e9, Failback: FailbackManual,
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
		Recover: Recover{After: 2 * time.Minute, Run: []string{"/usr/local/sbin/reset-modem", "wwan0"}, MaxPerDay: 3},
	}, {
		Name: "tunnel", ID: 2, Enabled: true, Kind: "isp", Device: "gre1", Tier: 1, Weight: 1, Bandwidth: Bandwidth{Down: 500e6, Up: 15e8}, Default: true, Failback: FailbackAfterStable,
		IPv4: IP{Method: MethodAuto, Masquerade: Automatic},
		IPv6: IP{
			Method: MethodRA, Delegation: true, PrefixHint: netip.MustParsePrefix("2001:db8:a00::/56"), DUID: exampleDUID, IAID: new(uint32), VendorClass: "3561:dslforum.org", UserClass: []string{"one", "two"},
			RequestAddress: true, Translate: true,
		},
		Probe: DefaultUplink("", "").Probe, Quality: DefaultUplink("", "").Quality, DNS: Servers{Auto: true}, Recover: defaultRecover(),
	}, everyMobile(), everyShared(), everyWireGuard(), everyGRETAP(), everyVXLAN(), everySIT(), every6RD()},
	Tiers:   []Tier{{Tier: 1, Balance: BalanceLatency, Overflow: 0.75}},
	Tunnels: everyTunnel,
	LANs: []LAN{{
		Device: "br-lan", SubnetID: 65535, PrefixesFrom: []string{"tunnel"},
		DNS:    DNS{Uplinks: true, Self: true, Servers: []netip.Addr{netip.MustParseAddr("2001:db8::53")}},
		Search: []string{"home.example"}, DelegateLength: 60,
	}},
	Sets: []Set{
		{Name: "work", Addresses: nets("192.0.2.7/32", "2001:db8:7::/64")},
		{Name: "streaming", Filled: true, Timeouts: true},
		{Name: "cn", File: "/srv/cn.txt"},
		{Name: "us", URL: "https://example.net/us.txt", Refresh: time.Hour},
		{Name: "tv", Domains: []string{"*.example.org", "example.net"}, Dnsmasq: true},
	},
	Policies: []Policy{
		{
			Name: "some", Enabled: true, Uplinks: [][]string{{"tunnel", "office"}}, Weights: map[string]int{"office": 3}, Fallback: FallbackUnreachable, Sticky: StickySource,
			Match: Match{
				From: Addresses{Prefixes: nets("192.0.2.7/32", "192.168.1.0/24", "2001:db8:7::/64")}, To: Addresses{Filled: []string{"streaming"}},
				IIF: []string{"br-lan"}, Protocols: []uint8{6, 132}, SPorts: []Range{{1024, 65535}}, DPorts: []Range{{25, 25}, {8000, 8080}},
				Mark: 1, MarkMask: 0xff, DSCP: []uint8{46, 10}, MACs: [][6]byte{{2, 5: 0x10}, {2, 5: 0xab}},
			},
			Except: nets("10.0.0.0/8"),
		},
		{
			Name: "alone", Enabled: true, LeftTo: LeftToMain, Fallback: FallbackDefault, Sticky: StickyFlow,
			Match: Match{To: Addresses{Prefixes: nets("2001:db8::1/128", "2001:db8::2/128")}},
		},
		{
			Name: "own", Enabled: true, Uplinks: [][]string{{"office"}}, Fallback: FallbackDefault, Sticky: StickyFlow,
			Match: Match{UIDs: []Range{{1000, 1000}, {2000, 2999}}, Mark: 7, MarkMask: 0xff00ffff},
		},
		{
			Name: "lists", Enabled: true, Uplinks: [][]string{{"office"}}, Fallback: FallbackDefault, Sticky: StickyFlow,
			Match: Match{To: Addresses{Filled: []string{"tv"}, Lists: []string{"cn", "us", "tv"}}},
		},
	},
	Disabled: Disabled{
		Uplinks: func() []Uplink {
			u := DefaultUplink("later", "eth9")
			u.ID = 4
			u.Enabled = false
			return []Uplink{u}
		}(),
		Policies: []Policy{{
			Name: "not-now", Uplinks: [][]string{{"tunnel"}}, Fallback: FallbackDefault, Sticky: StickyFlow,
			Match: Match{To: Addresses{Prefixes: nets("192.0.2.10/31", "192.0.2.12/32")}},
		}},
	},
	TProxies: []TProxy{{
		Name: "proxy", Port: 12345, OnFailure: OnFailureReject, Except: nets("10.0.0.0/8"),
		Match: Match{
			From: Addresses{Prefixes: nets("192.168.0.0/16")}, To: Addresses{Filled: []string{"streaming"}},
			IIF: []string{"br-lan", "br-guest"}, Protocols: []uint8{6, 17}, DPorts: []Range{{443, 443}}, MACs: [][6]byte{{2, 5: 0x10}},
		},
	}},
	Forwards: []Forward{
		{Name: "web", Protocols: []uint8{6, 17}, Ports: Range{443, 443}, ToPort: 8443, To4: netip.MustParseAddr("192.168.7.10"), ID6: 0x10, LAN: "br-lan", Uplinks: []string{"office", "tunnel"}},
		{Name: "nas", Protocols: []uint8{6}, Ports: Range{8000, 8010}, ID6: 0x0000_00ff_fe00_0010, LAN: "br-lan"},
	},
	Notify: []Notify{{Name: "phone", URL: "gotify://gotify.example.net/sub", SecretFile: "/etc/uplinkd/gotify.token", Events: []string{"verdict", "quota"}, After: 45 * time.Second}},
}
