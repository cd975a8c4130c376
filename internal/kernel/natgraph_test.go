package kernel_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
)

// Firewalls that translate all that leaves by a device are told from those that translate some of it.
func TestTranslationByOthersIsFound(t *testing.T) {
	only := func(f rules.Family, by string, devices ...string) rules.Translation {
		return rules.Translation{Family: f, Only: devices, By: by}
	}
	for name, c := range map[string]struct {
		script string
		want   []rules.Translation
	}{
		"as OpenWrt does it": {`nft 'table inet fw4 {
			chain srcnat { type nat hook postrouting priority srcnat; policy accept; oifname { "wan1", "wan2" } jump srcnat_wan comment "!fw4: Handle wan IPv4/IPv6 srcnat traffic"
			}
			chain srcnat_wan { meta nfproto ipv4 masquerade comment "!fw4: Masquerade IPv4 wan traffic"
			}
		}'`, []rules.Translation{only(rules.IPv4, "inet fw4", "wan1", "wan2")}},
		"as firewalld does it": {`nft 'table inet firewalld {
			chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; jump nat_POSTROUTING_ZONES
			}
			chain nat_POSTROUTING_ZONES { oifname "wan1" goto nat_POST_external
				goto nat_POST_public
			}
			chain nat_POST_external { jump nat_POST_external_allow
			}
			chain nat_POST_external_allow { meta nfproto ipv4 oifname != "lo" masquerade
			}
			chain nat_POST_public { }
		}'`, []rules.Translation{{Family: rules.IPv4, Only: []string{"wan1"}, Except: []string{"lo"}, By: "inet firewalld"}}},
		"whatever leaves":      {`nft 'table ip nat { chain post { type nat hook postrouting priority 100; counter masquerade random; }; }'`, []rules.Translation{{Family: rules.IPv4, By: "ip nat"}}},
		"a fixed address":      {`nft 'table ip6 nat { chain post { type nat hook postrouting priority 100; oifname "wan1" snat to 2001:db8:a::2; }; }'`, []rules.Translation{only(rules.IPv6, "ip6 nat", "wan1")}},
		"a container's":        {`nft 'table ip docker { chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }'`, nil},
		"with an exception":    {`nft 'table ip nat { chain post { type nat hook postrouting priority 100; ip daddr 192.0.2.0/24 accept; oifname "wan1" masquerade; }; }'`, nil},
		"of a prefix of names": {`nft 'table ip nat { chain post { type nat hook postrouting priority 100; oifname "wan*" masquerade; }; }'`, nil},
		"not on the way out":   {`nft 'table ip nat { chain pre { type nat hook prerouting priority -100; iifname "wan1" dnat to 192.0.2.1; }; }'`, nil},
		"iptables": {`iptables-nft -t nat -A POSTROUTING -o wan1 -m comment --comment "the Internet" -j MASQUERADE; iptables-nft -t nat -A POSTROUTING -s 192.0.2.0/24 -o wan2 -j MASQUERADE`,
			[]rules.Translation{only(rules.IPv4, "ip nat", "wan1")}},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			k := open(t)
			sh(t, c.script)
			obs := snapshot(t, k, config())
			if diff := cmp.Diff(c.want, obs.Translations); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			sh(t, "nft flush ruleset")
			if obs := snapshot(t, k, config()); obs.Translations != nil {
				t.Errorf("still there: %+v", obs.Translations)
			}
		})
	}
}

// Of translations of some of what leaves, the sources are known where they are a prefix; else any may be translated.
func TestTranslationOfSomeSourcesIsFoundWithThem(t *testing.T) {
	from := func(f rules.Family, by string, only []string, sources ...string) []rules.Translation {
		found := rules.Translation{Family: f, By: by, Only: only}
		for _, s := range sources {
			found.Sources = append(found.Sources, netip.MustParsePrefix(s))
		}
		return []rules.Translation{found}
	}
	nat := func(family, rule string) string {
		return fmt.Sprintf(`nft 'table %s nat { chain post { type nat hook postrouting priority 100; %s masquerade; }; }'`, family, rule)
	}
	wan := []string{"wan1"}
	for name, c := range map[string]struct {
		script string
		want   []rules.Translation
	}{
		"a network of whole bytes":   {nat("ip", "ip saddr 172.17.0.0/16"), from(rules.IPv4, "ip nat", nil, "172.17.0.0/16")},
		"a network of odd bits":      {nat("ip", `oifname "wan1" ip saddr 10.99.128.0/19`), from(rules.IPv4, "ip nat", wan, "10.99.128.0/19")},
		"a host":                     {nat("ip", "ip saddr 192.168.7.9"), from(rules.IPv4, "ip nat", nil, "192.168.7.9/32")},
		"an IPv6 network":            {nat("ip6", "ip6 saddr fd12:3400::/23"), from(rules.IPv6, "ip6 nat", nil, "fd12:3400::/23")},
		"of a table of two families": {nat("inet", `oifname "wan1" ip6 saddr fd77::/64`), from(rules.IPv6, "inet nat", wan, "fd77::/64")},
		"iptables":                   {"iptables-nft -t nat -A POSTROUTING -s 10.8.0.0/22 -o wan1 -j MASQUERADE", from(rules.IPv4, "ip nat", wan, "10.8.0.0/22")},
		"a mask with gaps":           {"iptables-nft -t nat -A POSTROUTING -s 10.0.0.1/255.0.0.255 -j MASQUERADE", from(rules.IPv4, "ip nat", nil)},
		"all but a network":          {nat("ip", "ip saddr != 10.0.0.0/8"), from(rules.IPv4, "ip nat", nil)},
		"by destination":             {nat("ip", "ip daddr 192.0.2.0/24"), from(rules.IPv4, "ip nat", nil)},
		"what an exception leaves":   {nat("ip", "ip daddr 192.0.2.0/24 accept;"), from(rules.IPv4, "ip nat", nil)},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			k := open(t)
			sh(t, c.script)
			obs := snapshot(t, k, config())
			if diff := cmp.Diff(c.want, obs.PartialTranslations, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if obs.Translations != nil {
				t.Errorf("taken for a translation of all: %+v", obs.Translations)
			}
		})
	}
}
