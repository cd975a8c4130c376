package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// vyos is "load-balancing wan" of VyOS: interface-definitions/load-balancing_wan.xml.in of github.com/vyos/vyos-1x and its documentation.
type vyos struct {
	*draft
	root, wan *vyNode
	addresses map[string][]netip.Prefix // by device, of the stanza "interfaces"
	titles    map[string]string         // descriptions, by device
	devices   []string                  // in the order of that stanza
	wireguard map[string]bool           // those of WireGuard
	byDevice  map[string]*uplink
	main      ways // table main's default: the routes of "protocols static" by their distances
}

func fromVyOS(d *draft, f *vyosFile) {
	v := &vyos{draft: d, root: &f.root, addresses: make(map[string][]netip.Prefix), titles: make(map[string]string), wireguard: make(map[string]bool), byDevice: make(map[string]*uplink)}
	switch {
	case f.root.child("load-balancing", "wan") != nil:
		v.wan = f.root.child("load-balancing", "wan")
	case f.root.child("wan") != nil: // as "show load-balancing" prints it
		v.wan = f.root.child("wan")
	case f.root.find("interface-health") != nil:
		v.wan = &f.root
	default:
		return
	}
	v.readInterfaces(v.root.child("interfaces"))
	for _, h := range v.wan.all("interface-health") {
		v.health(h)
	}
	v.mainOrder()
	v.settings()
	v.rules()
	v.rest()
}

// readInterfaces learns addresses and names of devices.
func (v *vyos) readInterfaces(stanza *vyNode) {
	if stanza == nil {
		return
	}
	for _, kind := range stanza.children {
		kind.used = true
		for _, i := range kind.children {
			v.readInterface(i, i.name)
			v.wireguard[i.name] = kind.name == "wireguard"
		}
	}
}

func (v *vyos) readInterface(n *vyNode, device string) {
	n.used = true
	v.devices = append(v.devices, device)
	v.titles[device] = n.value("description", "")
	for _, a := range n.all("address") {
		if p, err := netip.ParsePrefix(a.name); err == nil {
			v.addresses[device] = append(v.addresses[device], p)
		}
	}
	for _, tag := range []string{"vif", "vif-s", "vif-c"} {
		for _, c := range n.all(tag) {
			v.readInterface(c, device+"."+c.name)
		}
	}
	for _, c := range n.all("pppoe") {
		v.readInterface(c, "pppoe"+c.name)
	}
}

// health makes an uplink of an interface that is watched.
func (v *vyos) health(n *vyNode) {
	if v.byDevice[n.name] != nil {
		return
	}
	u := v.uplinkNamed(n.name, n.name)
	v.byDevice[n.name] = u
	u.carries = families{true, false}
	if t := v.titles[n.name]; t != "" {
		u.note(Kept, n.from, "%s", quoted(t))
	}
	if u.wireguard = v.wireguard[n.name]; u.wireguard {
		n.value("nexthop", "")
		u.note(Kept, n.from, "it is a WireGuard device that VyOS makes: no nexthop is needed, and allowed-ips must hold what goes by it")
	} else {
		v.nexthop(n, u)
	}
	for _, t := range n.all("test") {
		v.test(t, u)
	}
	if len(u.targets) == 0 {
		u.note(Changed, n.from, "no test has a target, so that VyOS knew little more than the link: here the default targets are asked. Name others if these cannot be reached that way")
	}
	failures, successes := n.value("failure-count", "1"), n.value("success-count", "1")
	u.note(Kept, n.from, "failure-count %s, success-count %s: VyOS tests every 5 s. uplinkd's own pace is kept: a first miss is confirmed within a second", quoted(failures), quoted(successes))
}

// nexthop decides how the uplink finds its gateway.
func (v *vyos) nexthop(n *vyNode, u *uplink) {
	hop := n.value("nexthop", "dhcp")
	gateway, err := netip.ParseAddr(hop)
	switch {
	case hop == "dhcp":
		return
	case err != nil:
		u.note(Lost, n.at("nexthop"), "nexthop %s is no address: uplinkd follows the gateway that the system has on %s", quoted(hop), quoted(u.device))
		return
	}
	for _, p := range v.addresses[n.name] {
		if p.Addr().Is4() && p.Contains(gateway) {
			u.address, u.gateway = p, gateway
			return
		}
	}
	for _, route := range v.root.all("protocols", "static", "route") {
		if route.name == "0.0.0.0/0" && route.child("next-hop", hop) != nil {
			return
		}
	}
	u.note(Assumed, n.at("nexthop"), "nexthop %s: uplinkd follows the default route that table main has by %s, and the files do not show one. Add it (set protocols static route 0.0.0.0/0 next-hop %s distance 200), or write [uplink.ipv4] with method = \"static\", address and gateway",
		quoted(hop), quoted(u.device), quoted(hop))
}

