package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// mwanRule is a rule as it is asked for one or both families.
type mwanRule struct {
	remarked
	name     string
	from     origin
	families families // for which it is asked
	match    match
	policy   *mwanPolicy
	target   string // "policy", "default", "unreachable" or "blackhole"
	sticky   bool
	nothing  string // why it does nothing, "" when it does
	lacking  string // the policy that is not defined, "" for none
	catchAll bool
}

// rules translates the rules in their order: the first that matches decides, as here.
func (m *mwan3) rules(sections []*uciSection) {
	var list []*mwanRule
	for i, s := range sections {
		list = append(list, m.rule(s, i+1))
	}
	var catch [2]*mwanRule
	for _, r := range list {
		if r.nothing != "" {
			continue
		}
		for f := range catch {
			if catch[f] != nil && r.families[f] {
				r.families[f] = false
				if r.families == (families{}) {
					r.nothing = kept + "it was never asked, since " + quoted(catch[f].name) + " above takes everything"
				}
			}
			if r.catchAll && r.families[f] {
				catch[f] = r
			}
		}
	}
	m.defaultWays(catch, list)
	for _, r := range list {
		m.emit(r, list)
	}
	m.separate(catch)
	m.unusedPolicies()
}

// rule reads one rule.
func (m *mwan3) rule(s *uciSection, number int) *mwanRule {
	r := &mwanRule{name: s.name, from: s.from, families: both, sticky: s.get("sticky", "0") == "1"}
	if r.name == "" {
		r.name = fmt.Sprintf("rule-%d", number)
	}
	if len(s.name) > 15 {
		r.note(Changed, s.from, "mwan3 takes no names of more than 15 characters, so that this rule did nothing there; here it does")
	}
	switch s.get("family", "any") {
	case "ipv4":
		r.families[1] = false
	case "ipv6":
		r.families[0] = false
	}
	use := s.get("use_policy", "")
	switch {
	case use == "":
		r.nothing = "it names no policy"
	case slices.Contains([]string{"default", "unreachable", "blackhole"}, use) && m.policies[use] == nil:
		r.target = use
	case m.policies[use] == nil:
		r.lacking = quoted(use)
		r.nothing = "its policy " + r.lacking + " is not in the files, and mwan3 goes on to the next rule then"
	default:
		r.target, r.policy = "policy", m.policies[use]
		r.policy.used = true
		if use == "default" {
			r.note(Changed, s.at("use_policy"), "use_policy default is table main to mwan3, although there is a policy of that name: here it is that policy, whose order may be another one than that of main's metrics")
		}
	}
	m.addresses(s, r)
	m.ports(s, r)
	if iface := s.get("src_iface", ""); iface != "" {
		device, guess := m.net.device(iface)
		if guess != "" {
			r.note(Assumed, s.at("src_iface"), "%s", guess)
		}
		r.match.iif = []string{device}
	}
	if r.sticky && r.policy != nil && (r.policy.ways[0].shared() || r.policy.ways[1].shared()) {
		r.note(Kept, s.at("sticky"), "sticky, timeout %s s: here a source keeps its uplink as long as that works, however long it is silent", quoted(s.get("timeout", "600")))
	}
	if s.flag("logging", false) {
		r.note(Kept, s.at("logging"), "logging: \"uplinkd explain --from HOST --to DESTINATION\" says which policy decides, without a log")
	}
	r.catchAll = r.match.empty()
	return r
}

