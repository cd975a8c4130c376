package config

import (
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules/encap"
)

// MaxUplinks is how many uplinks one configuration may hold: ids 1..62 fit into the six bits of the mark, with 0
// left for "no uplink" and 63 left unused.
const MaxUplinks = 62

// MeteredInterval is the default of Probe.Interval for a metered uplink: a day of it costs 2 MB instead of 9. A dead
// one that carries traffic is noticed as fast as any other, by that traffic.
const MeteredInterval = 5 * time.Second

// Auto is a switch that may also be left to uplinkd.
type Auto string

// The positions of such a switch.
const (
	Automatic Auto = "auto"
	On        Auto = "true"
	Off       Auto = "false"
)

// KindISP is the kind of an uplink whose interface somebody else or uplinkd configures.
const KindISP = "isp"

// KindWireGuard is an uplink that may have peers, and that uplinks may carry by turns.
const KindWireGuard = encap.WireGuard

// Method says where the addresses and the gateway of one family of an uplink come from.
type Method string

// The methods. MethodDHCP and MethodCLAT exist for IPv4 only, MethodRA for IPv6 only.
const (
	MethodAuto   Method = "auto"   // follow what the kernel has, whoever put it there
	MethodDHCP   Method = "dhcp"   // the lease of a DHCPv4 client
	MethodRA     Method = "ra"     // IPv6: what routers advertise, by our own router discovery
	MethodStatic Method = "static" // Address and Gateway of the configuration
	MethodCLAT   Method = "clat"   // IPv4: translated to IPv6 for the provider's NAT64 (464XLAT, RFC 6877)
	MethodOff    Method = "off"    // the uplink does not carry this family
)

// Failback says when an uplink that was down carries new traffic again. Flows that have moved elsewhere stay there, but for FailbackImmediateAll.
type Failback string

// The failback policies.
const (
	FailbackAfterStable  Failback = "after-stable"   // when it is up: Probe.Rise answers in a row over ten seconds
	FailbackImmediate    Failback = "immediate"      // at the first answer
	FailbackImmediateAll Failback = "immediate-all"  // likewise, and what others carry in its place ends there
	FailbackNewFlowsOnly Failback = "new-flows-only" // when it is up, but tunnels that it carried stay where they are
	FailbackManual       Failback = "manual"         // when the operator says so, or nothing else is usable
)

// Config is a whole configuration with all defaults applied. Values that Parse or Load return satisfy every range
// given here.
type Config struct {
	Daemon  Daemon
	Kernel  Kernel
	DNS     Resolution
	Uplinks []Uplink // in the order of the file; at most MaxUplinks; none if the file names none
	Tiers   []Tier   // in the order of the file; at most MaxUplinks; others are BalanceWeight without overflow
	LANs    []LAN    // in the order of the file; at most MaxLANs
	Tunnels []Tunnel // in the order of the file; at most maxTunnels
	Sets    []Set    // in the order of the file; at most MaxSets
	// Policies are in the order of the file, in which they are asked; at most maxPolicies.
	Policies []Policy
	TProxies []TProxy  // in the order of the file, in which they are asked; at most MaxTProxies
	Forwards []Forward // in the order of the file; at most maxForwards
	Notify   []Notify  // in the order of the file; at most maxNotify
	Pair     Pair      // [pair]
	Disabled Disabled
	// Backup is true for what the backup of a pair works with; Waiting are uplinks that the primary has then. See Standby.
	Backup  bool
	Waiting []Uplink
}

// Daemon is the [daemon] section: where the daemon keeps things and listens.
type Daemon struct {
	StateDir    string   // state_dir: absolute path of a directory
	Socket      string   // socket: absolute path of the control socket, at most 107 bytes (sun_path, unix(7))
	SocketGroup string   // socket_group: members may use the control socket; "" is DefaultSocketGroup where it exists
	Listen      string   // listen: IP:PORT or localhost:PORT of the TCP listener; "" is off
	TokenFile   string   // token_file: absolute path of a file that holds the token for changes over TCP; "" is none
	Hosts       []string // hosts: names under which the TCP listener may be asked for, besides localhost and its addresses
	Hooks       string   // hooks: absolute path of a directory of programs that are run on events; "" is none
	Webhook     string   // webhook: URL that events are posted to; "" is none
	ULA         ULA      // ula: the prefix of addresses that hold without any provider
	MPTCP       bool     // mptcp: addresses of uplinks are endpoints of Multipath TCP for this machine's own connections
}

// DefaultSocketGroup is the group that packages make. Where nobody has made it, the socket is root's alone.
const DefaultSocketGroup = "uplinkd"

// ULA is the unique-local prefix (RFC 4193) that each LAN has a /64 of.
type ULA struct {
	Off    bool         // LANs have none
	Prefix netip.Prefix // a /48; invalid: one is drawn at the first start, and kept
}

