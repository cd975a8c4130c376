package rules_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestARecordGivesBackOnlyWhatPlanningChanges(t *testing.T) {
	good := rules.Recorded{
		Sysctls: map[string]string{"net/ipv4/conf/eth0.7/rp_filter": "1", "net/ipv6/conf/wan1/accept_ra": "1", "net/ipv4/fib_multipath_hash_policy": "0",
			"net/ipv4/conf/wan1/arp_ignore": "8", "net/ipv4/conf/wan1/src_valid_mark": "0", "net/ipv4/conf/wan1/promote_secondaries": "0",
			"net/ipv6/conf/lan0/proxy_ndp": "0", "net/ipv6/neigh/lan0/proxy_delay": "80", "net/ipv4/conf/wan1/arp_notify": "0", "net/ipv6/conf/wan1/ndisc_notify": "0"},
		Hardware:   map[string]rules.FormerHardware{"wan1": {Former: burnedIn, Ours: wanted}},
		Groups:     map[string]uint32{"wan1": 0, "br-lan": 2147483647},
		Addrs:      []netcfg.AddrAssignment{{Device: "wan1", Prefix: netip.MustParsePrefix("198.51.100.2/24")}, {Device: "lan0", Prefix: netip.MustParsePrefix("2001:db8::1/64")}},
		MainOwners: map[string]uint8{"ipv4": 186, "ipv6": 12}, Qdiscs: []string{"wan1"}, Proxied: true,
	}
	damaged := good.Clone()
	for name, value := range map[string]string{"net/ipv4/ip_forward": "0", "../../tmp/x": "1", "net/ipv4/conf/../../../kernel/panic": "1", "net/ipv6/conf/all/forwarding": "0",
		"net/ipv6/conf/wan1/forwarding": "0", "net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/wan2/rp_filter": "999", "net/ipv4/conf/wan3/rp_filter": "x",
		"net/ipv4/conf/wan3/arp_ignore": "-1", "kernel/panic": "1", "": "1", "net/ipv6/conf/lan0/disable_ipv6": "1", "net/ipv4/conf//rp_filter": "1",
		"net/ipv6/neigh/lan0/gc_stale_time": "1", "net/ipv6/neigh/all/proxy_delay": "80", "net/ipv6/neigh/wan1/proxy_delay": "-1"} {
		damaged.Sysctls[name] = value
	}
	damaged.Hardware[""], damaged.Hardware["wan2"] = damaged.Hardware["wan1"], rules.FormerHardware{Ours: wanted}
	damaged.Hardware["wan3"] = rules.FormerHardware{Former: netcfg.Hardware{1}, Ours: wanted}
	damaged.Groups[""], damaged.Groups["../x"], damaged.Groups["wan9"] = 1, 1, 4294967295
	damaged.Addrs = append(damaged.Addrs, netcfg.AddrAssignment{Device: "wan1"}, netcfg.AddrAssignment{Prefix: netip.MustParsePrefix("192.0.2.1/24")},
		netcfg.AddrAssignment{Device: "wan1", Prefix: netip.MustParsePrefix("0.0.0.0/0")}, netcfg.AddrAssignment{Device: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8")})
	damaged.MainOwners["x"] = 1
	damaged.Qdiscs = append(damaged.Qdiscs, "", "a/b")
	if diff := cmp.Diff(good, damaged.Usable(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(good, good.Usable(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
