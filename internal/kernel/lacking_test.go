package kernel

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// What keeps packets in must not get lost with an expression that a kernel lacks.
func TestWhatIsLeftOfARuleWithoutAnExpression(t *testing.T) {
	out := rules.NftDevice{Out: true, Name: "wan1"}
	for name, c := range map[string]struct {
		rule    []rules.NftExpr
		lacking string
		want    string // "": it is left out
	}{
		"a word of refusal":         {[]rules.NftExpr{out, rules.NftReject{}}, "Reject", `oifname "wan1" drop`},
		"one to a TCP host":         {[]rules.NftExpr{out, rules.NftReset{}}, "Reset", `oifname "wan1" drop`},
		"a counter":                 {[]rules.NftExpr{out, rules.NftCounter{}, rules.NftDrop{}}, "Counter", `oifname "wan1" drop`},
		"what IPsec does not cover": {[]rules.NftExpr{rules.NftIPsec{Not: true}, out, rules.NftDrop{}}, "IPsec", `oifname "wan1" drop`},
		"what IPsec covers":         {[]rules.NftExpr{rules.NftIPsec{}, rules.NftReturn{}}, "IPsec", ""},
		"a translation":             {[]rules.NftExpr{out, rules.NftMasquerade{}}, "Masquerade", ""},
		"nothing":                   {[]rules.NftExpr{out, rules.NftReject{}}, "Masquerade", `oifname "wan1" reject`},
	} {
		table := &rules.Table{Chains: []rules.Chain{{Name: "guard", Rules: []rules.NftRule{{Exprs: c.rule}}}}}
		got := ""
		for _, r := range withoutExpressions(table, []string{c.lacking}).Chains[0].Rules {
			got += r.String()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
