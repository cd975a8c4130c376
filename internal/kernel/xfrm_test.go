package kernel_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

func TestIPsecPoliciesAreRead(t *testing.T) {
	namespace(t)
	sh(t, router)
	sh(t, `
ip xfrm policy add src 203.0.113.128/25 dst 192.0.2.128/25 dir out priority 7 tmpl src 203.0.113.2 dst 192.0.2.9 proto esp reqid 1 mode tunnel
ip xfrm policy add src 192.0.2.128/25 dst 203.0.113.128/25 dir fwd tmpl src 192.0.2.9 dst 203.0.113.2 proto esp reqid 1 mode tunnel
ip xfrm policy add src 2001:db8:1::/64 dst 2001:db8:9::/64 proto tcp dport 443 dir out action block mark 0x5 mask 0xff
ip xfrm policy add src 203.0.113.2/32 dst 192.0.2.7/32 dev wan2 dir out tmpl proto esp mode transport`)
	rt, err := open(t).Routing()
	if err != nil {
		t.Fatal(err)
	}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	want := map[netip.Prefix]explain.IPsecPolicy{
		prefix("192.0.2.128/25"): {From: prefix("203.0.113.128/25"), To: prefix("192.0.2.128/25"), Priority: 7,
			Transforms: true, TunnelFrom: addr("203.0.113.2"), TunnelTo: addr("192.0.2.9")},
		prefix("2001:db8:9::/64"): {From: prefix("2001:db8:1::/64"), To: prefix("2001:db8:9::/64"), Protocol: 6, DPort: netcfg.Ports{First: 443, Last: 443},
			Block: true, Mark: 5, Mask: 0xff},
		prefix("192.0.2.7/32"): {From: prefix("203.0.113.2/32"), To: prefix("192.0.2.7/32"), Device: "wan2", Transforms: true},
	}
	got := make(map[netip.Prefix]explain.IPsecPolicy)
	for _, p := range rt.IPsec {
		got[p.To] = p
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Which share a source falls to is what the kernel's hash says.
func TestTheShareOfASourceIsTheKernels(t *testing.T) {
	namespace(t)
	sh(t, `ip link set lo up
ip -6 addr add 2001:db8::1/128 dev lo nodad
nft 'table inet t {
 chain o { type filter hook output priority 0; 
  icmp type echo-request jhash ip saddr mod 7 seed 0x75706c69 0-2 counter comment "low"
  icmpv6 type echo-request jhash ip6 saddr mod 7 seed 0x75706c69 0-2 counter comment "low"
 }
}'`)
	for _, source := range []string{"127.0.0.1", "127.0.0.2", "127.3.0.9", "127.77.1.254", "127.100.7.3", "::1", "2001:db8::1"} {
		packet := explain.Packet{From: netip.MustParseAddr(source)}
		low := nft.SourceShare{Family: rules.FamilyOf(packet.From), Total: 7, First: 0, Last: 2}
		before := sh(t, `nft list chain inet t o | grep low | grep -o 'packets [0-9]*'`)
		sh(t, "ping -c 1 -W 1 -I "+source+" "+map[bool]string{true: "127.0.0.1", false: "::1"}[packet.From.Is4()])
		if after := sh(t, `nft list chain inet t o | grep low | grep -o 'packets [0-9]*'`); (after != before) != low.Has(packet.From) {
			t.Errorf("%s: the kernel counts it %v", source, after != before)
		}
	}
}
