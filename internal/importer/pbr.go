package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
)

// pbr is a configuration of OpenWrt's pbr (formerly vpn-policy-routing), as its version 1.2 understands it.
type pbr struct {
	*draft
	net     *network
	main    *uciSection
	ways    map[string]*uplink
	first   map[*uplink]string
	lans    []string // devices that hosts are behind
	strict  bool     // strict_enforcement: nothing leaves another way while an interface is down
	six     bool
	missing bool // lans is a guess
}

// formerNames are what pbr's predecessor, vpn-policy-routing, called sections and options.
var formerNames = map[string]string{"vpn-policy-routing": "pbr", "local_address": "src_addr", "local_addresses": "src_addr", "local_port": "src_port", "local_ports": "src_port",
	"remote_address": "dest_addr", "remote_addresses": "dest_addr", "remote_port": "dest_port", "remote_ports": "dest_port"}

func fromPBR(d *draft, u *uciFile, n *network) {
	for _, s := range u.sections {
		s.kind = cmp.Or(formerNames[s.kind], s.kind)
		for _, o := range s.options {
			o.name = cmp.Or(formerNames[o.name], o.name)
		}
	}
	d.know(u, map[string]string{
		"pbr": "enabled verbosity strict_enforcement ipv6_enabled ignored_interface supported_interface lan_device resolver_set resolver_instance " +
			"uplink_interface uplink_interface4 uplink_interface6 uplink_interface6_metric uplink_mark uplink_ip_rules_priority fw_mask icmp_interface boot_timeout " +
			"rule_create_option webui_show_ignore_target webui_supported_protocol webui_enable_column webui_protocol_column webui_chain_column webui_sorting " +
			"config_compat config_version procd_boot_delay procd_boot_timeout procd_boot_trigger_delay procd_reload_delay procd_lan_device procd_wan_interface " +
			"procd_wan6_interface wan_ip_rules_priority wan_mark secure_reload debug_performance debug_dnsmasq " +
			"nft_rule_counter nft_set_auto_merge nft_set_counter nft_set_flags_interval nft_set_flags_timeout nft_set_flags_gc_interval nft_set_gc_interval nft_set_policy " +
			"nft_set_timeout nft_user_set_counter nft_user_set_policy nft_file_support prefixlength netifd_enabled netifd_strict_enforcement netifd_interface_default " +
			"netifd_interface_default6 netifd_interface_local " + strings.Join(pbrDSCP(u), " "),
		"policy":     "name enabled interface proto chain src_addr src_port dest_addr dest_port src_ipset dest_ipset comment",
		"dns_policy": "name enabled src_addr dest_dns dest_dns_port",
		"include":    "path enabled",
	})
	p := &pbr{draft: d, net: n, ways: make(map[string]*uplink), first: make(map[*uplink]string), main: &uciSection{}}
	for _, s := range u.sections {
		if s.kind == "pbr" {
			p.main = s
			break
		}
	}
	p.strict = p.main.flag("strict_enforcement", true)
	p.six = p.main.flag("ipv6_enabled", false)
	p.interfaces(u)
	if len(d.uplinks) == 0 {
		return
	}
	p.settings()
	for _, s := range u.sections {
		switch s.kind {
		case "policy":
			p.policy(s)
		case "dns_policy":
			if s.flag("enabled", true) {
				d.note(Lost, s.from, "dns_policy %s sent DNS of %s to %s: that is a matter for the firewall, such as nft add rule inet fw4 dstnat ip saddr ... udp dport 53 dnat to ...",
					quoted(s.get("name", "Untitled")), quoted(s.get("src_addr", "everybody")), quoted(s.get("dest_dns", "")))
			}
		case "include":
			p.include(s)
		}
	}
}

// pbrDSCP are the options that give an interface a DSCP: its name and _dscp.
func pbrDSCP(u *uciFile) (names []string) {
	for _, s := range u.sections {
		for _, o := range s.options {
			if s.kind == "pbr" && strings.HasSuffix(o.name, "_dscp") {
				names = append(names, o.name)
			}
		}
	}
	return names
}

// wanName are interfaces that pbr holds for WAN.
var wanName = regexp.MustCompile(`^wan|wan$`)

