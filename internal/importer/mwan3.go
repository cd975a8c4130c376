package importer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// mwan3 is one of its configurations, as it understands them: net/mwan3 of github.com/openwrt/packages, version 2.11.
type mwan3 struct {
	*draft
	net        *network
	interfaces map[string]*mwanInterface
	defined    []string // names of interfaces, enabled or not
	members    map[string]*mwanMember
	policies   map[string]*mwanPolicy
	first      map[*uplink]string // the interface that an uplink is named after
	main       ways               // what table main does: its default of the lowest metric
}

type mwanInterface struct {
	name   string
	uplink *uplink
	family int
}

type mwanMember struct {
	of             string
	metric, weight int
}

// mwanPolicy is a policy, with the members that count by family.
type mwanPolicy struct {
	name    string
	from    origin
	ways    [2]ways
	last    string // last_resort: "default", "unreachable" or "blackhole"
	used    bool
	missing []string
}

// know takes options for known, also those of sections that are not translated.
func (d *draft) know(u *uciFile, kinds map[string]string) {
	for _, s := range u.sections {
		names, ok := kinds[s.kind]
		if !ok {
			if s.pkg == "" || s.pkg == d.system {
				d.note(Lost, s.from, "a section %s is nothing that %s has", quoted(s.kind), d.system)
			}
			for _, o := range s.options {
				o.used = true
			}
			continue
		}
		for _, o := range s.options {
			o.used = slices.Contains(strings.Fields(names), o.name)
		}
	}
}

// number reads an option's number, saying when it is none.
func (d *draft) number(r *remarked, s *uciSection, option string, absent, low, high int) int {
	v := s.get(option, "")
	if v == "" {
		return absent
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.note(Lost, s.at(option), "%s %s is no number from %d to %d: taken as %d", option, quoted(v), low, high, min(max(absent, low), high))
		return min(max(absent, low), high)
	}
	return n
}

func fromMwan3(d *draft, u *uciFile, n *network) {
	m := &mwan3{draft: d, net: n, interfaces: make(map[string]*mwanInterface), members: make(map[string]*mwanMember),
		policies: make(map[string]*mwanPolicy), first: make(map[*uplink]string)}
	d.know(u, map[string]string{
		"globals": "mmx_mask logging loglevel local_source rtmon_interval rt_table_lookup enabled",
		"interface": "enabled family initial_state track_method track_ip reliability count size max_ttl timeout interval failure_interval " +
			"recovery_interval keep_failure_interval down up check_quality failure_latency recovery_latency failure_loss recovery_loss flush_conntrack httping_ssl",
		"member": "interface metric weight",
		"policy": "use_member last_resort",
		"rule":   "family proto src_ip src_port src_iface dest_ip dest_port ipset sticky timeout use_policy logging",
	})
	of := func(kind string) (list []*uciSection) {
		for _, s := range u.sections {
			if s.kind == kind {
				list = append(list, s)
			}
		}
		return list
	}
	for _, s := range of("globals") {
		m.globals(s)
	}
	for _, s := range of("interface") {
		m.defined = append(m.defined, s.name)
	}
	// IPv4 first: an IPv6 interface mostly has the device of one of these.
	sections := of("interface")
	slices.SortStableFunc(sections, func(a, b *uciSection) int { return familyOf(a) - familyOf(b) })
	for _, s := range sections {
		m.iface(s)
	}
	// uplinks in the order of the file
	slices.SortStableFunc(d.uplinks, func(a, b *uplink) int {
		return slices.Index(m.defined, m.first[a]) - slices.Index(m.defined, m.first[b])
	})
	m.assume()
	for _, s := range of("member") {
		m.member(s)
	}
	for _, s := range of("policy") {
		m.policy(s)
	}
	m.rules(of("rule"))
}

// assume says in one sentence which names stand for devices, where there are several.
func (m *mwan3) assume() {
	if m.net.known || len(m.uplinks) == 0 {
		return
	}
	names := make([]string, len(m.uplinks))
	for i, u := range m.uplinks {
		names[i] = u.device
	}
	m.note(Assumed, origin{m.system, 0}, "devices are the interfaces' own names (%s), because no --network file was given: use --network /etc/config/network, or write the devices in",
		strings.Join(names, ", "))
}