// addresses reads sources, destinations and ipsets.
func (m *mwan3) addresses(s *uciSection, r *mwanRule) {
	for _, side := range []struct {
		option string
		dst    *[]string
	}{{"src_ip", &r.match.from}, {"dest_ip", &r.match.to}} {
		words := strings.FieldsFunc(s.get(side.option, ""), func(c rune) bool { return c == ',' || c == ' ' })
		var prefixes []netip.Prefix
		for _, w := range words {
			p, ok := parseAddresses(w)
			switch {
			case strings.HasPrefix(w, "!"):
				r.nothing = side.option + " " + quoted(w) + " is no address to mwan3"
			case ok && p[0].Addr().IsUnspecified() && p[0].IsSingleIP():
				r.nothing = side.option + " " + quoted(w) + " is one address, which no packet has; all of them are " + quoted(w+"/0")
			case ok:
				prefixes = append(prefixes, p...)
			case !hostName(w):
				r.nothing = side.option + " " + quoted(w) + " is neither an address nor a name"
			default:
				set := m.domainSet(w, []string{w}, s.at(side.option))
				*side.dst = append(*side.dst, "@"+set)
			}
		}
		if len(prefixes) == 0 {
			continue
		}
		has := func(six bool) bool {
			return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
		}
		if len(*side.dst) == 0 {
			r.families[0] = r.families[0] && has(false)
			r.families[1] = r.families[1] && has(true)
		}
		prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() && !r.families[1] || p.Addr().Is4() && !r.families[0] })
		if _, whole := all(prefixes); whole {
			continue
		}
		*side.dst = append(*side.dst, texts(prefixes)...)
	}
	if r.families == (families{}) && r.nothing == "" {
		r.nothing = "its family and its addresses have nothing in common"
	}
	if name := s.get("ipset", ""); name != "" {
		if len(r.match.to) > 0 {
			r.nothing = "it has both dest_ip and an ipset, of which both must match: here destinations are one list, of which one must"
			r.note(Lost, s.at("ipset"), "write the rule anew, with what is in the set and in dest_ip")
			return
		}
		set := m.setNamed(name, func(set *set) {
			set.note(Lost, s.at("ipset"), "ipset %s was filled by something else (/etc/config/firewall, dnsmasq, a script), which must fill this set instead, as in nft add element inet uplinkd_policy %s4 '{ 192.0.2.0/24 }'; a fixed list goes into addresses = [...]. Until then it is empty",
				quoted(name), set.name)
		})
		r.match.to = []string{"@" + set.name}
	}
}

// domainSet makes a set of host names' addresses.
func (d *draft) domainSet(name string, domains []string, at origin) string {
	return d.setNamed(name, func(s *set) {
		for i := range domains {
			domains[i] = strings.Trim(quoted(domains[i]), `"`)
		}
		s.note(Lost, at, "the addresses of names are only known to who asks for them: let dnsmasq fill this set, with the line nftset=/%s/4#inet#uplinkd_policy#%s4,6#inet#uplinkd_policy#%s6 in its configuration. Until it has, the set is empty",
			strings.Join(domains, "/"), s.name, s.name)
	}).name
}

// ports reads the protocol and ports.
func (m *mwan3) ports(s *uciSection, r *mwanRule) {
	proto := strings.ToLower(s.get("proto", "all"))
	names := strings.Fields(proto)
	if len(names) > 1 {
		r.note(Changed, s.at("proto"), "mwan3 takes one protocol, and fails with %s; here both are meant", quoted(proto))
	}
	for _, name := range names {
		word, ok := protocolText(name)
		switch {
		case name == "all" || name == "any":
		case !ok:
			r.nothing = "protocol " + quoted(name) + " is not known"
			return
		default:
			r.match.protocols = append(r.match.protocols, word)
		}
	}
	ported := len(r.match.protocols) > 0 && !slices.ContainsFunc(r.match.protocols, func(p string) bool { return p != "tcp" && p != "udp" })
	for _, side := range []struct {
		option string
		dst    *[]string
	}{{"src_port", &r.match.sport}, {"dest_port", &r.match.dport}} {
		words := strings.FieldsFunc(s.get(side.option, ""), func(c rune) bool { return c == ',' || c == ' ' })
		if len(words) == 0 {
			continue
		}
		if !ported {
			r.note(Changed, s.at(side.option), "%s without proto tcp or udp: mwan3 leaves it out of account, so that the rule is about all ports; that is so here too. Add protocol and %s if it was meant otherwise", side.option, map[string]string{"src_port": "sport", "dest_port": "dport"}[side.option])
			continue
		}
		list, err := parsePorts(words)
		if err != nil {
			r.nothing = err.Error()
			return
		}
		*side.dst = portTexts(list)
	}
}

