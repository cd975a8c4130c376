package rules_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// routing is what the kernel adapter would show of the machine: every table, the local one too.
func (w *world) routing() *explain.Routing {
	rt := &explain.Routing{Observed: w.snapshot()}
	for _, r := range w.obs.Routes {
		t := explain.TableRoute{Route: r}
		t.Nexthops = nil
		for _, n := range r.Nexthops {
			link, _ := w.obs.Link(n.Device)
			t.AddNexthop(n, !link.Up, !link.Carrier)
		}
		rt.Tables = append(rt.Tables, t)
	}
	for _, a := range w.obs.Addrs {
		t := explain.TableRoute{Route: netcfg.Route{Family: rules.FamilyOf(a.Prefix.Addr()), Table: tableLocal, Type: netcfg.Local,
			Dst: netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()), Protocol: protoKernel}}
		t.AddNexthop(netcfg.Nexthop{Device: a.Device, Weight: 1}, false, false)
		rt.Tables = append(rt.Tables, t)
	}
	return rt
}

// explained lets a converged world explain a packet.
func (w *world) explained(t *testing.T, p explain.Packet) *explain.Explanation {
	t.Helper()
	w.converge(t)
	state, _ := w.plan()
	e, err := explain.Explain(w.cfg, w.routing(), &state, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func lanBox(w *world) *world {
	w.plug(rules.Link{Name: "lan0", Up: true, Carrier: true})
	w.hold("lan0", "192.168.1.1/24", "2001:db8:1::1/64")
	for _, device := range []string{"wan1", "wan2", "lan0"} {
		w.obs.Sysctls["net/ipv4/conf/"+device+"/forwarding"] = "1"
		w.obs.Sysctls["net/ipv6/conf/"+device+"/forwarding"] = "1"
	}
	return w
}

func TestExplanations(t *testing.T) {
	addr := netip.MustParseAddr
	strict := lanBox(dual())
	strict.obs.Sysctls["net/ipv4/conf/lan0/rp_filter"] = "1"
	off := lanBox(dual())
	off.obs.Sysctls["net/ipv4/conf/lan0/forwarding"] = "0"
	plain := dual()
	for i := range plain.cfg.Uplinks {
		plain.cfg.Uplinks[i].IPv4.Masquerade = false
	}
	dead := dual()
	dead.setDown("wan1")
	// A policy by rules, one by marks, and a kill switch whose uplink is down.
	choosing := lanBox(dual())
	choosing.setDown("wan2")
	choosing.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{1}}}, {ID: 4, Tiers: [][]int{{2}}, KillSwitch: true}}
	choosing.cfg.Policies = []rules.Policy{
		{Name: "mail", Group: 3, Select: rules.Selector{rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 25, Last: 25}}}}},
		{Name: "voice", Group: 3, Select: rules.Selector{rules.SelectDSCP{46}}},
		{Name: "guests", Group: 3, Select: rules.Selector{rules.SelectDevices{"la*"}, rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:77::/48")}}}},
		{Name: "tight", Group: 4, Select: rules.Selector{rules.SelectAddresses{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/32")}}}},
	}
	choosing.cfg.Groups = append(choosing.cfg.Groups, rules.Group{ID: 5, Tiers: [][]int{{2}}, KillSwitch: true})
	choosing.cfg.Policies = append(choosing.cfg.Policies, rules.Policy{Name: "camera", Group: 5, Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}})
	choosing.ethernet("lan0")
	npt := lanBox(delegating())
	npt.cfg.Uplinks[1].Tier = 2
	npt.cfg.LANs[0].ULA = netip.MustParsePrefix("fd00:77:0:1::/64")
	npt.cfg.Uplinks[0].IPv6.PrefixNAT = true
	proxied := lanBox(dual())
	proxied.cfg.TProxies = []rules.TProxy{{Name: "web", Group: 9, Port: 12345, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 443, Last: 443}}}}}}
	forwarded := lanBox(forwarding())
	for name, c := range map[string]struct {
		world  *world
		packet explain.Packet
		// outcome, then reason, then uplinks of the ways
		want []string
		step string // that must be among the steps that count: what | why
		made rules.Origin
	}{
		"a call of a forwarded port": {forwarded, explain.Packet{To: addr("198.51.100.2"), From: addr("192.0.2.1"), In: "wan1", Protocol: 6, DPort: 443},
			[]string{"leaves", "leads to lan0", ""},
			"nftables chain dstnat | forward web is for it: the destination is 192.168.1.10:8443 from here on", rules.Origin{Key: "forward/web"}},
		"a call of a port of another uplink": {forwarded, explain.Packet{To: addr("203.0.113.2"), From: addr("192.0.2.1"), In: "wan2", Protocol: 6, DPort: 25},
			[]string{"local", "is an address of this machine", "lte"}, "nftables chain prerouting | a connection that begins at wan2", rules.Origin{Uplink: "lte", Key: "device"}},
		"a neighbour of the host calls": {forwarded, explain.Packet{To: addr("2001:db8:a::2"), From: addr("fd00:77:0:1::7"), In: "lan0", Protocol: 6, DPort: 443},
			[]string{"leaves", "leads to lan0", ""},
			"nftables chain srcnat | what leaves by lan0 gets an address of that device", rules.Origin{Key: "ipv6"}},
		"a policy by a rule": {choosing, explain.Packet{To: addr("192.0.2.1"), Protocol: 6, DPort: 25},
			[]string{"leaves", "leads to fiber", "fiber"},
			"iif lo ipproto 6 dport 25 lookup 11703 protocol 117 | matches by its incoming device and protocol", rules.Origin{Policy: "mail"}},
		"a policy by a mark": {choosing, explain.Packet{To: addr("192.0.2.1"), From: addr("192.168.1.9"), In: "lan0", TOS: 46 << 2},
			[]string{"leaves", "leads to fiber", "fiber"},
			"nftables chain prerouting of uplinkd_policy | policy voice is for it: the mark is 0x3000000 from here on", rules.Origin{Policy: "voice"}},
		"a policy by a mark for a local socket": {choosing, explain.Packet{To: addr("192.0.2.1"), TOS: 46 << 2},
			[]string{"leaves", "leads to fiber", "fiber"},
			"nftables chain output of uplinkd_policy | policy voice is for it: the mark is 0x3000000 from here on", rules.Origin{Policy: "voice"}},
		"a policy for the devices of a pattern": {choosing, explain.Packet{To: addr("2001:db8:77::1"), From: addr("2001:db8:1::9"), In: "lan0"},
			[]string{"leaves", "leads to fiber", "fiber"},
			"nftables chain prerouting of uplinkd_policy | policy guests is for it: the mark is 0x3000000 from here on", rules.Origin{Policy: "guests"}},
		"a kill switch that is closed": {choosing, explain.Packet{To: addr("192.0.2.1"), From: addr("192.168.1.7"), In: "lan0"},
			[]string{"refused", "policy tight is a kill switch, and none of its uplinks works"},
			"unreachable default table 11704", rules.Origin{Policy: "tight"}},
		"a pin that a kill switch does not let through": {choosing, explain.Packet{To: addr("192.0.2.1"), From: addr("192.168.1.7"), In: "lan0", Mark: numbers.Mark(1)},
			[]string{"filtered", "policy tight is a kill switch, and its connections leave by no other uplink"},
			"nftables chain forward of uplinkd_policy | policy tight is a kill switch: its traffic never leaves by wan1", rules.Origin{Policy: "tight"}},
		"a kill switch for a host that has that hardware address": {choosing, explain.Packet{To: addr("192.0.2.1"), From: addr("192.168.1.9"), In: "lan0", MAC: [6]byte{2, 5: 0x10}},
			[]string{"refused", "policy camera is a kill switch, and none of its uplinks works"},
			"nftables chain prerouting of uplinkd_policy | policy camera is for it: the mark is 0x5000000 from here on", rules.Origin{Policy: "camera"}},
		"a pin that the kill switch of a host does not let through": {choosing, explain.Packet{To: addr("2001:db8:ffff::1"), From: addr("2001:db8:1::9"), In: "lan0", MAC: [6]byte{2, 5: 0x10}, Mark: numbers.Mark(1)},
			[]string{"filtered", "policy camera is a kill switch, and its connections leave by no other uplink"},
			"nftables chain forward of uplinkd_policy | policy camera is a kill switch: its traffic never leaves by wan1", rules.Origin{Policy: "camera"}},
		"new traffic of this machine is shared": {dual(), explain.Packet{To: addr("192.0.2.1")},
			[]string{"leaves", "shares new flows among fiber, lte, by a hash of each flow", "fiber", "lte"},
			"lookup 11700 protocol 117 | matches every packet", rules.Origin{Key: "kernel.rule_priority"}},
		"of two tiers the living one": {tiers(), explain.Packet{To: addr("192.0.2.1")},
			[]string{"leaves", "leads to lte", "lte"},
			"203.0.113.2 | is the source that this way gives the socket; with it, the route is looked up once more", rules.Origin{}},
		"a mark pins, and the egress filter keeps foreign sources in": {plain, explain.Packet{To: addr("192.0.2.1"), From: addr("203.0.113.2"), Mark: numbers.Mark(1)},
			[]string{"filtered", "its source belongs to another uplink than the one it would leave by"},
			"fwmark 0x1000000/0x3f000000 lookup 11701 protocol 117 | matches by its mark", rules.Origin{Uplink: "fiber", Key: "name"}},
		"a reply follows its source": {dual(), explain.Packet{To: addr("192.0.2.1"), From: addr("203.0.113.2")},
			[]string{"leaves", "leads to lte", "lte"},
			"from 203.0.113.2/32 lookup 11702 protocol 117 | matches by its source", rules.Origin{Uplink: "lte", Key: "ipv4"}},
		"a dead uplink's traffic leaves by no other": {dead, explain.Packet{To: addr("2001:db8:ffff::1"), Mark: numbers.Mark(1)},
			[]string{"refused", "uplink fiber has no way to the Internet, and its traffic may not leave by another"},
			"unreachable default table 11701", rules.Origin{Uplink: "fiber", Key: "ipv6"}},
		"a bound socket uses its device": {dual(), explain.Packet{To: addr("2001:db8:ffff::1"), Out: "wan2"},
			[]string{"leaves", "leads to lte", "lte"},
			"oif wan2 lookup 11702 protocol 117 | matches by its device", rules.Origin{Uplink: "lte", Key: "device"}},
		"an address of its own": {dual(), explain.Packet{To: addr("198.51.100.2")},
			[]string{"local", "is an address of this machine", "fiber"}, "local 198.51.100.2/32 dev wan1 table 255 proto 2 | is an address", rules.Origin{}},
		"what arrives is pinned to its uplink": {lanBox(dual()), explain.Packet{In: "wan2", From: addr("192.0.2.9"), To: addr("192.168.1.7")},
			[]string{"leaves", "leads to lan0", ""},
			"nftables chain prerouting | a connection that begins at wan2 is pinned to it: the mark is 0x2000000 from here on", rules.Origin{Uplink: "lte", Key: "device"}},
		"a LAN host is masqueraded": {lanBox(tiers()), explain.Packet{In: "lan0", From: addr("192.168.1.7"), To: addr("192.0.2.1")},
			[]string{"leaves", "leads to lte", "lte"},
			"nftables chain srcnat | what leaves by wan2 gets an address of that device", rules.Origin{Uplink: "lte", Key: "ipv4"}},
		"a LAN host has another prefix outside": {npt, explain.Packet{In: "lan0", From: addr("fd00:77:0:1::9"), To: addr("2001:db8:ffff::1")},
			[]string{"leaves", "leads to fiber", "fiber"},
			"nftables chain srcnat | what leaves by wan1 gets a source of 2001:db8:a00:1::/64", rules.Origin{Uplink: "fiber", Key: "ipv6"}},
		"and is reached by it": {npt, explain.Packet{In: "wan1", From: addr("2001:db8:ffff::1"), To: addr("2001:db8:a00:1::9"), Protocol: 17},
			[]string{"leaves", "leads to lan0", ""},
			"nftables chain dstnat | the delegated prefix leads to the LAN's own: the destination is fd00:77:0:1::9 from here on", rules.Origin{Uplink: "fiber", Key: "ipv6"}},
		"a transparent proxy takes it": {proxied, explain.Packet{In: "lan0", From: addr("192.168.1.7"), To: addr("192.0.2.1"), Protocol: 6, DPort: 443},
			[]string{"local", "is an address of this machine", ""},
			"nftables chain prerouting of uplinkd_policy | the transparent proxy at port 12345 takes it: the mark is 0x9000000 from here on", rules.Origin{}},
		"but not what is for the router itself": {proxied, explain.Packet{In: "lan0", From: addr("192.168.1.7"), To: addr("198.51.100.2"), Protocol: 6, DPort: 443},
			[]string{"local", "is an address of this machine", "fiber"},
			"local 198.51.100.2/32 dev wan1 table 255 proto 2 | is an address", rules.Origin{}},
		"a strict filter refuses foreign sources": {strict, explain.Packet{In: "lan0", From: addr("192.0.2.9"), To: addr("192.0.2.1")},
			[]string{"refused", "the source is refused: leads through wan1, wan2 and not through lan0"},
			"rp_filter 1 on lan0: the route back to 192.0.2.9 | leads through", rules.Origin{}},
		"forwarding that is off": {off, explain.Packet{In: "lan0", From: addr("192.168.1.7"), To: addr("192.0.2.1")},
			[]string{"refused", "forwarding is off on lan0"}, "forwarding of lan0 | is off", rules.Origin{}},
		"a source that is nobody's": {dual(), explain.Packet{From: addr("192.0.2.77"), To: addr("192.0.2.1")},
			[]string{"refused", "192.0.2.77 is not an address of this machine"}, "192.0.2.77 | is not an address", rules.Origin{}},
	} {
		t.Run(name, func(t *testing.T) {
			e := c.world.explained(t, c.packet)
			got := []string{string(e.Outcome), e.Reason}
			for _, w := range e.Egresses {
				got = append(got, w.Uplink)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, s := range e.Steps {
				if s.Counts && strings.Contains(s.What+" | "+s.Why, c.step) || s.Counts && c.step != "" && strings.HasPrefix(s.What+" | "+s.Why, c.step) {
					if s.Because != c.made {
						t.Errorf("made by %+v, want %+v", s.Because, c.made)
					}
					return
				}
			}
			t.Errorf("no step that counts is %q: %+v", c.step, e.Steps)
		})
	}
}

