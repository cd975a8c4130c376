package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// Counters count the packets that an ISP got from one customer, per family: with a source of somebody else (and
// dropped them), or with the customer's own (and let them in). What a break swallows is in neither.
type Counters struct {
	ForeignV4 uint64 `json:"foreign_v4"`
	ForeignV6 uint64 `json:"foreign_v6"`
	PassedV4  uint64 `json:"passed_v4"`
	PassedV6  uint64 `json:"passed_v6"`
}

// sourceFilter renders the ISP's filter of BCP 38 at each customer's port, and the address translation of twins. At
// ingress the port is known even where it belongs to a bridge, and nothing else of the ISP has seen the packet yet.
func sourceFilter(p *isp) string {
	var b strings.Builder
	b.WriteString("table netdev isp {\n")
	for _, u := range p.uplinks {
		v4, v6 := u.allowed()
		for _, c := range []string{"foreign4", "foreign6", "passed4", "passed6"} {
			fmt.Fprintf(&b, "\tcounter %s_%s { }\n", u.name, c)
		}
		fmt.Fprintf(&b, "\tset %s_net4 { type ipv4_addr; flags interval; elements = { %s }\n\t}\n", u.name, v4)
		fmt.Fprintf(&b, "\tset %s_seen4 { type ipv4_addr . ipv4_addr; size 64; flags dynamic\n\t}\n", u.name)
		fmt.Fprintf(&b, "\tset %s_seen6 { type ipv6_addr . ipv6_addr; size 64; flags dynamic\n\t}\n", u.name)
		fmt.Fprintf(&b, "\tset %s_net6 { type ipv6_addr; flags interval; elements = { %s }\n\t}\n", u.name, v6)
		fmt.Fprintf(&b, `	chain %[1]s {
		type filter hook ingress device "%[2]s" priority 0; policy accept;
		ip saddr 0.0.0.0 accept comment "a DHCP client without an address"
		ip saddr @%[1]s_net4 counter name %[1]s_passed4 accept
		meta protocol ip add @%[1]s_seen4 { ip saddr . ip daddr }
		meta protocol ip counter name %[1]s_foreign4 drop
		%[3]s comment "with whatever source: it stays on the link"
		ip6 saddr :: accept comment "multicast listener reports"
		ip6 saddr fe80::/10 accept comment "and DHCPv6"
		ip6 saddr @%[1]s_net6 counter name %[1]s_passed6 accept
		meta protocol ip6 add @%[1]s_seen6 { ip6 saddr . ip6 daddr }
		meta protocol ip6 counter name %[1]s_foreign6 drop
	}
`, u.name, u.port, spareDiscovery)
	}
	b.WriteString("}\n")
	if p.nat {
		b.WriteString("table ip nat {\n\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat;\n\t\toifname \"up0\" masquerade\n\t}\n}\n")
	}
	return b.String()
}

// allowOnly renders the change of the filter after a renumbering; the counters stay.
func allowOnly(u *uplink) string {
	v4, v6 := u.allowed()
	var b strings.Builder
	for set, nets := range map[string][]netip.Prefix{u.name + "_net4": {v4}, u.name + "_net6": append([]netip.Prefix{v6}, u.delegated...)} {
		fmt.Fprintf(&b, "flush set netdev isp %s\n", set)
		for _, net := range nets {
			fmt.Fprintf(&b, "add element netdev isp %s { %s }\n", set, net)
		}
	}
	return b.String()
}

// Counters returns what the uplink's ISP has counted since the world was built.
func (w *World) Counters(name string) (Counters, error) {
	w.mu.Lock()
	u, err := w.find(name)
	w.mu.Unlock()
	if err != nil {
		return Counters{}, err
	}
	var out []byte
	err = w.hosts[u.isp.name].Do(func() error {
		var err error
		out, err = exec.CommandContext(w.ctx, w.tools.nft, "-j", "list", "counters", "table", "netdev", "isp").Output()
		return err
	})
	if err != nil {
		return Counters{}, fmt.Errorf("listing counters of %s: %w", u.isp.name, err)
	}
	return parseCounters(out, u.name)
}

// Foreign lists what the uplink's ISP has got with sources of somebody else, "SOURCE . DESTINATION" each, up to 64 of a family.
func (w *World) Foreign(name string) ([]string, error) {
	w.mu.Lock()
	u, err := w.find(name)
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, set := range []string{name + "_seen4", name + "_seen6"} {
		out, err := w.hosts[u.isp.name].Run(w.tools.nft, "list", "set", "netdev", "isp", set)
		if err != nil {
			return nil, fmt.Errorf("listing foreign sources at %s: %w", u.isp.name, err)
		}
		if _, list, ok := strings.Cut(out, "elements = {"); ok {
			list, _, _ = strings.Cut(list, "}")
			for _, pair := range strings.Split(list, ",") {
				seen = append(seen, strings.TrimSpace(pair))
			}
		}
	}
	return seen, nil
}

func parseCounters(data []byte, uplink string) (Counters, error) {
	var doc struct {
		Objects []struct {
			Counter *struct {
				Name    string
				Packets uint64
			}
		} `json:"nftables"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return Counters{}, fmt.Errorf("parsing nft's counters: %w", err)
	}
	var c Counters
	want := map[string]*uint64{
		uplink + "_foreign4": &c.ForeignV4, uplink + "_foreign6": &c.ForeignV6,
		uplink + "_passed4": &c.PassedV4, uplink + "_passed6": &c.PassedV6,
	}
	found := 0
	for _, o := range doc.Objects {
		if o.Counter == nil {
			continue
		}
		if value, ok := want[o.Counter.Name]; ok {
			*value = o.Counter.Packets
			found++
		}
	}
	if found != len(want) {
		return Counters{}, fmt.Errorf("nft lists %d of the %d counters of %s", found, len(want), uplink)
	}
	return c, nil
}