// interfaces makes uplinks: of the WAN, of what policies name, and of what is said to be supported.
func (p *pbr) interfaces(u *uciFile) {
	wan := p.main.get("uplink_interface", p.main.get("uplink_interface4", p.main.get("procd_wan_interface", "wan")))
	wan6 := p.main.get("uplink_interface6", p.main.get("procd_wan6_interface", "wan6"))
	var policies []string
	for _, s := range u.sections {
		if s.kind == "policy" {
			policies = append(policies, s.get("interface", "wan"))
		}
	}
	dscp := pbrDSCP(u)
	for i := range dscp {
		dscp[i] = strings.TrimSuffix(dscp[i], "_dscp")
	}
	if len(policies)+len(p.main.options) == 0 {
		return
	}
	ignored := p.main.words("ignored_interface")
	names := slices.Concat([]string{wan}, policies, p.main.words("supported_interface"), dscp)
	if i := p.main.get("icmp_interface", ""); i != "" {
		names = append(names, i)
	}
	var guessed []string
	for _, name := range unique(names) {
		switch {
		case name == wan6 && p.six && p.ways[wan] != nil:
			p.ways[wan6] = p.ways[wan]
			continue
		case name == "ignore" || name == "tor" || strings.HasPrefix(name, "xray_"):
			continue
		case slices.Contains(ignored, name) && name != wan && !slices.Contains(p.main.words("supported_interface"), name):
			p.note(Kept, p.main.at("ignored_interface"), "interface %s is ignored: no uplink is made of it", quoted(name))
			continue
		}
		device, guess := p.net.device(name)
		if at := slices.IndexFunc(p.uplinks, func(u *uplink) bool { return u.device == device }); at >= 0 {
			p.ways[name] = p.uplinks[at]
			continue
		}
		up := p.uplinkNamed(name, device)
		p.ways[name], p.first[up] = up, name
		up.carries = families{true, p.six}
		p.net.wireguard(up, name, p.main.from)
		if guess != "" && p.net.known {
			up.note(Assumed, p.main.from, "%s", guess)
		}
		guessed = append(guessed, device)
	}
	if !p.net.known {
		p.note(Assumed, origin{p.system, 0}, "devices are the interfaces' own names (%s), because no --network file was given: use --network /etc/config/network, or write the devices in", strings.Join(guessed, ", "))
	}
	tier := 1
	for _, up := range p.uplinks {
		name := p.first[up]
		if name == wan {
			continue
		}
		if wanName.MatchString(name) && !p.net.tunnel(name) {
			tier++
			up.tier = tier
			up.note(Kept, origin{p.system, 0}, "it takes over what %s carries when that fails, which table main did only when the link was down; default = false leaves it to policies", p.ways[wan].name)
			continue
		}
		up.noDefault = true
	}
	if tier > 1 && p.net.known { // the order of the metrics
		for t, w := range p.net.byMetric(slices.DeleteFunc(slices.Clone(p.uplinks), func(u *uplink) bool { return u.noDefault }), p.first) {
			w[0].uplink.tier = t + 1
		}
	}
	p.lans = p.net.lans(p.draft)
	if len(p.lans) == 0 {
		p.missing = true
		p.lans = p.main.words("lan_device")
		if len(p.lans) == 0 {
			p.lans = []string{p.main.get("procd_lan_device", "br-lan")}
		}
	}
}

// settings names what stands in the main section.
func (p *pbr) settings() {
	at := p.main.at
	if !p.main.flag("enabled", false) {
		p.note(Changed, at("enabled"), "pbr was turned off (enabled is not 1): the policies below were not in force, and are now")
	}
	if !p.six {
		p.note(Kept, at("ipv6_enabled"), "ipv6_enabled is off: IPv6 goes as it did, and uplinkd leaves it alone. Take the lines method = \"off\" out where a line has IPv6")
	}
	p.note(Kept, at("fw_mask"), "fw_mask, uplink_mark and uplink_ip_rules_priority: uplinkd marks with 0x3f000000 and its rules begin at 10000, see [kernel]. Rules of yours that look for pbr's marks do nothing now.")
	if p.strict {
		p.note(Kept, at("strict_enforcement"), "strict_enforcement: fallback = \"unreachable\" below. pbr saw only interfaces that were down; here one whose line is dead counts too.")
	}
	if v := p.main.get("resolver_set", "none"); v != "none" {
		p.note(Kept, at("resolver_set"), "resolver_set %s: dnsmasq fills sets of nftables for domains; the sets below say with which line", quoted(v))
	}
	for _, o := range []string{"netifd_enabled", "netifd_strict_enforcement", "netifd_interface_default", "netifd_interface_default6", "netifd_interface_local"} {
		if v := p.main.get(o, "0"); v != "0" {
			p.note(Lost, at(o), "%s %s has no counterpart: remove what it has put into /etc/config/network (service pbr netifd remove)", o, quoted(v))
		}
	}
	for _, o := range pbrDSCP(&uciFile{sections: []*uciSection{p.main}}) {
		name := strings.TrimSuffix(o, "_dscp")
		n, err := strconv.Atoi(p.main.get(o, ""))
		if err != nil || n < 0 || n > 63 || p.ways[name] == nil {
			p.note(Lost, at(o), "%s %s is no code point of an interface", o, quoted(p.main.get(o, "")))
			continue
		}
		p.add(&policy{ways: ways{{{p.ways[name], 1}}}, killSwitch: p.strict, match: match{dscp: []string{strconv.Itoa(n)}}}, "dscp-"+name)
	}
	if name := p.main.get("icmp_interface", ""); name != "" && p.ways[name] != nil {
		p.add(&policy{ways: ways{{{p.ways[name], 1}}}, killSwitch: p.strict, match: match{protocols: []string{"icmp"}, uid: anyUID}}, "icmp")
	}
}