// Kernel is the [kernel] section: the numbers that mark kernel objects as ours.
type Kernel struct {
	Protocol     int    // protocol: tag of our routes, rules and addresses; 5..255 and no number known to be taken
	RulePriority int    // rule_priority: first rule's priority; 1..31766, rules lie in [base, base+999]
	TableBase    int    // table_base: the default group's table; tables lie in [base, base+62], never 253..255
	MarkMask     uint32 // mark_mask: our bits of packet and connection marks; contiguous, six or more
	LinkGroup    uint32 // link_group: group of uplink devices; 1..2147483647
	MainDefault  Auto   // main_default: whether a default of ours stands in table main
	// IngressQdisc is true when other programs shape what comes in by an uplink, with a qdisc that stands where ours would.
	IngressQdisc bool   // ingress_qdisc
	Offload      bool   // offload: a flowtable carries what is established
	TableNames   string // table_names: absolute path of the file with our table names, ending in .conf; "" is none
}

// Uplink is one [[uplink]] section.
type Uplink struct {
	Name   string // name: unique; 1 to MaxUplinkName letters, digits, - and _
	ID     int    // id: of its mark and table, 1..MaxUplinks, unique; 0: one is assigned and kept
	Kind   string // kind: KindISP, or the name of one of encap.Kinds
	Device string // device: unique; a network interface's name, at most 15 bytes
	// HardwareAddress is the link-layer address that Device is given; zero: whichever it has. Not for a tunnel without Ethernet.
	HardwareAddress [6]byte // hardware_address: unicast
	Tier            int     // tier: 1..255, the lowest is used first
	Weight          int     // weight: 1..256, share of new flows among the usable uplinks of one tier
	Enabled         bool    // enabled: what is not is in Config.Disabled
	// Which the primary of a pair alone has.
	Shared      bool // shared: VRRP moves its address
	PrimaryOnly bool // primary_only: it is dialed, or leased, under an identity of the pair
	Default     bool // default: may carry the default; without it policies and tunnels alone use the uplink
	// Bandwidth is what the line carries. Down is what is received.
	Bandwidth Bandwidth // [uplink.bandwidth]
	Metered   bool      // metered: traffic costs money here, so Probe.Interval is MeteredInterval by default
	Quota     int64     // quota: bytes a calendar month, both directions, above which new flows go elsewhere; 0 is none
	Failback  Failback  // failback: when the uplink carries new traffic again after it was down
	IPv4      IP        // [uplink.ipv4]
	IPv6      IP        // [uplink.ipv6]; not off if IPv4 is off
	Probe     Probe     // [uplink.probe]

	// What carries a tunnel. Of a chain of carriers none is its own.
	Underlay []string // underlay: KindWireGuard only, uplinks that may carry it, best first; none: see Config.Carriers
	Over     string   // over: of a tunnel to one other end, the uplink that carries it; "" does not depend on one

	// PeerRoutes routes what a peer is allowed only while the peer is there.
	PeerRoutes bool // peer_routes: KindWireGuard only

	WireGuard *WireGuard // [uplink.wireguard]; nil: others make the device
	Encap     *Encap     // [uplink.KIND] of a tunnel to one other end; nil: others make the device
	Quality   Quality    // [uplink.quality]
	DNS       Servers    // [uplink.dns]
	Recover   Recover    // [uplink.recover]
}

// IP is one family of an uplink, [uplink.ipv4] or [uplink.ipv6].
type IP struct {
	Method Method // method

	// Address is the uplink's own address with its prefix length. Valid if and only if Method is MethodStatic.
	Address netip.Prefix
	// Gateway is the next hop for MethodStatic, without a zone: an address in Address's prefix other than the
	// address itself, or link-local in IPv6. The zero Addr means a default route on the link itself, as
	// point-to-point devices have; other methods always have the zero Addr.
	Gateway netip.Addr
	// Masquerade says whether forwarded traffic leaves with the uplink's own address: NAT44 in IPv4; in IPv6 NAT66
	// for hosts without a prefix of this uplink. Automatic: where the uplink leads to the Internet and MasqueradeFrom is empty.
	Masquerade Auto
	// MasqueradeFrom are sources that are hidden behind the uplink's own address where Masquerade is not On: networks of
	// the family.
	MasqueradeFrom []netip.Prefix // masquerade_from

	// NAT64 is the prefix of the provider's translator. For MethodCLAT only; the zero Prefix is whatever the line says.
	NAT64 netip.Prefix // nat64_prefix: length 32, 40, 48, 56, 64 or 96

	// The rest is for IPv6. Delegation asks the provider for a prefix (DHCPv6-PD) of about the length and address of
	// PrefixHint, if that is valid.
	Delegation bool         // delegation
	PrefixHint netip.Prefix // prefix_hint: length 1..64
	// Prefix is routed to us without being asked for: by contract, a tunnel broker. It is a delegation that never ends.
	Prefix netip.Prefix // prefix: global, length 1..64
	// DUID, IAID and the classes are what the DHCPv6 client says that it is, for providers that expect something.
	DUID        string   // duid: 3..130 octets in hexadecimal digits with colons; "" is this router's own
	IAID        *uint32  // iaid; nil is the uplink's own number
	VendorClass string   // vendor_class: up to 255 bytes, behind "NUMBER:" of an enterprise if that is not 0
	UserClass   []string // user_class: up to 8 of up to 63 bytes
	// RequestAddress asks by DHCPv6 for an address of the uplink's own too (IA_NA). For MethodRA only.
	RequestAddress bool // request_address
	// Translate gives forwarded traffic the delegation's prefix (NPTv6, RFC 6296) instead of telling hosts of it. Needs
	// Delegation or Prefix; not together with Masquerade.
	Translate bool // translate
	// Share gives a LAN the /64 of the uplink's own line (RFC 7278). For MethodRA only, without Prefix; with Delegation, while that finds
	// nothing. See Shares for what it is automatically.
	Share Auto // share
	// SixRD is [uplink.6rd], for KindSixRD alone, which always has it.
	SixRD *SixRD
}

