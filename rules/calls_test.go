package rules_test

import (
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A line that is down for probes may carry calls: their answers leave by it with the source that was called, while new connections from there
// are told to take another.
func TestCallsByAnUplinkThatIsDownAreAnswered(t *testing.T) {
	w := delegated()
	w.converge(t)
	host, peer := netip.MustParseAddr("2001:db8:a00:1::9"), internet[rules.IPv6]
	pinned := func(reply bool) packet {
		return packet{query: query{src: host, dst: peer, iif: "lan0"}, conn: &connection{mark: numbers.Mark(1), reply: reply}}
	}
	expect(t, "an answer", "wan1", w.receive(pinned(true), netip.Addr{}))
	if got := w.receive(pinned(false), netip.Addr{}); len(got) != 1 || got[0].device != "" {
		t.Errorf("a connection that began here: %v", got)
	}
}

// A call from one network behind the machine to a port that is forwarded to another has no translated source, and does not leave.
func TestCallsOfThisMachineAndItsForwardsAreNotBegunAnew(t *testing.T) {
	w := dual()
	w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true})
	w.hold("lan1", "192.168.2.1/24")
	_, report := w.plan()
	c := rules.Connection{Family: rules.IPv4, Source: netip.MustParseAddr("192.168.2.7"), Dest: netip.MustParseAddr("198.51.100.2"), ReplyDest: netip.MustParseAddr("192.168.2.7"),
		ReplySource: netip.MustParseAddr("192.168.1.10"), Protocol: 6, DPort: 443}
	if why := report.Old.Old(&c); why != "" {
		t.Error(why)
	}
	if c.ReplySource = c.Dest; report.Old.Old(&c) != "" {
		t.Error("one to a service of this machine begins anew")
	}
	c.Dest = internet[rules.IPv4]
	if c.ReplySource = c.Dest; report.Old.Old(&c) == "" {
		t.Error("one to the Internet that nobody translates is left alone")
	}
}