// anyUID selects all that this router sends itself.
const anyUID = "0-4294967294"

func (p *pbr) include(s *uciSection) {
	if !s.flag("enabled", true) {
		return
	}
	path := s.get("path", "")
	what := "it ran that script, which marks what it likes"
	switch {
	case strings.HasSuffix(path, ".aws"):
		what = "it sent Amazon's ranges by the WAN: put them into a [[set]] (https://ip-ranges.amazonaws.com/ip-ranges.json), and write a policy with to = \"@aws\""
	case strings.HasSuffix(path, ".netflix"):
		what = "it sent Netflix' ranges (AS2906) by the WAN: put them into a [[set]], and write a policy with to = \"@netflix\""
	case strings.HasSuffix(path, ".dnsprefetch"):
		what = "it asked for all domains at start, so that sets are filled at once"
	}
	p.note(Lost, s.from, "include %s: %s", quoted(path), what)
}

// group are elements of one sort, of a source or a destination.
type group struct {
	kind    string // "address", "mac", "device", "domain", "url" or "nothing"
	negated bool
	words   []string
}

var macForm = regexp.MustCompile(`^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$`)

// groups sorts elements as pbr does: each sort is a rule of its own, so that these are alternatives.
func groups(value string) (list []group) {
	for _, w := range strings.FieldsFunc(value, func(c rune) bool { return strings.ContainsRune(" ,;{}", c) }) {
		g := group{kind: "domain"}
		w, g.negated = strings.CutPrefix(w, "!")
		switch _, address := parseAddresses(w); {
		case w == "":
			continue
		case macForm.MatchString(w):
			g.kind, w = "mac", strings.ToLower(strings.ReplaceAll(w, "-", ":"))
		case strings.HasPrefix(w, "@"):
			g.kind, w = "device", w[1:]
		case address:
			g.kind = "address"
		case strings.Contains(w, "://"):
			g.kind = "url"
		}
		if g.kind == "domain" && !hostName(w) {
			g.kind = "nothing"
		}
		i := slices.IndexFunc(list, func(o group) bool { return o.kind == g.kind && o.negated == g.negated })
		if i < 0 {
			list, i = append(list, g), len(list)
		}
		list[i].words = append(list[i].words, w)
	}
	return list
}

// policy translates one policy, as one for each pair of sorts of sources and destinations.
func (p *pbr) policy(s *uciSection) {
	name, iface := s.get("name", s.get("comment", "policy")), s.get("interface", "wan")
	skip := func(kind Kind, format string, args ...any) {
		p.note(kind, s.from, "policy %s is left out: %s", quoted(name), fmt.Sprintf(format, args...))
	}
	src, dst := groups(s.get("src_addr", "")), groups(s.get("dest_addr", ""))
	sport, dport := s.get("src_port", ""), s.get("dest_port", "")
	switch {
	case s.option("src_ipset") != nil || s.option("dest_ipset") != nil:
		skip(Lost, "it used an ipset, which pbr 1.2 does not know either: write a [[set]] with filled = true")
		return
	case len(src)+len(dst) == 0 && sport+dport == "":
		skip(Lost, "it has neither addresses nor ports, and pbr refuses such")
		return
	case iface == "tor":
		skip(Lost, "Tor is a transparent proxy on this router: [[tproxy]] with the port of its TransPort takes TCP there")
		return
	}
	base := match{}
	var err error
	if base.protocols, err = pbrProtocols(s.get("proto", ""), sport+dport != ""); err == nil {
		base.sport, err = pbrPorts(sport)
	}
	if err == nil {
		base.dport, err = pbrPorts(dport)
	}
	if err != nil {
		skip(Lost, "%v", err)
		return
	}
	if len(src) == 0 {
		src = []group{{}}
	}
	if len(dst) == 0 {
		dst = []group{{}}
	}
	for _, from := range src {
		for _, to := range dst {
			p.one(s, name, iface, base.clone(), from, to, skip)
		}
	}
}