func familyOf(s *uciSection) int {
	if s.get("family", "ipv4") == "ipv6" {
		return 1
	}
	return 0
}

func (m *mwan3) globals(s *uciSection) {
	if mask := s.get("mmx_mask", "0x3F00"); mask != "" {
		m.note(Kept, s.at("mmx_mask"), "mmx_mask %s: uplinkd marks with 0x3f000000 and leaves all other bits alone. Firewall rules of yours that set mwan3's marks do nothing now; a [[policy]] with fwmark takes their place.", quoted(mask))
	}
	if !s.flag("enabled", true) {
		m.note(Changed, s.at("enabled"), "mwan3 was turned off: what is below was not in force")
	}
	for _, table := range s.words("rt_table_lookup") {
		if table == "220" {
			m.note(Kept, s.at("rt_table_lookup"), "rt_table_lookup 220: strongSwan's rule for its table stands before uplinkd's, so that IPsec goes on as it does")
			continue
		}
		m.note(Lost, s.at("rt_table_lookup"), "rt_table_lookup %s: what that table leads to was left alone; uplinkd looks at table main alone. Put a rule before its own (10000): ip rule add pref 9000 lookup %s suppress_prefixlength 0", quoted(table), quoted(table))
	}
	if v := s.get("local_source", "none"); v != "none" {
		m.note(Kept, s.at("local_source"), "local_source %s: what the router itself sends has the address of the uplink that it leaves by", quoted(v))
	}
}

// samePort finds the interface whose device an IPv6 interface of such a name shares, by OpenWrt's habits.
func (m *mwan3) samePort(name string) *mwanInterface {
	for _, suffix := range []string{"_6", "-6", "_v6", "v6", "6"} {
		base, ok := strings.CutSuffix(strings.ToLower(name), suffix)
		if !ok || base == "" {
			continue
		}
		for _, spelled := range []string{base, base + "4", base + "_4", base + "v4"} {
			for _, i := range m.interfaces {
				if strings.ToLower(i.name) == spelled && i.family == 0 {
					return i
				}
			}
		}
	}
	return nil
}

// iface makes an uplink of an interface, or gives its family to the uplink that has the device already.
func (m *mwan3) iface(s *uciSection) {
	if s.name == "" {
		m.note(Lost, s.from, "an interface without a name: left out")
		return
	}
	family := familyOf(s)
	if !s.flag("enabled", false) {
		m.note(Kept, s.from, "interface %s is turned off (enabled is not 1): left out, as mwan3 does", quoted(s.name))
		return
	}
	i := &mwanInterface{name: s.name, family: family}
	device, guess := m.net.device(s.name)
	if family == 1 && !m.net.known {
		if base := m.samePort(s.name); base != nil {
			device = base.uplink.device
			guess = fmt.Sprintf("interface %s is taken for the IPv6 of %s, on one device", quoted(s.name), quoted(base.name))
			m.note(Assumed, s.from, "%s", guess)
		}
	}
	at := slices.IndexFunc(m.uplinks, func(u *uplink) bool { return u.device == device })
	switch {
	case at < 0:
		i.uplink = m.uplinkNamed(s.name, device)
		m.first[i.uplink] = s.name
		m.net.wireguard(i.uplink, s.name, s.from)
	case !m.uplinks[at].carries[family]:
		i.uplink = m.uplinks[at]
		if m.net.known {
			i.uplink.note(Kept, s.from, "%s and %s are one uplink: both have the device %s", m.first[i.uplink], s.name, quoted(device))
		}
	default:
		i.uplink = m.uplinks[at]
		i.uplink.note(Lost, s.from, "interface %s has the same device %s: here a device is one uplink, and what went by %s goes by this one", quoted(s.name), quoted(device), quoted(s.name))
		m.interfaces[s.name] = i
		return
	}
	i.uplink.carries[family] = true
	if m.net.known && guess != "" {
		i.uplink.note(Assumed, s.from, "%s", guess)
	}
	if n := m.net.interfaces[s.name]; n != nil && n.off {
		i.uplink.note(Changed, n.from, "interface %s is disabled in the network file", quoted(s.name))
	}
	m.interfaces[s.name] = i
	m.probe(s, i)
}

