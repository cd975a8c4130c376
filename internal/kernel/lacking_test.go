package kernel

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// What keeps packets in must not get lost with an expression that a kernel lacks.
func TestWhatIsLeftOfARuleWithoutAnExpression(t *testing.T) {
	out := nft.Device{Out: true, Name: "wan1"}
	for name, c := range map[string]struct {
		rule    []nft.Expr
		lacking string
		want    string // "": it is left out
	}{
		"a word of refusal":         {[]nft.Expr{out, nft.Reject{}}, "Reject", `oifname "wan1" drop`},
		"one to a TCP host":         {[]nft.Expr{out, nft.Reset{}}, "Reset", `oifname "wan1" drop`},
		"a counter":                 {[]nft.Expr{out, nft.Counter{}, nft.Drop{}}, "Counter", `oifname "wan1" drop`},
		"a counter with a name":     {[]nft.Expr{out, nft.SetCtMark{Mask: 1, Value: 1}, nft.NamedCounter{Name: "flows"}}, "NamedCounter", `oifname "wan1" ct mark set ct mark & 0xfffffffe | 0x00000001`},
		"what IPsec does not cover": {[]nft.Expr{nft.IPsec{Not: true}, out, nft.Drop{}}, "IPsec", `oifname "wan1" drop`},
		"what IPsec covers":         {[]nft.Expr{nft.IPsec{}, nft.Return{}}, "IPsec", ""},
		"a translation":             {[]nft.Expr{out, nft.Masquerade{}}, "Masquerade", ""},
		"nothing":                   {[]nft.Expr{out, nft.Reject{}}, "Masquerade", `oifname "wan1" reject`},
	} {
		table := &nft.Table{Chains: []nft.Chain{{Name: "guard", Rules: []nft.Rule{{Exprs: c.rule}}}}}
		got := ""
		for _, r := range withoutExpressions(table, []string{c.lacking}).Chains[0].Rules {
			got += r.String()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