// defaultWays decides who carries what no policy selects: the members of what takes everything, and else what table main does.
func (m *mwan3) defaultWays(catch [2]*mwanRule, list []*mwanRule) {
	inMain := slices.DeleteFunc(slices.Clone(m.uplinks), func(u *uplink) bool { return m.net.tunnel(m.first[u]) })
	m.main = m.net.byMetric(inMain, m.first)
	for f := range catch {
		carriers := slices.DeleteFunc(slices.Clone(m.uplinks), func(u *uplink) bool { return !u.carries[f] })
		r := catch[f]
		switch {
		case len(carriers) == 0:
		case r == nil && len(list) == 0 && m.only(f) != nil:
			p := m.only(f)
			p.used = true
			m.defaults[f] = p.ways[f]
			m.missing(p)
			m.note(Changed, p.from, "there are no rules, so that mwan3 balanced nothing: policy %s, which has most interfaces, is taken for the default. Set tier and weight if that is not what you want", quoted(p.name))
		case r == nil:
			m.defaults[f] = m.ownFirst(m.main, f)
			if m.net.known {
				m.note(Kept, origin{m.system, 0}, "no rule takes all %s: what no rule took went by table main's default of the lowest metric, and the tiers below follow these metrics", families{f == 0, f == 1}.words())
			} else {
				m.note(Assumed, origin{m.system, 0}, "no rule takes all %s: what no rule took went by table main's default of the lowest metric. The tiers below follow the order of the file, since metrics are in /etc/config/network", families{f == 0, f == 1}.words())
			}
		case r.policy == nil || len(r.policy.ways[f]) == 0:
			m.defaults[f] = m.ownFirst(m.main, f)
			if r.target == "unreachable" || r.target == "blackhole" || r.policy != nil && r.policy.last != "default" {
				m.note(Lost, r.from, "rule %s refused all %s that no rule above it took: a default that is refused is a matter for the firewall here", quoted(r.name), families{f == 0, f == 1}.words())
			}
		default:
			m.defaults[f] = r.policy.ways[f]
		}
	}
	m.tiers(catch)
}

// ownFirst keeps of ways what carries a family.
func (m *mwan3) ownFirst(w ways, f int) (out ways) {
	for _, tier := range w {
		tier = slices.DeleteFunc(slices.Clone(tier), func(s share) bool { return !s.uplink.carries[f] })
		if len(tier) > 0 {
			out = append(out, tier)
		}
	}
	return out
}

// only is the policy with most uplinks of a family, nil when there is none.
func (m *mwan3) only(f int) (best *mwanPolicy) {
	for _, name := range sortedKeys(m.policies) {
		if p := m.policies[name]; len(p.ways[f]) > 0 && (best == nil || len(p.ways[f].uplinks()) > len(best.ways[f].uplinks())) {
			best = p
		}
	}
	return best
}

// tiers gives uplinks the places of the default. Where IPv6 has another order than IPv4, separate makes a policy of it.
func (m *mwan3) tiers(catch [2]*mwanRule) {
	tier := make(map[*uplink]int)
	for f := range m.defaults {
		if f == 1 && m.differs() {
			continue
		}
		for i, t := range m.defaults[f] {
			for _, s := range t {
				if _, known := tier[s.uplink]; !known {
					tier[s.uplink] = i + 1
				}
			}
		}
	}
	last := 0
	for _, n := range tier {
		last = max(last, n)
	}
	for _, u := range m.uplinks {
		n, member := tier[u]
		switch {
		case member:
			u.tier = n
		case m.lastResort(catch, u) && !m.net.tunnel(m.first[u]):
			last++
			u.tier = last
			u.note(Kept, origin{m.system, 0}, "the default's last_resort was table main, where this one is too: it comes behind the default's own uplinks")
		default:
			u.noDefault = true
			u.note(Kept, origin{m.system, 0}, "only policies use it: the default never does")
		}
	}
}

// lastResort reports whether what takes everything leaves it to table main when its own members are offline.
func (m *mwan3) lastResort(catch [2]*mwanRule, u *uplink) bool {
	for f, r := range catch {
		if u.carries[f] && r != nil && r.policy != nil && r.policy.last == "default" && len(r.policy.ways[f]) > 0 {
			return true
		}
	}
	return false
}

// differs reports whether the default of IPv6 cannot be told by the tiers of IPv4's.
func (m *mwan3) differs() bool {
	four, six := m.defaults[0], m.defaults[1]
	if len(four) == 0 || len(six) == 0 {
		return false
	}
	apart := true
	for _, u := range six.uplinks() {
		apart = apart && !u.carries[0]
	}
	for _, u := range four.uplinks() {
		apart = apart && !u.carries[1]
	}
	return !apart && !six.equal(m.ownFirst(four, 1))
}

// separate adds a policy for the IPv6 default where it has an order of its own.
func (m *mwan3) separate(catch [2]*mwanRule) {
	if !m.differs() {
		return
	}
	p := m.add(&policy{ways: m.defaults[1], killSwitch: catch[1] != nil && catch[1].policy != nil && catch[1].policy.last != "default", match: match{to: everything[1]}}, "default-ipv6")
	p.note(Kept, origin{m.system, 0}, "IPv6 has another order than IPv4, and an uplink has one tier: all that no policy above takes")
}