func (v *vyos) test(t *vyNode, u *uplink) {
	kind, target := t.value("type", "ping"), t.value("target", "")
	t.value("resp-time", "")
	ttl := t.value("ttl-limit", "")
	switch {
	case kind == "user-defined":
		script := t.value("test-script", "")
		u.note(Lost, t.from, "test %s ran the script %s: probes are pings, connections, pages and DNS queries here. Let the script set the link down, or write what it looks at as a target", quoted(t.name), quoted(script))
		return
	case target == "":
		u.note(Lost, t.from, "test %s has no target", quoted(t.name))
		return
	case kind == "ttl":
		u.note(Changed, t.from, "test %s waited for \"time exceeded\" %s hops away on the way to %s: that is pinged instead; make sure that it answers", quoted(t.name), quoted(ttl), quoted(target))
	case kind != "ping":
		u.note(Changed, t.from, "test %s has the type %s, which is not known: %s is pinged", quoted(t.name), quoted(kind), quoted(target))
	}
	if a, err := netip.ParseAddr(target); err != nil || !a.Is4() {
		u.note(Lost, t.at("target"), "target %s: targets are addresses, because a name would have to be asked for by the very uplink that is in question", quoted(target))
		return
	}
	u.targets = append(u.targets, target)
	for _, route := range v.root.all("protocols", "static", "route") {
		if route.name == target+"/32" {
			u.note(Kept, route.from, "static routes to targets are not needed any more: each probe leaves by its own uplink. While there are any, hosts reach these addresses by that line alone")
		}
	}
}

// mainOrder puts uplinks into the order of the default routes that table main has.
func (v *vyos) mainOrder() {
	distance := func(u *uplink) int {
		for _, route := range v.root.all("protocols", "static", "route") {
			if route.name != "0.0.0.0/0" {
				continue
			}
			for _, hop := range route.all("next-hop") {
				if a, err := netip.ParseAddr(hop.name); err == nil && (a == u.gateway || v.hopOf(u) == a) {
					n, _ := strconv.Atoi(hop.value("distance", "1"))
					return n
				}
			}
		}
		return 210 // a route by DHCP
	}
	list := slices.Clone(v.uplinks)
	slices.SortStableFunc(list, func(a, b *uplink) int { return cmp.Compare(distance(a), distance(b)) })
	if wired := slices.DeleteFunc(slices.Clone(list), func(u *uplink) bool { return tunnelName.MatchString(u.device) }); len(wired) > 0 {
		list = wired
	}
	for _, u := range list {
		v.main = append(v.main, []share{{u, 1}})
	}
}

// hopOf is the gateway that the configuration names for an uplink.
func (v *vyos) hopOf(u *uplink) netip.Addr {
	a, _ := netip.ParseAddr(v.wan.child("interface-health", u.device).value("nexthop", ""))
	return a
}

// settings names what is about the whole.
func (v *vyos) settings() {
	has := func(name string) bool { return v.wan.child(name) != nil }
	if has("disable-source-nat") {
		for _, u := range v.uplinks {
			u.noMasquerade = true
		}
		v.note(Kept, v.wan.at("disable-source-nat"), "disable-source-nat: masquerade = false below. What \"nat source\" of VyOS rewrites goes on; without any, hosts of private addresses reach nothing")
	}
	if has("flush-connections") {
		v.note(Changed, v.wan.at("flush-connections"), "flush-connections forgot all connections at each change; uplinkd forgets those of the uplink that has died, and no others")
	}
	if v.wan.child("sticky-connections") != nil {
		v.wan.all("sticky-connections")
		v.note(Kept, v.wan.at("sticky-connections"), "sticky-connections: answers always leave by the uplink that the request came in by")
	}
	if hook := v.wan.value("hook", ""); hook != "" {
		v.note(Lost, v.wan.at("hook"), "hook %s is not run: put it into /etc/uplinkd/hooks.d; instead of WLB_INTERFACE_NAME and WLB_INTERFACE_STATE it gets the variables of docs/seeing.md", quoted(hook))
	}
	has("enable-local-traffic")
}

// vyRule is a rule of the load balancer.
type vyRule struct {
	remarked
	node     *vyNode
	number   int
	match    match
	ways     ways
	exclude  bool
	nothing  string
	catchAll bool
}