// probe translates how an interface is tracked: whom to ask is kept, how often is not, since that decides how long an outage lasts.
func (m *mwan3) probe(s *uciSection, i *mwanInterface) {
	u := i.uplink
	prefix := ""
	if len(m.first) > 0 && m.first[u] != s.name {
		prefix = s.name + ": "
	}
	say := func(kind Kind, option, format string, args ...any) {
		u.note(kind, s.at(option), "%s%s", prefix, fmt.Sprintf(format, args...))
	}
	method := s.get("track_method", "ping")
	target := map[string]string{"ping": "%s", "arping": "%s", "nping-icmp": "%s", "nping-arp": "%s", "nping-udp": "%s",
		"nping-tcp": "tcp://%s:80", "httping": "tcp://%s:80", "nslookup": "dns://%s?name=example.com"}[method]
	ssl := s.flag("httping_ssl", false)
	switch method {
	case "ping", "nping-icmp":
	case "httping":
		port := "80"
		if ssl {
			target, port = "tcp://%s:443", "443"
		}
		say(Kept, "track_method", "track_method httping: the targets are asked by opening a connection to port %s. \"http://ADDRESS/\" asks for a page: it must then answer with 2xx or 3xx, which addresses seldom do.", port)
	case "nping-tcp", "nslookup":
		say(Kept, "track_method", "track_method %s: the targets are asked in the same way", method)
	case "arping", "nping-arp", "nping-udp":
		say(Changed, "track_method", "track_method %s has no counterpart: the targets are pinged instead; make sure that they answer", method)
	default:
		target = "%s"
		say(Changed, "track_method", "track_method %s is not known, and mwan3 pings then, as this does", quoted(method))
	}
	ips := s.words("track_ip")
	count := 0
	for _, ip := range ips {
		addresses, ok := parseAddresses(ip)
		switch {
		case !ok || len(addresses) != 1 || !addresses[0].IsSingleIP():
			say(Lost, "track_ip", "target %s: targets are addresses, because a name would have to be asked for by the very uplink that is in question. Write one that \"getent ahosts %s\" shows, if it stays", quoted(ip), quoted(ip))
		case addresses[0].Addr().Is6() != (i.family == 1):
			say(Lost, "track_ip", "target %s is of the other family than the interface, and never answered", quoted(ip))
		default:
			host := addresses[0].Addr().String()
			if addresses[0].Addr().Is6() && strings.Contains(target, "://") {
				host = "[" + host + "]"
			}
			u.targets = append(u.targets, fmt.Sprintf(target, host))
			count++
		}
	}
	switch {
	case len(ips) == 0:
		say(Changed, "track_ip", "without track_ip, mwan3 takes a line for online as long as the link is up: here the default targets are asked. Name others if these cannot be reached that way")
	case count == 0:
		say(Changed, "track_ip", "no target is left: the default ones are asked")
	}
	if reliability := m.number(&u.remarked, s, "reliability", 1, 1, 100); count > 0 {
		u.minTargets[i.family] = min(reliability, count)
		if reliability > count && reliability > len(ips) {
			say(Changed, "reliability", "reliability %d could never be reached with %d targets, so that mwan3 held it for offline: here %d must answer", reliability, len(ips), count)
		}
		if other := u.minTargets[1-i.family]; other > 0 && other != u.minTargets[i.family] {
			say(Changed, "reliability", "reliability differs between IPv4 and IPv6; min_targets_up is for both, and the smaller one")
		}
	}
	m.pace(s, u, len(ips) > 0, say)
	m.quality(s, say)
}