// Shares reports whether a LAN may have the network of the uplink's own line, given whether it is known that there is no delegation: when that is
// wanted, or when a delegation is.
func (ip *IP) Shares(undelegated bool) bool {
	if ip.Delegation {
		return undelegated && ip.Share != Off && ip.Method == MethodRA && !ip.Prefix.IsValid() && !ip.Translate
	}
	return ip.Share == On
}

// Delegates reports whether the uplink has a prefix for LANs, or asks for one.
func (ip *IP) Delegates() bool {
	return ip.Delegation || ip.Prefix.IsValid() || ip.Shares(true) || ip.SixRD != nil
}

// Probe is [uplink.probe]: how the health of an uplink is found out.
type Probe struct {
	// Targets are what is asked, as written: "192.0.2.1" (ICMP echo), "tcp://192.0.2.2:443",
	// "http://192.0.2.3/generate_204", "https://192.0.2.3/", "dns://192.0.2.53?name=example.net". Hosts are literal
	// addresses; of each family that is not off there are MinTargetsUp targets or more. There may be targets of a
	// family that is off: they are not asked. None for a tunnel with PeerRoutes that leads to its peers alone.
	Targets      []probe.Target
	Interval     time.Duration // interval: calm pace, over all targets; 100ms..1h
	Fixed        bool          // interval is in the file: it holds also while the uplink carries no new traffic
	FastInterval time.Duration // fast_interval: pace of the burst after a first miss; 20ms..10s, at most Interval
	Timeout      time.Duration // timeout: upper bound of the wait for one answer; 150ms..10s
	Fall         int           // fall: misses in the burst, over all targets, to become suspect; 1..20
	Rise         int           // rise: successes to be trusted again; 1..1000
	Budget       int64         // budget: bytes a day, for both families; 0 is unbounded, else 10 kB..1 TB
	MinTargetsUp int           // min_targets_up: targets of a family that must answer for it to be up; at least 1
}

// Default returns what an empty file means: all defaults, no uplinks.
func Default() *Config {
	return &Config{
		Daemon: Daemon{
			StateDir: "/var/lib/uplinkd",
			Socket:   "/run/uplinkd/uplinkd.sock",
			Listen:   "127.0.0.1:9275",
			Hooks:    "/etc/uplinkd/hooks.d",
		},
		Kernel: Kernel{
			Protocol:     117,
			RulePriority: 10000,
			TableBase:    11700,
			MarkMask:     0x3f000000,
			LinkGroup:    117,
			MainDefault:  Automatic,
			TableNames:   "/etc/iproute2/rt_tables.d/uplinkd.conf",
		},
	}
}

// DefaultUplink returns the uplink that a section with only these two keys stands for. It checks neither of them.
func DefaultUplink(name, device string) Uplink {
	return Uplink{
		Name:     name,
		Kind:     KindISP,
		Device:   device,
		Tier:     1,
		Weight:   1,
		Enabled:  true,
		Default:  true,
		Failback: FailbackAfterStable,
		IPv4:     IP{Method: MethodAuto, Masquerade: Automatic},
		IPv6:     IP{Method: MethodAuto},
		Probe: Probe{
			Targets:      defaultTargets(),
			Interval:     time.Second,
			FastInterval: 100 * time.Millisecond,
			Timeout:      time.Second,
			Fall:         4,
			Rise:         10,
			MinTargetsUp: 1,
		},
		Quality: defaultQuality(),
		DNS:     Servers{Auto: true},
		Recover: defaultRecover(),
	}
}

// maxTargets bounds what one uplink asks: each one is asked at the calm interval, for ever.
const maxTargets = 32

// defaultTargets are anycast resolvers of three operators in both families: one operator's outage is not ours.
func defaultTargets() []probe.Target {
	var list []probe.Target
	for _, text := range []string{"1.1.1.1", "8.8.8.8", "9.9.9.9", "2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe"} {
		t, err := probe.ParseTarget(text)
		if err != nil {
			panic(err) // one of this list is wrong
		}
		list = append(list, t)
	}
	return list
}