// kept begins the reason of a rule that is left out with nothing lost.
const kept = "kept: "

// devices says what a rule is for.
func (r *vyRule) devices() string {
	if len(r.match.iif) == 0 {
		return "any device"
	}
	return quoted(strings.Join(r.match.iif, " "))
}

// behind adds uplinks to a rule that take over when its own are dead.
func (r *vyRule) behind(w ways) {
	for _, tier := range w {
		tier = slices.DeleteFunc(slices.Clone(tier), func(s share) bool { return r.ways.has(s.uplink) })
		if len(tier) > 0 {
			r.ways = append(r.ways, tier)
		}
	}
}

func (v *vyos) rules() {
	var list []*vyRule
	for _, n := range v.wan.all("rule") {
		list = append(list, v.rule(n))
	}
	slices.SortStableFunc(list, func(a, b *vyRule) int { return cmp.Compare(a.number, b.number) })
	var standard *vyRule
	// A rule whose uplinks are all dead is none: the next one is asked, which is what tiers are for.
	closed := make(map[string]*vyRule) // devices of which a rule takes everything
	for _, r := range list {
		if r.nothing != "" {
			continue
		}
		device := strings.Join(r.match.iif, "")
		if above := cmp.Or(closed[device], closed[""]); above != nil {
			if above == standard && r.catchAll && !r.exclude {
				above.behind(r.ways)
				r.nothing = fmt.Sprintf("%sit was for when the uplinks of rule %d above are dead, which takes everything: its own are further tiers of that", kept, above.number)
				continue
			}
			r.nothing = fmt.Sprintf("it was asked only while the uplinks of rule %d above are dead, which takes everything: other uplinks take over by their tiers here", above.number)
			continue
		}
		if r.catchAll {
			closed[device] = r
			if standard == nil && !r.exclude {
				standard = r
			}
		}
	}
	v.standard(standard)
	for _, r := range list {
		v.emit(r, standard)
	}
}

// standard makes the first rule that takes everything from a LAN the default, which is also the router's own.
func (v *vyos) standard(r *vyRule) {
	v.defaults[0] = v.main
	if r != nil {
		v.defaults[0] = r.ways
		for _, o := range r.remarks {
			v.note(o.Kind, origin{o.File, o.Line}, "rule %d: %s", r.number, o.Text)
		}
		v.note(Kept, r.node.from, "rule %d takes all that comes in by %s: it is the default here, by tier and weight, and no policy", r.number, r.devices())
		if r.ways.shared() && v.wan.child("enable-local-traffic") == nil {
			v.note(Changed, r.node.from, "without enable-local-traffic, what the router sends itself went by table main; here it is shared as the default is, and so is what comes in by other devices")
		}
	} else if len(v.uplinks) > 1 {
		v.note(Kept, origin{v.system, 0}, "no rule takes all that comes in by a device: the tiers below follow table main's default routes")
	}
	tier := 0
	for i, t := range v.defaults[0] {
		tier = i + 1
		for _, s := range t {
			s.uplink.tier = tier
		}
	}
	for _, u := range v.uplinks {
		if v.defaults[0].has(u) {
			continue
		}
		if tunnelName.MatchString(u.device) {
			u.noDefault = true
			u.note(Kept, origin{v.system, 0}, "rules alone use it, and the default never does")
			continue
		}
		tier++
		u.tier = tier
		u.note(Kept, origin{v.system, 0}, "the default's rule has no member for it: it comes behind, as table main's default did. default = false leaves it to policies")
	}
}

// rule reads one rule.
func (v *vyos) rule(n *vyNode) *vyRule {
	r := &vyRule{node: n, exclude: n.child("exclude") != nil}
	r.number, _ = strconv.Atoi(n.name)
	failover := n.child("failover") != nil
	if t := n.value("description", ""); t != "" {
		r.note(Kept, n.from, "%s", quoted(t))
	}
	switch in := n.value("inbound-interface", ""); {
	case in == "" && !r.exclude && len(n.children) > 0:
		r.note(Assumed, n.from, "it has no inbound-interface, which VyOS asks for: it is about what comes in by any device")
	case in == "any" || in == "":
	case strings.HasPrefix(in, "!") || strings.HasSuffix(in, "+"):
		one, others := strings.CutPrefix(in, "!")
		prefix, pattern := strings.CutSuffix(one, "+")
		for _, d := range v.devices { // uplinks are none: what comes in there is answered there
			if is := d == one || pattern && strings.HasPrefix(d, prefix); is != others && v.byDevice[d] == nil && d != "lo" {
				r.match.iif = append(r.match.iif, d)
			}
		}
		if len(r.match.iif) == 0 {
			r.nothing = "inbound-interface " + quoted(in) + " stands for several devices, and no stanza \"interfaces\" says which: name them in iif"
		}
	default:
		r.match.iif = []string{in}
	}
	v.protocol(n, r)
	v.side(n, r, "source", &r.match.from, &r.match.sport)
	v.side(n, r, "destination", &r.match.to, &r.match.dport)
	limited := v.limit(n, r)
	if n.child("per-packet-balancing") != nil {
		r.note(Changed, n.at("per-packet-balancing"), "per-packet-balancing: flows are shared here, not packets, so that none arrives out of order")
	}
	v.members(n, r, failover)
	r.catchAll = !limited && r.match.empty() || !limited && len(r.match.iif) > 0 && (&match{from: r.match.from, to: r.match.to, protocols: r.match.protocols, except: r.match.except}).empty()
	return r
}

