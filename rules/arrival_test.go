package rules_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// begin sends the first packet of a connection from a device, its second one, and an answer by the uplink that it left by. It returns where
// each of them went; the answer reaches the host by its own device.
func (w *world) begin(t *testing.T, from, host, to string) (out, answer string) {
	t.Helper()
	conn := &connection{fresh: true}
	first := packet{query: query{src: netip.MustParseAddr(host), dst: netip.MustParseAddr(to), iif: from}, conn: conn}
	w.hook("prerouting", &first, 0)
	ways := w.lookup(first.query)
	if ways[0].rejected || ways[0].local {
		return fmt.Sprint(ways[0]), ""
	}
	if !w.arrives(first.src, first.dst, from, ways[0].device, first.mark) {
		return "filtered", ""
	}
	out = ways[0].device
	first.oif = out
	if !w.hook("forward", &first, 0) || !w.hook("postrouting", &first, 0) {
		return "dropped", ""
	}
	conn.fresh = false
	second := packet{query: query{src: netip.MustParseAddr(host), dst: netip.MustParseAddr(to), iif: from}, conn: conn}
	if got := w.receive(second, netip.Addr{}); len(got) != 1 || got[0].device != out {
		t.Errorf("%s -> %s: the first packet leaves by %s, the second: %v", host, to, out, got)
	}
	back := *conn
	back.reply, back.source = true, netip.Addr{}
	in := packet{query: query{src: netip.MustParseAddr(to), dst: first.src, iif: out}, conn: &back}
	return fmt.Sprintf("%s from %v", out, first.src), fmt.Sprint(w.receive(in, netip.MustParseAddr(host)))
}

// Somebody in the network of a provider's router uses this machine as a gateway; some networks are behind tunnels.
func TestHostsBehindUplinksAreLikeThoseOfALAN(t *testing.T) {
	const host4, host6, site = "198.51.100.9", "2001:db8:a::9", "10.7.0.9"
	behind := func(w *world) {
		w.addForeignRoute(static("10.7.0.0/16", "wan1", netip.MustParseAddr("198.51.100.7"), 20))
		w.addForeignRoute(static("10.8.0.0/16", "wan2", netip.MustParseAddr("203.0.113.7"), 20))
	}
	dead := func(id int) func(w *world) {
		return func(w *world) {
			for _, f := range rules.Families {
				w.verdicts[rules.Path{Uplink: id, Family: f}] = rules.Verdict{Health: rules.Dead, State: "down"}
			}
		}
	}
	for name, c := range map[string]struct {
		change         func(w *world)
		from, host, to string
		out, answer    string
	}{
		"by its own provider":                    {dead(2), "wan1", host4, "192.0.2.1", "wan1 from 198.51.100.2", "[leaves by wan1 from 192.0.2.1]"},
		"by the other one":                       {dead(1), "wan1", host4, "192.0.2.1", "wan2 from 203.0.113.2", "[leaves by wan1 from 192.0.2.1]"},
		"from a network behind a router there":   {dead(1), "wan1", site, "192.0.2.1", "wan2 from 203.0.113.2", "[leaves by wan1 from 192.0.2.1]"},
		"from network to network":                {dead(1), "wan1", site, "10.8.0.9", "wan2 from 203.0.113.2", "[leaves by wan1 from 10.8.0.9]"},
		"from a LAN to a network":                {dead(1), "lan0", "192.168.1.9", "10.7.0.9", "wan1 from 198.51.100.2", "[leaves by lan0 from 10.7.0.9]"},
		"to a LAN":                               {dead(1), "wan1", host4, "192.168.1.9", "lan0 from 198.51.100.9", "[leaves by wan1 from 192.168.1.9]"},
		"an IPv6 source belongs to its provider": {dead(1), "wan1", host6, "2001:db8:ffff::1", "wan1 from 2001:db8:a::9", "[leaves by wan1 from 2001:db8:ffff::1]"},
		"the Internet is no network behind it":   {dead(1), "wan2", "192.0.2.1", "192.168.1.9", "lan0 from 192.0.2.1", "[dropped]"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			w.cfg.Uplinks[1].Tier = 2
			behind(w)
			c.change(w)
			w.converge(t)
			if out, answer := w.begin(t, c.from, c.host, c.to); out != c.out || answer != c.answer {
				t.Errorf("%s -> %s: %s, answers %s; want %s, %s", c.host, c.to, out, answer, c.out, c.answer)
			}
		})
	}
}

