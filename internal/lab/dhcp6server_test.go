package lab

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

func TestThePrefixOfBeforeARenumberingIsTakenBack(t *testing.T) {
	duid := &dhcpv6.DUIDEN{EnterpriseNumber: 32473, EnterpriseIdentifier: []byte("isp1")}
	client := &dhcpv6.DUIDEN{EnterpriseNumber: 32473, EnterpriseIdentifier: []byte("customer")}
	before, now := netip.MustParsePrefix("2001:db8:f001::/56"), netip.MustParsePrefix("2001:db8:f101::/56")
	ask := func(typ dhcpv6.MessageType, server dhcpv6.DUID, had ...netip.Prefix) *dhcpv6.Message {
		m := &dhcpv6.Message{MessageType: typ, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
		m.AddOption(dhcpv6.OptClientID(client))
		if server != nil {
			m.AddOption(dhcpv6.OptServerID(server))
		}
		ia := &dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 7}}
		for _, p := range had {
			ia.Options.Add(iaPrefix(p, 0, 0))
		}
		m.AddOption(ia)
		return m
	}
	answer := delegate(ask(dhcpv6.MessageTypeRenew, duid, before), now, duid)
	ia := answer.Options.OneIAPD()
	if answer.MessageType != dhcpv6.MessageTypeReply || ia == nil || ia.IaId != [4]byte{0, 0, 0, 7} {
		t.Fatalf("answer: %v", answer)
	}
	for _, p := range ia.Options.Prefixes() {
		if gone := p.Prefix.String() == before.String(); gone != (p.ValidLifetime == 0) {
			t.Errorf("%v is valid for %v", p.Prefix, p.ValidLifetime)
		}
	}
	if n := len(ia.Options.Prefixes()); n != 2 {
		t.Errorf("the answer has %d prefixes", n)
	}
	if m := delegate(ask(dhcpv6.MessageTypeRequest, client), now, duid); m != nil {
		t.Errorf("a question to another server is answered: %v", m)
	}
	if m := delegate(ask(dhcpv6.MessageTypeSolicit, nil), now, duid); m.MessageType != dhcpv6.MessageTypeAdvertise {
		t.Errorf("to a Solicit: %v", m)
	}
}