// members reads the interfaces of a rule: by weights in one tier, or by descending weights in tiers of their own.
func (v *vyos) members(n *vyNode, r *vyRule, failover bool) {
	type member struct {
		*uplink
		weight int
	}
	var list []member
	for _, i := range n.all("interface") {
		weight, err := strconv.Atoi(i.value("weight", "1"))
		if err != nil || weight < 1 || weight > 256 {
			r.note(Lost, i.from, "weight %s of %s is no number from 1 to 255: taken as 1", quoted(i.value("weight", "1")), quoted(i.name))
			weight = 1
		}
		if v.byDevice[i.name] == nil {
			r.note(Changed, i.from, "interface %s has no interface-health, so that VyOS never used it, as this does not", quoted(i.name))
			continue
		}
		list = append(list, member{v.byDevice[i.name], weight})
	}
	if failover {
		slices.SortStableFunc(list, func(a, b member) int { return b.weight - a.weight })
	}
	r.ways = order(list, func(m member) (*uplink, int, int) {
		if failover {
			return m.uplink, slices.IndexFunc(list, func(o member) bool { return o.uplink == m.uplink }), 1
		}
		return m.uplink, 1, m.weight
	})
	if len(r.ways) == 0 && !r.exclude && r.nothing == "" {
		r.nothing = "it has no interface that VyOS would use"
	}
}

func (v *vyos) protocol(n *vyNode, r *vyRule) {
	value := strings.ToLower(n.value("protocol", "all"))
	word, negated := strings.CutPrefix(value, "!")
	switch p, ok := protocolText(word); {
	case value == "all":
	case value == "tcp_udp":
		r.match.protocols = []string{"tcp", "udp"}
	case !ok:
		r.nothing = "protocol " + quoted(value) + " is not known"
	case !negated:
		r.match.protocols = []string{p}
	default:
		for i := 1; i < 256; i++ {
			if other, _ := protocolText(strconv.Itoa(i)); other != p {
				r.match.protocols = append(r.match.protocols, other)
			}
		}
	}
}

// side reads the addresses, ports and groups of a source or a destination.
func (v *vyos) side(n *vyNode, r *vyRule, name string, addresses, ports *[]string) {
	s := n.child(name)
	if s == nil {
		return
	}
	if value := s.value("address", ""); value != "" {
		literal, negated := strings.CutPrefix(value, "!")
		list, ok := parseAddresses(literal)
		_, whole := all(list)
		switch {
		case !ok:
			r.nothing = name + " address " + quoted(value) + " is none"
		case whole && negated:
			r.nothing = name + " address " + quoted(value) + " is no address at all"
		case whole:
		case !negated:
			*addresses = texts(list)
		case name == "destination":
			r.match.except = texts(list)
		default:
			*addresses = texts(complement(list))
		}
	}
	if value := s.value("port", ""); value != "" {
		list, err := vyPorts(value)
		if err != nil {
			r.nothing = err.Error()
		}
		*ports = list
	}
	v.groups(s, r, name, addresses, ports)
	if len(*ports) > 0 && len(r.match.protocols) == 0 {
		r.match.protocols = []string{"tcp", "udp"}
	}
}

func vyPorts(value string) ([]string, error) {
	value, negated := strings.CutPrefix(value, "!")
	list, err := parsePorts(strings.FieldsFunc(value, func(c rune) bool { return c == ',' || c == ' ' }))
	if err != nil {
		return nil, err
	}
	if negated {
		list = otherPorts(list)
	}
	return portTexts(list), nil
}

