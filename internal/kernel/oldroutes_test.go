package kernel_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Whatever routes carry our number, from a release that made others or from somebody's hand: they go, and those beside them stay.
func TestOurRoutesGoWhateverTheyCarry(t *testing.T) {
	namespace(t)
	sh(t, router)
	k := open(t)
	sh(t, `
ip nexthop add id 7 via 198.51.100.1 dev wan1
ip nexthop add id 8 via 203.0.113.1 dev wan2
ip nexthop add id 9 group 7,3/8
ip -6 nexthop add id 17 via fe80::1 dev wan1
ip route add 192.0.2.0/24 via 203.0.113.1`)
	for _, route := range []string{
		"-4 192.0.2.0/24 nhid 7",
		"-4 192.0.2.0/24 nhid 9 metric 5",
		"-4 192.0.2.0/24 via 198.51.100.1 tos 0x10",
		"-4 192.0.2.0/24 via 198.51.100.1 tos 0x10 metric 5 table 11701",
		"-4 192.0.2.0/24 via 198.51.100.1 metric 7 advmss 1400 initcwnd 20",
		"-4 192.0.2.0/24 via 198.51.100.1 metric 8 mtu lock 1400",
		"-4 unreachable 192.0.2.0/24 tos 0x10 metric 9",
		"-4 192.0.2.0/24 nhid 7 tos 0x8 table 11701",
		"-6 2001:db8:b::/48 nhid 17",
		"-6 default from 2001:db8:c::/48 via fe80::1 dev wan1",
		"-6 2001:db8:b::/48 from 2001:db8:c::/48 dev wan1 metric 7 pref high",
		"-6 unreachable 2001:db8:b::/48 from 2001:db8:c::/48 table 11701",
	} {
		family, rest, _ := strings.Cut(route, " ")
		verb := "add"
		if strings.HasPrefix(rest, "192.0.2.0/24 nhid 7") && !strings.Contains(rest, "tos") {
			verb = "prepend"
		}
		before := listed(t)
		sh(t, "ip "+family+" route "+verb+" "+rest+" proto 117")
		obs, err := k.Snapshot(rules.Query{})
		if err != nil {
			t.Fatal(err)
		}
		ops := netcfg.Diff(netcfg.State{Routes: rules.Ours(numbers, obs).Routes}, netcfg.State{})
		if len(ops) != 1 {
			t.Fatalf("%s: %d changes: %v", route, len(ops), ops)
		}
		if err := k.Apply(ops); err != nil {
			t.Fatal(err)
		}
		if got := listed(t); got != before {
			t.Errorf("%s: after it went:\n%s\nbefore it came:\n%s", route, got, before)
		}
		// What is printed does the same.
		sh(t, "ip "+family+" route "+verb+" "+rest+" proto 117")
		sh(t, ops[0].Command())
		if got := listed(t); got != before {
			t.Errorf("after %s:\n%s\nbefore it came:\n%s", ops[0].Command(), got, before)
		}
	}
}

// listed has the routes of all tables but local.
func listed(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", "ip -4 route show table all type unicast; ip -4 route show table all type unreachable; ip -6 route show table all type unicast; ip -6 route show table all type unreachable").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
