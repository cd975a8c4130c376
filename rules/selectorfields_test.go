package rules

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// Who adds a field to Selector is told here what has to know of it.
func TestEachFieldOfASelectorIsKnownToAllThatLooksAtSelectors(t *testing.T) {
	const mark = "Mark" // goes with Mask
	elsewhere := netip.MustParsePrefix("203.0.113.0/24")
	with := map[string]Selector{
		"From": {From: []netip.Prefix{elsewhere}}, "To": {To: []netip.Prefix{elsewhere}},
		"FromSets": {FromSets: []string{"any"}}, "ToSets": {ToSets: []string{"any"}},
		"IIF": {IIF: []string{"lan0"}}, "Protocols": {Protocols: []uint8{132}},
		"SPorts": {SPorts: []Ports{{1, 1}}}, "DPorts": {DPorts: []Ports{{1, 1}}},
		"UIDs": {UIDs: []UIDs{{Set: true, First: 1, Last: 1}}}, mark: {Mark: 1, Mask: 1}, "Mask": {Mask: 1}, "DSCP": {DSCP: []uint8{46}},
	}
	connection := &Connection{Family: IPv4, Source: netip.MustParseAddr("192.168.1.2"), Dest: netip.MustParseAddr("192.0.2.1"), Protocol: 6, SPort: 40000, DPort: 443}
	var all Selector
	like := Rule{Family: IPv4}
	for field := range reflect.TypeFor[Selector]().Fields() {
		s, ok := with[field.Name]
		if !ok || reflect.ValueOf(s).FieldByIndex(field.Index).IsZero() {
			t.Errorf("%s: this test has no selector with it", field.Name)
			continue
		}
		if only := s.onlyPrefixes(); only != (field.Name == "From" || field.Name == "To") {
			t.Errorf("%s: policies are merged in the chains of a kill switch: %v", field.Name, only)
		}
		if s.needsNft(IPv4) == "" && slices.Equal(s.appendRules(nil, like), all.appendRules(nil, like)) {
			t.Errorf("%s: rules of the kernel do not say it, and it is not said why", field.Name)
		}
		if reflect.DeepEqual(s.matches(nil, IPv4), all.matches(nil, IPv4)) {
			t.Errorf("%s: nftables does not say it", field.Name)
		}
		// What devices stand for is asked by the sources behind them.
		p := oldPolicy{Policy: &Policy{Select: s}, group: &Group{}}
		if field.Name != "IIF" && p.takes(connection) {
			t.Errorf("%s: a connection that it is not about is taken for one that it is", field.Name)
		}
	}
	if p := (oldPolicy{Policy: &Policy{}, group: &Group{}}); !p.takes(connection) || !all.onlyPrefixes() {
		t.Error("a selector without conditions takes everything")
	}
}