// groups makes sets of the groups of the firewall.
func (v *vyos) groups(s *vyNode, r *vyRule, name string, addresses, ports *[]string) {
	for _, kind := range s.all("group") {
		for _, g := range kind.children {
			g.used = true
			group := v.root.child("firewall", "group", kind.name, g.name)
			if group == nil || strings.HasPrefix(g.name, "!") {
				r.nothing = name + " group " + quoted(g.name) + " is not in the file, or is negated"
				continue
			}
			switch kind.name {
			case "address-group", "network-group", "ipv6-address-group", "ipv6-network-group":
				var list []string
				for _, a := range append(group.all("address"), group.all("network")...) {
					if p, ok := parseAddresses(a.name); ok {
						list = append(list, texts(p)...)
					}
				}
				if len(list) == 0 {
					r.nothing = "group " + quoted(g.name) + " is empty"
					continue
				}
				*addresses = append(*addresses, "@"+v.setNamed(g.name, func(set *set) { set.addresses = list }).name)
			case "domain-group":
				var domains []string
				for _, a := range group.all("address") {
					domains = append(domains, a.name)
				}
				*addresses = append(*addresses, "@"+v.domainSet(g.name, domains, g.from))
			case "port-group":
				for _, p := range group.all("port") {
					list, err := vyPorts(p.name)
					if err != nil {
						r.nothing = err.Error()
					}
					*ports = append(*ports, list...)
				}
			default:
				r.nothing = "groups of the kind " + quoted(kind.name) + " have no counterpart"
			}
		}
	}
}

// limit reads a limit of packets, by which a rule is for some of its traffic only.
func (v *vyos) limit(n *vyNode, r *vyRule) bool {
	l := n.child("limit")
	if l == nil {
		return false
	}
	rate, period, threshold := l.value("rate", "5"), l.value("period", "second"), l.value("threshold", "below")
	l.value("burst", "5")
	if threshold == "above" {
		r.nothing = fmt.Sprintf("it was for what came above %s packets a %s, and traffic is not told apart by its rate here", quoted(rate), quoted(period))
		return true
	}
	r.note(Changed, l.from, "limit: it was for the first %s packets a %s, and later rules for the others; here it is for all", quoted(rate), quoted(period))
	return true
}

func (v *vyos) emit(r *vyRule, standard *vyRule) {
	switch {
	case r == standard:
		return
	case r.nothing != "":
		kind := Lost
		why, same := strings.CutPrefix(r.nothing, kept)
		if same {
			kind = Kept
		}
		v.note(kind, r.node.from, "rule %s is left out: %s", quoted(r.node.name), why)
		return
	case r.catchAll && !r.exclude && standard != nil && r.ways.equal(standard.ways):
		v.note(Kept, r.node.from, "rule %d does for %s what the default does", r.number, r.devices())
		return
	}
	p := &policy{remarked: r.remarked, ways: r.ways, match: r.match}
	if r.exclude {
		p.ways = v.main
		p.note(Kept, r.node.from, "exclude: it goes by table main's default. Local networks and static routes need no policy: they always win")
	}
	if p.match.empty() {
		p.match.to = everything[0]
	}
	v.add(p, "rule-"+r.node.name)
}

// rest names what of the load balancer was not translated, and what stands beside it.
func (v *vyos) rest() {
	var walk func(n *vyNode, path string)
	count := 0
	walk = func(n *vyNode, path string) {
		for _, c := range n.children {
			if !c.used && count < 30 {
				count++
				v.note(Lost, c.from, "%s is not known", quoted(strings.TrimSpace(path+" "+c.name)))
				continue
			}
			walk(c, path+" "+c.name)
		}
	}
	if v.wan != v.root {
		walk(v.wan, "")
	}
	var beside []string
	for _, c := range v.root.children {
		switch {
		case c.name == "protocols" || c.name == "policy":
			for _, p := range c.children {
				if p.name == "route" || p.name == "local-route" {
					v.note(Lost, p.from, "policy %s sends traffic to tables of its own: its rules stand before uplinkd's and go on, but do not follow uplinks. Write them as [[policy]]", quoted(p.name))
				}
				beside = append(beside, quoted(c.name+" "+p.name))
			}
		case !slices.Contains([]string{"load-balancing", "wan", "interfaces", "interface-health", "rule"}, c.name) && v.wan != v.root:
			beside = append(beside, quoted(c.name))
		}
	}
	if len(beside) > 0 {
		v.note(Kept, origin{v.system, 0}, "no part of WAN load balancing, and left as it is: %s", clipped(strings.Join(beside, ", "), 300))
	}
}
