package rules_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// exempting are rules by which programs tell packets of their own from all others, as a comparison of the whole mark:
// wg-quick's full tunnel, one of a hand-made VPN that takes unmarked packets in the other direction, and of IPv6.
var exempting = map[string]netcfg.Rule{
	"a full tunnel":                 {Family: rules.IPv4, Priority: 9999, Mark: 0xca6c, Mask: 1<<32 - 1, Table: 51820, Selectors: netcfg.RuleSelectors{Not: true}},
	"a way of its own for a daemon": {Family: rules.IPv4, Priority: 100, Mark: 0x99, Mask: 1<<32 - 1, Table: 7},
	"a full tunnel of IPv6":         {Family: rules.IPv6, Priority: 32764, Mark: 0xcafe, Mask: 1<<32 - 1, Table: 51820, Selectors: netcfg.RuleSelectors{Not: true}},
	"a way of its own of IPv6":      {Family: rules.IPv6, Priority: 9999, Mark: 0x80001, Mask: 1<<32 - 1, Table: 200},
	"all but the lowest byte":       {Family: rules.IPv4, Priority: 9999, Mark: 0x4200, Mask: 0xffffff00, Table: 42, Selectors: netcfg.RuleSelectors{Not: true}},
}

// chainText returns a chain of our table as nft writes it.
func chainText(t *nft.Table, name string) string {
	var b strings.Builder
	for _, c := range t.Chains {
		for i := range c.Rules {
			if c.Name == name {
				b.WriteString(c.Rules[i].String() + "\n")
			}
		}
	}
	return b.String()
}

func TestNeitherMarkNorPinOfAnExemptedPacketIsAltered(t *testing.T) {
	for name, theirs := range exempting {
		t.Run(name, func(t *testing.T) {
			w := dual()
			theirs.SuppressPrefixLen, theirs.SuppressGroup = -1, -1
			_ = w.addRule(theirs)
			w.converge(t)
			mark := nft.Mark{Mask: theirs.Mask, Value: theirs.Mark}
			prerouting := chainText(w.obs.Table, "prerouting")
			for _, e := range []nft.Expr{mark, nft.CtMark{Mask: theirs.Mask, Value: theirs.Mark}} {
				line := (nft.Rule{Exprs: []nft.Expr{e, nft.Return{}}}).String()
				at, first := strings.Index(prerouting, line), strings.Index(prerouting, "set")
				if at < 0 || first >= 0 && first < at {
					t.Errorf("no %q before marks are set:\n%s", line, prerouting)
				}
			}
			mark.Not = true
			except := (nft.Rule{Exprs: []nft.Expr{mark}}).String()
			for _, u := range []string{"fiber", "lte"} {
				if !strings.Contains(chainText(w.obs.Table, "egress_"+u), "ct mark set") {
					t.Errorf("egress_%s pins nothing", u)
				}
				for _, line := range strings.Split(chainText(w.obs.Table, "egress_"+u), "\n") {
					if strings.Contains(line, "ct mark set") && !strings.Contains(line, except) {
						t.Errorf("egress_%s pins such packets: %s", u, line)
					}
				}
			}
		})
	}
}

// Marks that say nothing about ours change nothing: each costs every packet two comparisons.
func TestMarksThatAreComparedUnderAMaskOfTheirOwnCostNothing(t *testing.T) {
	plain := dual()
	plain.converge(t)
	for name, theirs := range map[string]netcfg.Rule{
		"tailscale":        {Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Table: netcfg.TableMain},
		"unmarked packets": {Priority: 5210, Mark: 0, Mask: 1<<32 - 1, Table: 9},
		"bits of ours":     {Priority: 5210, Mark: 0x01000000, Mask: 1<<32 - 1, Table: 9},
	} {
		w := dual()
		theirs.Family, theirs.SuppressPrefixLen, theirs.SuppressGroup = rules.IPv4, -1, -1
		_ = w.addRule(theirs)
		w.converge(t)
		if !w.obs.Table.Matches(plain.obs.Table) {
			t.Errorf("%s: the table is another", name)
		}
	}
}

func TestAMarkedSocketKeepsItsMarkUnlessAPolicyLooksAtMarks(t *testing.T) {
	const keeps = "meta mark & 0xc0ffffff != 0x00000000 return"
	w := dual()
	w.converge(t)
	if out := chainText(w.obs.Table, "output"); !strings.HasPrefix(out, keeps) {
		t.Errorf("output begins otherwise:\n%s", out)
	}
	w = dual()
	w.cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{2}}}}
	w.cfg.Policies = []rules.Policy{{Name: "marked", Group: 9, Select: rules.Selector{rules.SelectMark{Value: 0xffff, Mask: 0xffff}}}}
	w.converge(t)
	if out := chainText(w.obs.Table, "output"); strings.Contains(out, keeps) {
		t.Errorf("a policy's own connections lose their pin:\n%s", out)
	}
}

func TestAFullTunnelBeforeOursMakesTheFilterOfSourcesLoose(t *testing.T) {
	for name, c := range map[string]struct {
		family   rules.Family
		priority int
		mark     uint32
		want     string
	}{
		"before ours":                    {rules.IPv4, 9999, 0xca6c, "2"},
		"before all":                     {rules.IPv4, 1, 0x14d, "2"},
		"behind ours":                    {rules.IPv4, 32765, 0xca6c, "1"},
		"of IPv6, without such a filter": {rules.IPv6, 9999, 0xca6c, "1"},
	} {
		w := dual()
		w.obs.Sysctls["net/ipv4/conf/all/rp_filter"] = "1"
		for _, device := range []string{"wan1", "wan2"} {
			w.obs.Sysctls["net/ipv4/conf/"+device+"/rp_filter"] = "1"
		}
		_ = w.addRule(netcfg.Rule{Family: c.family, Priority: c.priority, Mark: c.mark, Mask: 1<<32 - 1, Table: 51820,
			Selectors: netcfg.RuleSelectors{Not: true}, SuppressPrefixLen: -1, SuppressGroup: -1})
		w.converge(t)
		for _, device := range []string{"wan1", "wan2"} {
			if got := w.obs.Sysctls["net/ipv4/conf/"+device+"/rp_filter"]; got != c.want {
				t.Errorf("%s: rp_filter of %s is %s, want %s", name, device, got, c.want)
			}
		}
	}
}
