package addressing

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

var (
	serverDUID = dhcp6.DUID{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	nested     = netip.MustParseAddr("fe80::9")
)

// asksForPrefix is a Request of a router to serverDUID.
func asksForPrefix(n byte) []byte {
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeRequest}
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, n}})
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: serverDUID})
	m.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 1}})
	return m.ToBytes()
}

// What a router is told is on the disk and in the plan before it hears of it, and the next run knows it.
func TestARouterBehindALANIsGivenPartsThatOutliveTheDaemon(t *testing.T) {
	var disk []byte
	replans := 0
	open := func(stored []dhcp6.Holder) *downstream {
		d := newDownstream(nil, func(document string, read func() any) {
			if document != docDownstream {
				t.Errorf("saved as %s", document)
			}
			disk, _ = json.Marshal(read())
		}, func() { replans++ })
		d.stored = stored
		d.restore(serverDUID, noon)
		return d
	}
	d := open(nil)
	c := &config.Config{LANs: []config.LAN{{Device: "lan0", SubnetID: 1, Advertise: true, DelegateLength: 62}, {Device: "lan1"}}}
	served := map[string]bool{"lan0": true}
	d.served = served
	ask := func() []byte {
		t.Helper()
		answer, err := d.answer("lan0", dhcp6.Datagram{From: nested, Data: asksForPrefix(1)}, noon)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	d.update(c, new(rules.Report), nil, nil, nil)
	if answer := ask(); answer != nil || disk != nil {
		t.Errorf("before there is a plan: %x", answer)
	}
	report := &rules.Report{Defaults: map[rules.Family]rules.Choice{}, Delegable: []rules.Delegable{
		{Device: "lan0", Uplink: 1, Delegation: rules.Delegation{Prefix: fiberPrefix}},
		{Device: "lan0", Uplink: 2, Delegation: rules.Delegation{Prefix: fiberPrefix}, Usable: true}, // both have it
		{Device: "lan0", Uplink: 7, Delegation: rules.Delegation{Prefix: ltePrefix}},                 // has left the configuration
		{Device: "lan0", Delegation: rules.Delegation{Prefix: netip.MustParsePrefix("fd00:77::/48")}, Usable: true},
		{Device: "lan1", Uplink: 1, Delegation: rules.Delegation{Prefix: fiberPrefix}},
	}}
	names, sources := map[int]string{1: "fiber", 2: "twin", 7: "gone"}, map[string]lanSource{"fiber": leased(fiberPrefix, 0), "twin": leased(fiberPrefix, 0)}
	d.update(c, report, names, sources, nil)
	if ask() == nil || replans != 1 || !strings.Contains(string(disk), "2001:db8:a00:fc::/62") {
		t.Errorf("asked for a prefix: %d replans, %s", replans, disk)
	}
	if ask(); replans != 1 {
		t.Error("the same again is planned anew")
	}

	check := func(when string) {
		t.Helper()
		e := &Engine{downstream: d}
		out := rules.Config{LANs: []rules.LAN{{Device: "lan0", DelegateLength: 62}, {Device: "lan1", DelegateLength: 62}}}
		e.addDownstream(&out, noon)
		want := []rules.Downstream{{Prefix: netip.MustParsePrefix("2001:db8:a00:fc::/62"), Router: nested}, {Prefix: netip.MustParsePrefix("fd00:77:0:fffc::/62"), Router: nested}}
		if !slices.Equal(out.LANs[0].Downstream, want) || out.LANs[1].Downstream != nil {
			t.Errorf("%s: planned %+v", when, out.LANs)
		}
	}
	check("at first")
	if s := d.status(noon)["lan0"]; len(s) != 2 || s[0].Uplink != "twin" || !s[0].Usable || s[0].ValidS != 3600 || s[1].Uplink != "" || !s[1].Usable {
		t.Errorf("status %+v", s)
	}
	var stored []dhcp6.Holder
	if err := json.Unmarshal(disk, &stored); err != nil {
		t.Fatal(err)
	}
	d = open(stored)
	d.served = served
	check("after a restart")
	d.expire(noon.Add(time.Hour))
	check("while it may use them")
	d.expire(noon.Add(3 * time.Hour))
	if diff := cmp.Diff(0, len(d.status(noon)["lan0"])); diff != "" {
		t.Error("they are held for ever")
	}
}

func TestAnExhaustedPrefixIsNamed(t *testing.T) {
	d := newDownstream(nil, func(string, func() any) {}, func() {})
	d.restore(serverDUID, noon)
	c := &config.Config{LANs: []config.LAN{{Device: "lan0", DelegateLength: 62}}}
	small := netip.MustParsePrefix("2001:db8:a00::/61")
	d.update(c, &rules.Report{Defaults: map[rules.Family]rules.Choice{}, Delegable: []rules.Delegable{{Device: "lan0", Uplink: 1, Delegation: rules.Delegation{Prefix: small}, Taken: []netip.Prefix{netip.MustParsePrefix("2001:db8:a00::/64")}}}},
		map[int]string{1: "fiber"}, map[string]lanSource{"fiber": leased(small, 0)}, nil)
	for n := range byte(2) {
		if len(d.problems(noon)) > 0 {
			t.Errorf("%d routers: %v", n, d.problems(noon))
		}
		if _, err := d.answer("lan0", dhcp6.Datagram{From: nested, Data: asksForPrefix(n)}, noon); err != nil {
			t.Fatal(err)
		}
	}
	if p := d.problems(noon); len(p) != 1 || p[0].Code != "downstream-exhausted" || !strings.Contains(p[0].Message, small.String()) {
		t.Errorf("%v", p)
	}
	if p := d.problems(noon.Add(time.Hour)); len(p) > 0 {
		t.Errorf("an hour later: %v", p)
	}
}