// Whoever calls an address of ours is answered by the uplink that was called, wherever the caller is; so is whoever calls a host to which a
// port is forwarded.
func TestCallsArePinnedWhereverTheCallerIs(t *testing.T) {
	w := dual()
	w.converge(t)
	for caller, to := range map[string]string{"198.51.100.9": "198.51.100.2", "192.0.2.1": "198.51.100.2", "198.51.100.10": "203.0.113.2", "2001:db8:a::9": "2001:db8:a::2"} {
		conn := &connection{fresh: true}
		in := packet{query: query{src: netip.MustParseAddr(caller), dst: netip.MustParseAddr(to), iif: "wan1"}, conn: conn}
		w.hook("prerouting", &in, 0)
		if numbers.ID(conn.mark) != 1 {
			t.Errorf("%s calls %s by wan1: mark %#x", caller, to, conn.mark)
		}
	}
	// A server behind an uplink, of which the port is forwarded by the other one.
	conn := &connection{fresh: true, forwarded: true}
	in := packet{query: query{src: netip.MustParseAddr("192.0.2.1"), dst: netip.MustParseAddr("203.0.113.2"), iif: "wan2"}, conn: conn}
	if got := fmt.Sprint(w.receive(in, netip.MustParseAddr("198.51.100.9"))); got != "[leaves by wan1 from 198.51.100.2]" {
		t.Errorf("a forwarded port: %s", got)
	}
	back := packet{query: query{src: netip.MustParseAddr("198.51.100.9"), dst: netip.MustParseAddr("192.0.2.1"), iif: "wan1"},
		conn: &connection{mark: numbers.Mark(2), reply: true, source: netip.MustParseAddr("203.0.113.2")}}
	if got := fmt.Sprint(w.receive(back, netip.Addr{})); got != "[leaves by wan2 from 203.0.113.2]" {
		t.Errorf("its answer: %s", got)
	}
}

// Somebody deletes all rules: what begins then is pinned once they are back.
func TestWhatBeganWithoutRulesIsPinnedWhenTheyAreBack(t *testing.T) {
	w := dual()
	w.converge(t)
	kept := w.obs.Rules
	w.obs.Rules = nil
	for _, r := range kept {
		if r.Protocol != numbers.Protocol {
			w.obs.Rules = append(w.obs.Rules, r)
		}
	}
	conn := &connection{fresh: true}
	in := packet{query: query{src: netip.MustParseAddr("192.0.2.1"), dst: netip.MustParseAddr("192.168.1.9"), iif: "wan2"}, conn: conn}
	w.hook("prerouting", &in, 0)
	w.converge(t)
	in = packet{query: query{src: netip.MustParseAddr("192.0.2.1"), dst: netip.MustParseAddr("192.168.1.9"), iif: "wan2"}, conn: conn}
	w.hook("prerouting", &in, 0)
	if numbers.ID(conn.mark) != 2 {
		t.Errorf("mark %#x", conn.mark)
	}
}

// A policy that the packet filter marks is for the Internet, as one by rules is: main leads to networks before either.
func TestAMarkedPolicyLeavesNetworksBehindUplinksAlone(t *testing.T) {
	w := dual()
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}}
	w.cfg.Policies = []rules.Policy{{Name: "all", Group: 3, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectDSCP{0}}}}
	w.addForeignRoute(static("10.7.0.0/16", "wan1", netip.MustParseAddr("198.51.100.7"), 20))
	w.converge(t)
	for to, device := range map[string]string{"10.7.0.9": "wan1", "198.51.100.9": "wan1", "192.0.2.1": "wan2"} {
		p := packet{query: query{src: netip.MustParseAddr("192.168.1.9"), dst: netip.MustParseAddr(to), iif: "lan0"}, conn: &connection{fresh: true}}
		if got := w.receive(p, netip.Addr{}); len(got) != 1 || got[0].device != device {
			t.Errorf("%s: %v, want by %s", to, got, device)
		}
	}
}

// What a DHCP client was told to route by the provider may be a quarter of the Internet: private sources are not for that.
func TestTheEgressFilterLetsPrivateSourcesToNoLargePartOfTheInternet(t *testing.T) {
	w := dual()
	w.addForeignRoute(static("192.0.0.0/2", "wan1", netip.MustParseAddr("198.51.100.1"), 20))
	w.addForeignRoute(static("10.0.0.0/8", "wan1", netip.MustParseAddr("198.51.100.7"), 20))
	want, _ := w.plan()
	for to, passes := range map[string]bool{"192.0.2.1": false, "198.51.100.9": true, "10.7.0.9": true} {
		if got := runBPFTo(t, want.Egress[0].Program, netip.MustParseAddr("192.168.1.9"), netip.MustParseAddr(to)); got != passes {
			t.Errorf("to %s it passes: %v", to, got)
		}
	}
}