// missing names the members of a policy that mwan3 passes over.
func (m *mwan3) missing(p *mwanPolicy) {
	for _, missing := range p.missing {
		kind := Assumed
		if strings.HasSuffix(missing, "off") {
			kind = Kept
		}
		m.note(kind, p.from, "policy %s: %s: passed over, as mwan3 does", quoted(p.name), missing)
	}
}

// emit writes a rule as a policy for each family that it treats alike.
func (m *mwan3) emit(r *mwanRule, list []*mwanRule) {
	switch {
	case r.lacking != "":
		p := m.add(&policy{remarked: r.remarked, off: true, unknown: "policy " + r.lacking, match: r.match}, r.name)
		p.note(Lost, r.from, "%s: write its uplinks and take the # away", r.nothing)
		return
	case r.nothing != "":
		kind := Lost
		why, same := strings.CutPrefix(r.nothing, kept)
		if same {
			kind = Kept
		}
		m.note(kind, r.from, "rule %s is left out: %s", quoted(r.name), why)
		for _, o := range r.remarks {
			m.note(o.Kind, origin{o.File, o.Line}, "rule %s: %s", quoted(r.name), o.Text)
		}
		return
	case r.target == "unreachable" || r.target == "blackhole":
		if !r.catchAll {
			m.note(Lost, r.from, "rule %s refused its traffic (%s): that is a matter for the firewall here, such as nft add rule inet fw4 forward ... reject", quoted(r.name), r.match.words())
		}
		return
	case r.target == "default":
		if !r.catchAll {
			m.toMain(r)
		}
		return
	}
	p := r.policy
	m.missing(p)
	if len(p.name) > 15 {
		r.note(Changed, p.from, "mwan3 takes no names of more than 15 characters, so that policy %s did nothing there; here it does", quoted(p.name))
	}
	quiet := r.catchAll && !(r.sticky && (r.shared(0) || r.shared(1))) && !m.closed(r)
	if p.last == "blackhole" && !quiet {
		r.note(Changed, p.from, "last_resort blackhole dropped in silence; here senders are told that there is no way, so that programs give up at once")
	}
	if quiet {
		for _, o := range r.remarks {
			m.note(o.Kind, origin{o.File, o.Line}, "rule %s: %s", quoted(r.name), o.Text)
		}
		return
	}
	if r.families == both && len(p.ways[0]) > 0 && len(p.ways[1]) > 0 && !p.ways[0].equal(p.ways[1]) && !p.ways[0].equal(m.ownFirst(p.ways[1], 0)) {
		for f, suffix := range []string{"-ipv4", "-ipv6"} {
			m.one(r, families{f == 0, f == 1}, p.ways[f], suffix, list)
		}
		return
	}
	f := 0
	if !r.families[0] || len(p.ways[0]) == 0 && r.families[1] {
		f = 1
	}
	w := p.ways[f]
	if r.families == both && len(p.ways[f]) < len(p.ways[1-f]) {
		w = p.ways[1-f]
	}
	if len(w) == 0 {
		kind, what := Kept, "left it to table main: the default takes it here"
		if p.last != "default" {
			kind, what = Lost, "refused its traffic ("+r.match.words()+"). Here later policies and the default take it"
		}
		m.note(kind, r.from, "rule %s: policy %s has no interface of %s that is turned on, so that mwan3 %s", quoted(r.name), quoted(p.name), r.families.words(), what)
		return
	}
	fams := r.families
	if fams == both && len(p.ways[1-f]) == 0 {
		// The policy has members of one family only: the other is refused by last_resort, or left to main.
		other := slices.ContainsFunc(w.uplinks(), func(u *uplink) bool { return u.carries[1-f] })
		switch {
		case p.last == "default":
			fams = families{f == 0, f == 1}
		case other:
			r.note(Changed, r.from, "%s of this rule was refused, because policy %s has no interface for it: here it goes by the same uplinks", families{f == 1, f == 0}.words(), quoted(p.name))
		default:
			r.note(Kept, r.from, "%s of this rule is refused, as by mwan3, because policy %s has no interface for it: to = [\"0.0.0.0/1\", \"128.0.0.0/1\"] would be for IPv4 alone", families{f == 1, f == 0}.words(), quoted(p.name))
		}
	}
	m.one(r, fams, w, "", list)
}