// one adds a policy for a sort of sources and a sort of destinations.
func (p *pbr) one(s *uciSection, name, iface string, m match, from, to group, skip func(Kind, string, ...any)) {
	out := &policy{match: m, off: !s.flag("enabled", true)}
	if out.off {
		out.note(Kept, s.at("enabled"), "it was turned off: take the # away to have it")
	}
	if why := p.sources(out, from, s); why != "" {
		skip(Lost, "%s", why)
		return
	}
	if why := p.destinations(out, to, s); why != "" {
		skip(Lost, "%s", why)
		return
	}
	if why := p.chain(out, s, from); why != "" {
		skip(Lost, "%s", why)
		return
	}
	if port, proxied := strings.CutPrefix(iface, "xray_"); proxied {
		p.proxy(out, s, name, port, skip)
		return
	}
	switch u := p.ways[iface]; {
	case iface == "ignore":
		out.ways = p.ignore()
		out.note(Kept, s.at("interface"), "interface ignore: it goes by the default, and no later policy is asked. Local networks need no policy: they always win")
	case u == nil:
		skip(Lost, "interface %s is ignored by pbr, or is none that leads out", quoted(iface))
		return
	default:
		out.ways, out.killSwitch = ways{{{u, 1}}}, p.strict
	}
	p.add(out, name)
}

// ignore are the ways of what is left to table main: those of the default.
func (p *pbr) ignore() (w ways) {
	list := slices.DeleteFunc(slices.Clone(p.uplinks), func(u *uplink) bool { return u.noDefault })
	slices.SortStableFunc(list, func(a, b *uplink) int { return a.tier - b.tier })
	for _, u := range list {
		w = append(w, []share{{u, 1}})
	}
	return w
}

func (p *pbr) sources(out *policy, g group, s *uciSection) string {
	m := &out.match
	switch {
	case len(g.words) == 0:
	case g.kind == "nothing":
		return quoted(strings.Join(g.words, " ")) + " is neither an address nor a name"
	case g.negated && g.kind == "address":
		var prefixes []netip.Prefix
		for _, w := range g.words {
			list, _ := parseAddresses(w)
			prefixes = append(prefixes, list...)
		}
		for _, six := range []bool{false, true} {
			of := slices.DeleteFunc(slices.Clone(prefixes), func(x netip.Prefix) bool { return x.Addr().Is6() != six })
			if len(of) > 0 {
				m.from = append(m.from, texts(complement(of))...)
			}
		}
		out.note(Kept, s.at("src_addr"), "from is every address but %s", quoted(strings.Join(g.words, " ")))
		if len(m.from) == 0 {
			return "it is about no address at all"
		}
	case g.negated:
		return "sources that are not " + quoted(strings.Join(g.words, " ")) + ": write a policy for these before, and one for all others"
	case g.kind == "mac":
		m.mac = g.words
	case g.kind == "device":
		m.iif = g.words
	case g.kind == "address":
		for _, w := range g.words {
			list, _ := parseAddresses(w)
			m.from = append(m.from, texts(list)...)
		}
	default:
		m.from = p.names(g, s, "src_addr")
	}
	return ""
}

