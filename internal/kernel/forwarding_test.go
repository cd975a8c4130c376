package kernel_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

func TestWhatAFirewallForwards(t *testing.T) {
	const head = "table inet filter {\n chain forward { type filter hook forward priority 0; policy drop;\n"
	for name, c := range map[string]struct {
		ruleset string
		refused [2]bool // from the LAN to wan1, and to wan2
	}{
		"no filter":                     {"", [2]bool{}},
		"one that lets all pass":        {"table inet filter { chain forward { type filter hook forward priority 0; } }", [2]bool{}},
		"a policy of drop":              {head + "} }", [2]bool{true, true}},
		"answers alone":                 {head + "ct state established,related accept\n ct state vmap { established : accept, invalid : drop }; } }", [2]bool{true, true}},
		"one provider":                  {head + `ct state established,related accept; iifname "lan0" oifname "wan1" accept; } }`, [2]bool{false, true}},
		"providers by a prefix":         {head + `iifname "lan0" oifname "wan*" accept; } }`, [2]bool{}},
		"providers in a set":            {head + `iifname "lan0" oifname { "wan1", "ppp0" } ct state new accept; } }`, [2]bool{false, true}},
		"by index":                      {head + `iif lan0 oif wan2 accept; } }`, [2]bool{true, false}},
		"all but one":                   {head + `iifname "lan0" oifname != "wan2" accept; } }`, [2]bool{false, true}},
		"of IPv6 alone":                 {head + `meta nfproto ipv6 accept; } }`, [2]bool{true, true}},
		"some ports":                    {head + `tcp dport { 80, 443 } accept; } }`, [2]bool{}},
		"some hosts of a set":           {head + `ip saddr { 203.0.113.130 } oifname "wan1" accept; } }`, [2]bool{false, true}},
		"a map of devices":              {"table inet filter { chain lan { accept; } chain forward { type filter hook forward priority 0; policy drop; iifname vmap { lan0 : jump lan }; } }", [2]bool{}},
		"zones, as fw4 has them":        {head + `iifname "lan0" jump from_lan; reject; } chain from_lan { jump to_wan; jump to_lan; } chain to_wan { oifname "wan1" counter accept; } chain to_lan { oifname "lan0" accept; } }`, [2]bool{false, true}},
		"a goto, and what is behind":    {head + `iifname "lan0" goto lan; accept; } chain lan { oifname "wan2" accept; } }`, [2]bool{true, false}},
		"a drop for some":               {"table ip f { chain f { type filter hook forward priority 0; tcp dport 25 drop; } }", [2]bool{}},
		"a drop for one provider":       {"table ip f { chain f { type filter hook forward priority 0; iifname lan0 oifname wan2 counter log reject; } }", [2]bool{false, true}},
		"a second filter":               {"table ip a { chain f { type filter hook forward priority 0; accept; } }\n" + head + `oifname "wan2" accept; } }`, [2]bool{true, false}},
		"returns before":                {head + `oifname "wan1" return; accept; } }`, [2]bool{true, false}},
		"a filter of another hook":      {"table inet filter { chain input { type filter hook input priority 0; policy drop; } }", [2]bool{}},
		"a filter of IPv6":              {"table ip6 filter { chain f { type filter hook forward priority 0; policy drop; } }", [2]bool{}},
		"iptables, one provider":        {"iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -i lan0 -o wan1 -m comment --comment x -j ACCEPT", [2]bool{false, true}},
		"iptables, new ones":            {"iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i lan0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", [2]bool{}},
		"iptables, rejected at the end": {"iptables-nft -A FORWARD -o wan1 -j ACCEPT; iptables-nft -A FORWARD -j REJECT", [2]bool{false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			sh(t, router)
			if !strings.HasPrefix(c.ruleset, "iptables") {
				c.ruleset = "nft -f - <<'E'\n" + strings.NewReplacer("} }", "}\n}", "} chain", "}\nchain").Replace(c.ruleset) + "\nE"
			}
			sh(t, c.ruleset)
			k := open(t)
			snapshot(t, k, config())
			f, err := k.Firewall()
			if err != nil {
				t.Fatal(err)
			}
			for i, out := range []string{"wan1", "wan2"} {
				by, err := f.Refuses(rules.IPv4, "lan0", out)
				if err != nil || (by != "") != c.refused[i] {
					t.Errorf("lan0 to %s: refused by %q, %v", out, by, err)
				}
			}
		})
	}
}
