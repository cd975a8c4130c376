package rules

import (
	"go/ast"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The compiler asks for all that a condition has to know; this asks for what it cannot.
func TestConditionsOfEveryKindAreListedAndSayWhatTheySelect(t *testing.T) {
	elsewhere := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	with := []Condition{
		SelectDevices{"lan0"}, SelectAddresses{Prefixes: elsewhere}, SelectAddresses{Dest: true, Prefixes: elsewhere}, SelectProtocols{132},
		SelectPorts{List: []netcfg.Ports{{First: 1, Last: 1}}}, SelectPorts{Dest: true, List: []netcfg.Ports{{First: 1, Last: 1}}}, SelectUIDs{{Set: true, First: 1, Last: 1}},
		SelectMark{1, 1}, SelectDSCP{46}, SelectMACs{{2, 5: 1}},
	}
	list := SelectAddresses{Lists: []List{{"cn", inet.NewSet([]inet.Range{inet.RangeOf(elsewhere[0])})}}}
	if list.inRules(IPv4).cannot == "" || (Selector{list}).covers(IPv6) || len(list.expressions(IPv4)) != 1 || len(list.expressions(IPv6)) != 0 {
		t.Error("a list of IPv4 prefixes is about IPv4 alone, and no rule of the kernel")
	}
	connection := &Connection{Family: IPv4, Source: netip.MustParseAddr("192.168.1.2"), Dest: netip.MustParseAddr("192.0.2.1"), Protocol: 6, SPort: 40000, DPort: 443}
	like := netcfg.Rule{Family: IPv4}
	listed := make(map[string]bool)
	for i, kind := range Conditions() {
		listed[reflect.TypeOf(kind).Name()] = true
		if i >= len(with) || with[i].Key() != kind.Key() {
			t.Fatalf("this test has no %s at place %d", kind.Key(), i)
		}
		c := with[i]
		if c.inRules(IPv4).cannot == "" && slices.Equal((Selector{c}).appendRules(nil, like), []netcfg.Rule{like}) {
			t.Errorf("%s: rules of the kernel do not say it, and it is not said why", c.Key())
		}
		if a, ok := c.(SelectAddresses); ok && len((Selector{a}).appendRules(nil, netcfg.Rule{Family: IPv6})) > 0 {
			t.Errorf("%s: there are rules of a family that it is not about", c.Key())
		}
		if len(c.expressions(IPv4)) == 0 {
			t.Errorf("%s: nftables does not say it", c.Key())
		}
		if tracked := c.tracked(&planner{obs: new(Observed)}); tracked != nil && tracked(connection) {
			t.Errorf("%s: a connection that it is not about is taken for one that it is", c.Key())
		}
	}
	inspect(t, ".", func(n ast.Node) {
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "inRules" && f.Recv != nil {
			if name := f.Recv.List[0].Type.(*ast.Ident).Name; !listed[name] && name != "Selector" {
				t.Errorf("Conditions does not list %s", name)
			}
		}
	})
	for unknown, takes := range map[bool]bool{false: true, true: false} { // what connection tracking does not know is taken for a difference
		if p := (oldPolicy{Policy: &Policy{}, group: &Group{}, unknown: unknown}); p.takes(connection) != takes {
			t.Errorf("a selector without other conditions takes a connection: %v", !takes)
		}
	}
}