func (p *pbr) destinations(out *policy, g group, s *uciSection) string {
	m := &out.match
	var prefixes []netip.Prefix
	for _, w := range g.words {
		list, _ := parseAddresses(w)
		prefixes = append(prefixes, list...)
	}
	switch {
	case len(g.words) == 0:
	case g.kind == "nothing":
		return quoted(strings.Join(g.words, " ")) + " is neither an address nor a name"
	case g.kind == "device":
		return "destinations by the device " + quoted(strings.Join(g.words, " ")) + " are what the route decides here"
	case g.kind == "address" && g.negated:
		m.except = texts(prefixes)
		m.except = slices.DeleteFunc(m.except, func(e string) bool { return strings.HasSuffix(e, "/1") })
		if len(m.except) == 0 {
			return "it is about no address at all"
		}
		if len(prefixes) > 0 && len(m.from) == 0 { // of that family
			m.to = everything[0]
			if prefixes[0].Addr().Is6() {
				m.to = everything[1]
			}
		}
	case g.kind == "address":
		m.to = texts(prefixes)
	case g.negated:
		return "destinations that are not " + quoted(strings.Join(g.words, " ")) + ", whose addresses are only known while it runs: write a policy for these before, and one for all others"
	default:
		m.to = p.names(g, s, "dest_addr")
	}
	return ""
}

// names makes sets of domains, one for all of a policy as pbr does, and of lists that are fetched.
func (p *pbr) names(g group, s *uciSection, option string) (list []string) {
	if g.kind != "url" {
		return []string{"@" + p.domainSet(s.get("name", "policy"), g.words, s.at(option))}
	}
	for _, w := range g.words {
		list = append(list, "@"+p.setNamed("list-"+w[strings.LastIndex(w, "/")+1:], func(set *set) {
			set.note(Lost, s.at(option), "pbr fetched %s when it started: fetch it yourself, once a day, say, and fill the set: nft add element inet uplinkd_policy %s4 { $(paste -sd, list.txt) }. Until then it is empty", quoted(w), set.name)
		}).name)
	}
	return list
}

// chain says which packets the policy sees: those that come in, or those of this router.
func (p *pbr) chain(out *policy, s *uciSection, from group) string {
	m := &out.match
	switch chain := strings.ToLower(s.get("chain", "prerouting")); chain {
	case "output":
		if len(m.mac)+len(m.iif) > 0 {
			return "what the router sends itself (chain output) comes from no host"
		}
		m.uid = anyUID
	case "prerouting", "forward":
		if len(from.words) == 0 {
			m.iif = slices.Clone(p.lans)
			if p.missing {
				out.note(Assumed, s.from, "it is about what comes in, not about what the router sends: iif are the devices that hosts are behind. Add those of other LANs")
			}
		}
	default:
		return "its chain " + quoted(chain) + " sees nothing that uplinkd could lead elsewhere"
	}
	return ""
}

// proxy writes a policy for Xray as a transparent proxy.
func (p *pbr) proxy(out *policy, s *uciSection, name, port string, skip func(Kind, string, ...any)) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || out.off || len(out.match.sport) > 0 || out.match.uid != "" {
		skip(Lost, "xray_%s: write a [[tproxy]] with its port", quoted(port))
		return
	}
	x := &proxy{port: int(n), match: out.match}
	if len(x.match.iif) == 0 {
		x.match.iif = slices.Clone(p.lans)
	}
	if len(x.match.protocols) == 0 {
		x.match.protocols = []string{"tcp", "udp"}
	}
	x.remarks = out.remarks
	x.name = label(name, "xray", config.MaxLabel, func(s string) bool {
		return slices.ContainsFunc(p.proxies, func(o *proxy) bool { return o.name == s })
	})
	p.proxies = append(p.proxies, x)
}

func pbrProtocols(value string, ports bool) (list []string, err error) {
	words := strings.Fields(strings.ToLower(value))
	if len(words) == 0 || value == "auto" || value == "all" {
		if ports {
			return []string{"tcp", "udp"}, nil
		}
		return nil, nil
	}
	for _, w := range words {
		if w == "all" || w == "auto" {
			return pbrProtocols("", ports)
		}
		p, ok := protocolText(w)
		if !ok {
			return nil, fmt.Errorf("protocol %s is not known", quoted(w))
		}
		list = append(list, p)
	}
	return list, nil
}

func pbrPorts(value string) ([]string, error) {
	value, negated := strings.CutPrefix(strings.TrimSpace(value), "!")
	words := strings.FieldsFunc(value, func(c rune) bool { return strings.ContainsRune(" ,;{}", c) })
	for i := range words {
		words[i] = strings.TrimPrefix(words[i], "!")
	}
	list, err := parsePorts(words)
	if err != nil || len(words) == 0 {
		return nil, err
	}
	if negated {
		list = otherPorts(list)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("it is about no port at all")
	}
	return portTexts(list), nil
}