// pace says how long mwan3 took to see an outage, and saves traffic where a long interval did.
func (m *mwan3) pace(s *uciSection, u *uplink, asked bool, say func(Kind, string, string, ...any)) {
	interval := m.number(&u.remarked, s, "interval", 10, 1, 1000000)
	failure := m.number(&u.remarked, s, "failure_interval", interval, 1, 1000000)
	recovery := m.number(&u.remarked, s, "recovery_interval", interval, 1, 1000000)
	down := m.number(&u.remarked, s, "down", 5, 1, 1000)
	up := m.number(&u.remarked, s, "up", 5, 1, 1000)
	timeout := m.number(&u.remarked, s, "timeout", 4, 1, 1000)
	text := fmt.Sprintf("mwan3 asked every %d s and gave up after %d failed rounds, some %d s later; back after %d good ones, %d s. uplinkd's own pace is kept: a first miss is confirmed within a second.",
		interval, down, (down-1)*failure+interval/2+timeout, up, up*recovery)
	if asked && interval >= 60 {
		u.metered = true
		text += " Asking so seldom is there to save traffic, which metered = true does: every 5 s while it carries, every minute else. An interval of its own would slow down its return too."
	}
	if asked {
		u.note(Kept, s.from, "%s", text)
	}
	if s.get("initial_state", "online") == "offline" {
		say(Changed, "initial_state", "initial_state offline: mwan3 used it only after its first answers; uplinkd begins with the verdict that it had when it ended, and uses a new uplink at once, until it fails")
	}
	if f := s.words("flush_conntrack"); slices.Contains(f, "never") || len(f) == 0 && s.option("flush_conntrack") != nil {
		say(Changed, "flush_conntrack", "flush_conntrack never: uplinkd deletes the connections of an uplink that has died, and no others, so that they begin anew elsewhere")
	} else if slices.Contains(f, "connected") || slices.Contains(f, "ifup") {
		say(Changed, "flush_conntrack", "flush_conntrack %s: when an uplink comes back, connections that live elsewhere stay there until they end; when it dies, its own are deleted", strings.Join(slices.Sorted(slices.Values(f)), " "))
	}
}

func (m *mwan3) quality(s *uciSection, say func(Kind, string, string, ...any)) {
	if s.flag("check_quality", false) {
		say(Changed, "check_quality", "check_quality took it off above %s ms or %s %% of loss; uplinkd judges loss by itself (\"degraded\": used when nothing better is there) and does not judge by latency: [uplink.quality] grades it for the status alone",
			quoted(s.get("failure_latency", "1000")), quoted(s.get("failure_loss", "40")))
	}
}

func (m *mwan3) member(s *uciSection) {
	r := &remarked{}
	metric := m.number(r, s, "metric", 1, 1, 256)
	weight := m.number(r, s, "weight", 1, 1, 100000)
	m.remarks = append(m.remarks, r.remarks...)
	m.members[s.name] = &mwanMember{s.get("interface", ""), metric, weight}
}

// policy picks the members of each family. Which of them mwan3 itself ignored is said when a rule uses the policy.
func (m *mwan3) policy(s *uciSection) {
	p := &mwanPolicy{name: s.name, from: s.from, last: s.get("last_resort", "unreachable")}
	var found [2][]*mwanMember
	for _, name := range s.words("use_member") {
		member := m.members[name]
		switch {
		case member == nil:
			p.missing = append(p.missing, "member "+quoted(name)+" is not defined")
		case m.interfaces[member.of] == nil && slices.Contains(m.defined, member.of):
			p.missing = append(p.missing, "interface "+quoted(member.of)+" is turned off")
		case m.interfaces[member.of] == nil:
			p.missing = append(p.missing, "interface "+quoted(member.of)+" is not defined")
		default:
			f := m.interfaces[member.of].family
			found[f] = append(found[f], member)
		}
	}
	for f := range found {
		p.ways[f] = order(found[f], func(mm *mwanMember) (*uplink, int, int) {
			return m.interfaces[mm.of].uplink, mm.metric, mm.weight
		})
	}
	if !slices.Contains([]string{"default", "unreachable", "blackhole"}, p.last) {
		m.note(Changed, s.at("last_resort"), "policy %s: last_resort %s is not known, and means unreachable to mwan3", quoted(s.name), quoted(p.last))
		p.last = "unreachable"
	}
	m.policies[s.name] = p
}