// Whether a policy is about a host cannot be told without its hardware address, where the device has any.
func TestAnExplanationWithoutAHardwareAddressIsNotCertain(t *testing.T) {
	w := lanBox(dual())
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}}
	w.cfg.Policies = []rules.Policy{{Name: "camera", Group: 3, Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}}}
	p := explain.Packet{To: netip.MustParseAddr("192.0.2.1"), From: netip.MustParseAddr("192.168.1.9"), In: "lan0"}
	if e := w.explained(t, p); e.Uncertain != "" {
		t.Errorf("lan0 has none: %s", e.Uncertain)
	}
	w.ethernet("lan0")
	if e := w.explained(t, p); !strings.Contains(e.Uncertain, "(mac)") {
		t.Errorf("got %q", e.Uncertain)
	}
	p.MAC = [6]byte{2, 5: 0x11}
	if e := w.explained(t, p); e.Uncertain != "" {
		t.Errorf("it is another host's: %s", e.Uncertain)
	}
}

// What another program's packet filter gives another source is not dropped for the one that it has.
func TestTranslationByOthersIsExplained(t *testing.T) {
	host := []netip.Prefix{netip.MustParsePrefix("192.168.1.9/32")}
	other := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	p := explain.Packet{To: netip.MustParseAddr("192.0.2.1"), From: host[0].Addr(), In: "lan0"}
	for name, c := range map[string]struct {
		whole, partial []rules.Translation
		outcome        explain.Outcome
		step           string // what it counts by
		uncertain      bool
	}{
		"nobody":                     {nil, nil, explain.Filtered, "nftables chain forward", false},
		"all":                        {[]rules.Translation{{Family: rules.IPv4, By: "ip fw"}}, nil, explain.Leaves, "nftables table ip fw of another program", false},
		"by another device":          {[]rules.Translation{{Family: rules.IPv4, Only: []string{"wan2"}, By: "ip fw"}}, nil, explain.Filtered, "nftables chain forward", false},
		"of the other family":        {[]rules.Translation{{Family: rules.IPv6, By: "ip6 fw"}}, nil, explain.Filtered, "nftables chain forward", false},
		"its source":                 {nil, []rules.Translation{{Family: rules.IPv4, By: "ip fw", Sources: host}}, explain.Leaves, "nftables table ip fw of another program", true},
		"other sources":              {nil, []rules.Translation{{Family: rules.IPv4, By: "ip fw", Sources: other}}, explain.Filtered, "nftables chain forward", false},
		"some, nobody knows of whom": {nil, []rules.Translation{{Family: rules.IPv4, By: "ip fw"}}, explain.Filtered, "nftables chain egress_filter", true},
	} {
		w := lanBox(dual())
		for i := range w.cfg.Uplinks {
			w.cfg.Uplinks[i].IPv4.Masquerade, w.cfg.Uplinks[i].Tier = false, 1+i
		}
		w.obs.Translations, w.obs.PartialTranslations = c.whole, c.partial
		e := w.explained(t, p)
		by := slices.ContainsFunc(e.Steps, func(s explain.Step) bool { return s.What == c.step && s.Counts })
		if e.Outcome != c.outcome || !by || (e.Uncertain != "") != c.uncertain {
			t.Errorf("%s: %s, %q, uncertain %q: %+v", name, e.Outcome, e.Reason, e.Uncertain, e.Steps[len(e.Steps)-1])
		}
	}
}