// closed reports whether what takes everything must be kept from uplinks that are not its own.
func (m *mwan3) closed(r *mwanRule) bool {
	return r.policy.last != "default" && slices.ContainsFunc(m.uplinks, func(u *uplink) bool {
		return r.families[0] && u.carries[0] && len(r.policy.ways[0]) > 0 && !r.policy.ways[0].has(u) ||
			r.families[1] && u.carries[1] && len(r.policy.ways[1]) > 0 && !r.policy.ways[1].has(u)
	})
}

func (r *mwanRule) shared(f int) bool { return r.families[f] && r.policy.ways[f].shared() }

// one adds the policy of a rule.
func (m *mwan3) one(r *mwanRule, f families, w ways, suffix string, list []*mwanRule) {
	p := &policy{remarked: remarked{slices.Clone(r.remarks)}, ways: w, killSwitch: r.policy.last != "default", sticky: r.sticky, match: r.match.clone()}
	if r.catchAll {
		if p.killSwitch = m.closed(r); p.killSwitch {
			p.note(Kept, r.from, "what takes everything leaves by no other uplink, not even when its own are dead: without this policy, table main would find a way")
		}
		p.match.to = slices.Clone(everything[0])
		if f[1] && f[0] {
			p.match.to = append(p.match.to, everything[1]...)
		} else if f[1] {
			p.match.to = slices.Clone(everything[1])
		}
	} else if why := p.restrict(f); why != "" {
		p.note(Changed, r.from, "%s", why)
	}
	m.add(p, r.name+suffix)
	if p.killSwitch || r.catchAll || !laterOverlaps(r, list) {
		return
	}
	// last_resort default goes to table main at once, and asks no later rule.
	if rest := m.ownFamilies(m.main, f); slices.ContainsFunc(rest.uplinks(), func(u *uplink) bool { return !w.has(u) }) {
		q := &policy{ways: rest, match: p.match.clone()}
		q.note(Kept, r.from, "what %s does when its uplinks are dead: last_resort default asks no later rule", p.name)
		m.add(q, p.name+"-rest")
	}
}

// ownFamilies keeps of ways what carries one of the families.
func (m *mwan3) ownFamilies(w ways, f families) (out ways) {
	for _, tier := range w {
		tier = slices.DeleteFunc(slices.Clone(tier), func(s share) bool { return !(f[0] && s.uplink.carries[0] || f[1] && s.uplink.carries[1]) })
		if len(tier) > 0 {
			out = append(out, tier)
		}
	}
	return out
}

// toMain writes a rule that leaves its traffic to table main.
func (m *mwan3) toMain(r *mwanRule) {
	w := m.ownFamilies(m.main, r.families)
	if len(w) == 0 {
		m.note(Kept, r.from, "rule %s left its traffic to table main: the default takes it", quoted(r.name))
		return
	}
	p := &policy{remarked: remarked{slices.Clone(r.remarks)}, ways: w, match: r.match.clone()}
	kind, how := Kept, "in the order of the metrics"
	if !m.net.known {
		kind, how = Assumed, "in the order of the file, since metrics are in /etc/config/network"
	}
	p.note(kind, r.from, "use_policy default: table main's default, %s. Local networks and static routes need no policy: they always win", how)
	if why := p.restrict(r.families); why != "" {
		p.note(Changed, r.from, "%s", why)
	}
	m.add(p, r.name)
}

// laterOverlaps reports whether some later rule may be about traffic of this one.
func laterOverlaps(r *mwanRule, list []*mwanRule) bool {
	i := slices.Index(list, r)
	return slices.ContainsFunc(list[i+1:], func(o *mwanRule) bool {
		return o.nothing == "" && !o.catchAll && (o.families[0] && r.families[0] || o.families[1] && r.families[1]) &&
			(o.policy != r.policy || o.target != r.target) && o.match.mayMeet(&r.match)
	})
}

// unusedPolicies names what no rule uses.
func (m *mwan3) unusedPolicies() {
	var names []string
	for _, name := range sortedKeys(m.policies) {
		if !m.policies[name].used {
			names = append(names, quoted(name))
		}
	}
	if len(names) > 0 {
		m.note(Kept, origin{m.system, 0}, "no rule uses the policies %s: left out", strings.Join(names, ", "))
	}
}