// ethernet gives a device a hardware address.
func (w *world) ethernet(device string) {
	for i := range w.obs.Links {
		if w.obs.Links[i].Name == device {
			w.obs.Links[i].Hardware = [6]byte{2, 5: 1}
		}
	}
}

func TestWhatIsNoPacketIsNotExplained(t *testing.T) {
	addr := netip.MustParseAddr
	w := dual()
	w.converge(t)
	state, _ := w.plan()
	for name, p := range map[string]explain.Packet{
		"no destination":               {},
		"a multicast group":            {To: addr("224.0.0.1")},
		"the broadcast address":        {To: addr("255.255.255.255")},
		"two families":                 {To: addr("192.0.2.1"), From: addr("2001:db8::1")},
		"forwarded and bound":          {To: addr("192.0.2.1"), From: addr("192.0.2.2"), In: "wan1", Out: "wan2"},
		"forwarded without source":     {To: addr("192.0.2.1"), In: "wan1"},
		"a device that does not exist": {To: addr("192.0.2.1"), Out: "nodev"},
		"link-local without a device":  {To: addr("fe80::1")},
		"made here by another host":    {To: addr("192.0.2.1"), MAC: [6]byte{2, 5: 1}},
	} {
		if _, err := explain.Explain(w.cfg, w.routing(), &state, p); !errors.Is(err, explain.ErrPacket) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPullingACableDoesWhatWasForetold asks what will become of packets without an uplink, then pulls its cable,
// and asks again.
func TestPullingACableDoesWhatWasForetold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		w.converge(t)
		u := &w.cfg.Uplinks[draw(t, "pulled", len(w.cfg.Uplinks))]
		if link, ok := w.obs.Link(u.Device); !ok || !link.Up {
			return
		}
		foretold, state := w.routing().WithLinkDown(w.cfg, w.verdicts, u)
		_ = w.changeLink(u.Device, func(l *rules.Link) { l.Carrier = false })
		for _, f := range rules.Families {
			w.verdicts[rules.Path{Uplink: u.ID, Family: f}] = rules.Verdict{Health: rules.Dead, State: "down"}
		}
		w.converge(t)
		now, _ := w.plan()
		for _, f := range rules.Families {
			p := explain.Packet{To: internet[f]}
			if flip(t, "marked") {
				p.Mark = numbers.Mark(w.cfg.Uplinks[draw(t, "mark", len(w.cfg.Uplinks))].ID)
			}
			before, err := explain.Explain(w.cfg, foretold, &state, p)
			if err != nil {
				t.Fatalf("%v", err)
			}
			after, err := explain.Explain(w.cfg, w.routing(), &now, p)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if before.Outcome != after.Outcome || !slices.EqualFunc(before.Egresses, after.Egresses, func(a, b explain.Egress) bool { return a.Device == b.Device && a.Gateway == b.Gateway }) {
				t.Errorf("%v without %s: foretold %s %+v, it is %s %+v", p.To, u.Name, before.Outcome, before.Egresses, after.Outcome, after.Egresses)
			}
		}
	})
}
