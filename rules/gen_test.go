package rules_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

var numbers = rules.Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117}

// Hosts on the Internet that no network of the generated worlds covers.
var internet = map[rules.Family]netip.Addr{
	rules.IPv4: netip.MustParseAddr("192.0.2.77"),
	rules.IPv6: netip.MustParseAddr("2001:db8:ffff::77"),
}

// world is a machine, what its owner configured, and what its providers give it.
type world struct {
	*machine
	cfg       rules.Config
	verdicts  map[rules.Path]rules.Verdict
	providers map[string]provider // by device
	lans      []string
}

// provider is what is found behind a device: the addresses and gateways that DHCP or router
// advertisements would give, whether or not the configuration lets them.
type provider map[rules.Family]supply

// supply is one family of a provider.
type supply struct {
	address netip.Prefix // zero: none (IPv6 with a link-local address only)
	gateway netip.Addr   // zero: on-link
	route   bool         // there is a default
	metric  uint32       // of the default that others install
	source  netip.Prefix // on lo, which that default prefers; zero: none
}

// GoString makes rapid print a counterexample in the words of ip(8).
func (w *world) GoString() string { return w.String() }

func (w *world) String() string {
	var b strings.Builder
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		fmt.Fprintf(&b, "\nuplink %s id %d dev %s tier %d weight %d", u.Name, u.ID, u.Device, u.Tier, u.Weight)
		for _, f := range rules.Families {
			a := u.Family(f)
			if a.Enabled {
				v := w.verdicts[rules.Path{Uplink: u.ID, Family: f}]
				fmt.Fprintf(&b, "\n  %v masquerade %v managed %v health %d drained %v slower %v full %v", f, a.Masquerade, a.Managed, v.Health, v.Drained, v.Slower, v.Full)
				for _, d := range u.Delegations {
					fmt.Fprintf(&b, "\n  delegates %v but %v deprecated %v translate %v", d.Prefix, d.Exclude, d.Deprecated, a.PrefixNAT)
				}
				if a.Assign != nil {
					fmt.Fprintf(&b, " assign %v via %v", a.Assign.Addresses[0].Prefix, a.Assign.Gateway)
				}
			}
		}
	}
	for _, g := range w.cfg.Groups {
		fmt.Fprintf(&b, "\ngroup %+v", g)
	}
	for _, p := range w.cfg.Policies {
		fmt.Fprintf(&b, "\npolicy %+v", p)
	}
	for _, f := range w.cfg.Forwards {
		fmt.Fprintf(&b, "\nforward %+v", f)
	}
	for _, lan := range w.cfg.LANs {
		fmt.Fprintf(&b, "\nlan %s subnet %d from %v ula %v", lan.Device, lan.SubnetID, lan.From, lan.ULA)
	}
	for _, t := range w.cfg.Tunnels {
		fmt.Fprintf(&b, "\ntunnel %+v", t)
	}
	for _, d := range w.cfg.WireGuard {
		fmt.Fprintf(&b, "\nwireguard %+v", d)
	}
	b.WriteString(w.machine.String())
	return b.String() + "\n"
}

func (m *machine) String() string {
	var b strings.Builder
	for _, l := range m.obs.Links {
		fmt.Fprintf(&b, "\nlink %s group %d up %v carrier %v", l.Name, l.Group, l.Up, l.Carrier)
	}
	for _, t := range m.obs.Tunnels {
		fmt.Fprintf(&b, "\ntunnel %+v", t)
	}
	for _, d := range m.obs.WireGuard {
		fmt.Fprintf(&b, "\nwireguard %+v", d)
	}
	for _, a := range m.obs.Addrs {
		if !a.LinkScope {
			fmt.Fprintf(&b, "\naddress %v dev %s proto %d temporary %v deprecated %v tentative %v", a.Prefix, a.Device, a.Protocol, a.Temporary, a.Deprecated, a.Tentative)
		}
	}
	for _, r := range m.obs.Routes {
		if !r.Dst.Addr().IsLinkLocalUnicast() {
			fmt.Fprintf(&b, "\nroute %s", r)
		}
	}
	for _, r := range m.obs.Rules {
		fmt.Fprintf(&b, "\nrule %v %s", r.Family, r)
	}
	for _, name := range slices.Sorted(maps.Keys(m.obs.Sysctls)) {
		if m.obs.Sysctls[name] != "0" {
			fmt.Fprintf(&b, "\n%s = %s", name, m.obs.Sysctls[name])
		}
	}
	if len(m.obs.Recorded.Groups)+len(m.obs.Recorded.Sysctls)+len(m.obs.Recorded.Addrs) > 0 {
		fmt.Fprintf(&b, "\nrecorded %+v", m.obs.Recorded)
	}
	return b.String()
}

// draw is a shorthand for what generators do all the time.
func draw(t *rapid.T, label string, limit int) int { return rapid.IntRange(0, limit-1).Draw(t, label) }
func often(t *rapid.T, label string) bool          { return draw(t, label, 4) != 3 }
func seldom(t *rapid.T, label string) bool         { return draw(t, label, 5) == 4 }
func flip(t *rapid.T, label string) bool           { return rapid.Bool().Draw(t, label) }

// worlds generates machines in which nothing of ours stands but what an earlier run may have left.
func worlds() *rapid.Generator[*world] {
	return rapid.Custom(func(t *rapid.T) *world {
		w := newWorld()
		for n := range rapid.IntRange(1, 6).Draw(t, "uplinks") {
			w.addUplink(t, n)
		}
		for n := range draw(t, "lans", 3) {
			w.addLAN(t, n+1)
		}
		w.drawDelegations(t)
		if flip(t, "tunnels") {
			w.drawTunnels(t)
		}
		w.drawPolicies(t)
		w.drawForwards(t)
		if flip(t, "has resolvers") {
			w.drawResolvers(t)
		}
		if seldom(t, "translators") {
			w.drawTranslators(t)
		}
		if seldom(t, "hardware addresses") {
			w.drawHardware(t)
		}
		w.addSysctls(t)
		if seldom(t, "others masquerade") {
			for _, f := range rules.Families {
				if u := &w.cfg.Uplinks[0]; u.Family(f).Masquerade {
					w.obs.Translations = append(w.obs.Translations, rules.Translation{Family: f, Only: []string{u.Device}, By: "inet fw4"})
				}
			}
		}
		if seldom(t, "vpn") {
			w.addVPN()
		}
		if flip(t, "foreign") {
			w.addForeign(t)
		}
		if flip(t, "orphans") {
			w.addOrphans(t)
		}
		return w
	})
}

// drawHardware gives devices link-layer addresses, of which some are to have others.
func (w *world) drawHardware(t *rapid.T) {
	for i := range w.obs.Links {
		w.obs.Links[i].Hardware = netcfg.Hardware{2, 5: byte(w.obs.Links[i].Index)}
	}
	for i := range w.cfg.Uplinks {
		if u := &w.cfg.Uplinks[i]; !tunnelName(u.Device) && flip(t, "has another hardware address") {
			u.Hardware = netcfg.Hardware{2, 1, 5: byte(draw(t, "hardware address", 3))}
		}
	}
}

// drawDelegations has providers delegate prefixes, and gives the LANs a part of them.
func (w *world) drawDelegations(t *rapid.T) {
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		if u.IPv6.Enabled && flip(t, "delegates") {
			u.Delegations = drawDelegations(t, i)
			u.IPv6.PrefixNAT = seldom(t, "translate")
		} else if a := u.IPv6.Assign; u.IPv6.Enabled && a != nil && a.Addresses[0].Prefix.Bits() == 64 && !w.isElsewhere(u, a.Addresses[0].Prefix) && flip(t, "shares") {
			u.Delegations = []rules.Delegation{{Prefix: a.Addresses[0].Prefix.Masked(), Deprecated: seldom(t, "deprecated"), Shared: true}}
			for n := range uint64(draw(t, "hosts", 3)) {
				host := addressOf(a.Addresses[0].Prefix.Masked(), 0xbeef00+n)
				if hosts := &u.Proxied; flip(t, "on the line") {
					hosts.Line = append(hosts.Line, host)
				} else {
					hosts.LAN = append(hosts.LAN, host)
				}
			}
		}
	}
	for n, device := range w.lans {
		lan := rules.LAN{Device: device, SubnetID: n + draw(t, "subnet id", 2)*7}
		for i := range w.cfg.Uplinks {
			if often(t, "draws on it") {
				lan.From = append(lan.From, w.cfg.Uplinks[i].ID)
			}
		}
		if flip(t, "ula") {
			lan.ULA = netip.MustParsePrefix(fmt.Sprintf("fd00:77:0:%x::/64", n))
		}
		w.cfg.LANs = append(w.cfg.LANs, lan)
	}
}

// drawTranslators has uplinks carry IPv4 by a translator, whose device comes and goes.
func (w *world) drawTranslators(t *rapid.T) {
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		if !u.IPv6.Enabled || flip(t, "carries IPv4 itself") {
			continue
		}
		c := rules.CLAT{Device: fmt.Sprintf("clat%d", u.ID), Addr4: netip.AddrFrom4([4]byte{192, 0, 0, byte(i + 1)}), Addr6: netip.MustParseAddr(fmt.Sprintf("fd75:706c::%d", u.ID))}
		if often(t, "NAT64") {
			c.NAT64 = netip.MustParsePrefix("64:ff9b::/96")
		}
		line, tun := u.Translate(c)
		w.cfg.Uplinks[i] = line
		w.cfg.Uplinks, w.providers[c.Device] = append(w.cfg.Uplinks, tun), provider{}
		if often(t, "translator runs") {
			w.plug(rules.Link{Name: c.Device, Up: flip(t, "translator up"), Carrier: true, MTU: 1500, PointToPoint: true, NoNeighbours: true})
		}
	}
}

// translates reports whether a translator sends, or did, with an address.
func translates(address netip.Prefix) bool {
	return address.IsSingleIP() && netip.MustParsePrefix("fd75:706c::/64").Contains(address.Addr())
}

// addressOf returns the address of a network with an interface identifier.
func addressOf(network netip.Prefix, id uint64) netip.Addr {
	b := network.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], id)
	return netip.AddrFrom16(b)
}

// isShared reports whether a prefix is of the network of a line that a LAN has too.
func (w *world) isShared(p netip.Prefix) bool {
	return slices.ContainsFunc(w.cfg.Uplinks, func(u rules.Uplink) bool {
		return slices.ContainsFunc(u.Delegations, func(d rules.Delegation) bool { return d.Shared && d.Prefix.Contains(p.Addr()) })
	})
}

// isElsewhere reports whether another uplink is in the network of one, as twins are: a line that shares its network has it to itself.
func (w *world) isElsewhere(u *rules.Uplink, network netip.Prefix) bool {
	for i := range w.cfg.Uplinks {
		if a := w.cfg.Uplinks[i].IPv6.Assign; &w.cfg.Uplinks[i] != u && a != nil && slices.ContainsFunc(a.Addresses, func(other rules.Address) bool { return other.Prefix.Overlaps(network) }) {
			return true
		}
	}
	return slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device != u.Device && a.Prefix.Overlaps(network) })
}

// drawDelegations draws what the nth provider delegates: a network, a single /64, or two of them.
func drawDelegations(t *rapid.T, n int) []rules.Delegation {
	var list []rules.Delegation
	for i := range 1 + draw(t, "more", 2) {
		d := rules.Delegation{Deprecated: seldom(t, "deprecated"), Prefix: netip.MustParsePrefix(
			fmt.Sprintf("2001:db8:%x%x00::/%d", 0xc+draw(t, "renumbered", 2), n<<1+i, rapid.SampledFrom([]int{56, 60, 64}).Draw(t, "length")))}
		if d.Prefix.Bits() < 64 && seldom(t, "exclude") {
			d.Exclude = netip.PrefixFrom(d.Prefix.Addr(), 64)
		}
		list = append(list, d)
	}
	return list
}

func newWorld() *world {
	w := &world{machine: &machine{numbers: numbers}, verdicts: make(map[rules.Path]rules.Verdict), providers: make(map[string]provider)}
	w.cfg.Kernel = numbers
	w.obs.Sysctls = map[string]string{"net/ipv4/fib_multipath_hash_policy": "0", "net/ipv6/fib_multipath_hash_policy": "0"}
	for _, key := range sysctlKeys {
		w.obs.Sysctls["net/ipv4/conf/all/"+key], w.obs.Sysctls["net/ipv4/conf/default/"+key] = "0", "0"
	}
	for _, f := range rules.Families {
		for _, r := range []struct {
			pref  int
			table uint32
		}{{0, tableLocal}, {32766, netcfg.TableMain}, {32767, 253}} {
			if f == rules.IPv6 && r.table == 253 {
				continue
			}
			w.obs.Rules = append(w.obs.Rules, netcfg.Rule{Family: f, Priority: r.pref, Table: r.table,
				SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: protoKernel})
		}
	}
	w.plug(rules.Link{Name: "lo", Up: true, Carrier: true, Loopback: true})
	return w
}

func (w *world) addUplink(t *rapid.T, n int) {
	device := fmt.Sprintf("wan%d", n+1)
	u := rules.Uplink{ID: n + 1, Name: fmt.Sprintf("up%d", n+1), Device: device,
		Tier: 1 + draw(t, "tier", 3), Weight: 1 + draw(t, "weight", 4)}
	if seldom(t, "high id") {
		u.ID = rules.MaxUplinks - n
	}
	link := rules.Link{Name: device, Up: true, Carrier: true, MTU: 1500, PointToPoint: seldom(t, "ppp")}
	link.NoNeighbours = link.PointToPoint || seldom(t, "noarp")
	w.providers[device] = provider{rules.IPv4: drawIPv4(t, link.PointToPoint), rules.IPv6: drawIPv6(t, n, link.PointToPoint)}
	for _, f := range rules.Families {
		a := w.drawAddressing(t, device, f)
		if f == rules.IPv6 {
			u.IPv6 = a
		} else {
			u.IPv4 = a
		}
		w.verdicts[rules.Path{Uplink: u.ID, Family: f}] = drawVerdict(t)
		if seldom(t, "not judged") {
			delete(w.verdicts, rules.Path{Uplink: u.ID, Family: f})
		}
	}
	w.cfg.Uplinks = append(w.cfg.Uplinks, u)
	w.plug(link)
	w.provision(device)
	w.drawExtras(t, device)
	switch draw(t, "device state", 8) {
	case 5:
		_ = w.changeLink(device, func(l *rules.Link) { l.Carrier = false })
	case 6:
		w.setDown(device)
	case 7:
		w.unplug(device)
	}
}

// drawIPv4 draws from few subnets and few hosts, so that uplinks share them, even whole addresses.
func drawIPv4(t *rapid.T, ppp bool) supply {
	subnet := fmt.Sprintf("198.51.100.%d", 64*draw(t, "subnet", 4))
	base := netip.MustParseAddr(subnet).As4()
	host := func(n int) netip.Addr {
		b := base
		b[3] += byte(n)
		return netip.AddrFrom4(b)
	}
	s := supply{address: netip.PrefixFrom(host(2+draw(t, "host", 3)), 26), gateway: host(1), route: often(t, "ipv4 default"),
		metric: rapid.SampledFrom([]uint32{100, 200, 300, 0, 1}).Draw(t, "metric")}
	if ppp {
		s.address, s.gateway = netip.PrefixFrom(s.address.Addr(), 32), netip.Addr{}
	}
	if !ppp && seldom(t, "a mask that covers the Internet") {
		s.address = netip.PrefixFrom(s.address.Addr(), rapid.SampledFrom([]int{2, 8}).Draw(t, "mask"))
	}
	if seldom(t, "source on lo") {
		s.source = netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", 10+draw(t, "which", 5)))
	}
	return s
}

func drawIPv6(t *rapid.T, n int, ppp bool) supply {
	s := supply{gateway: netip.MustParseAddr("fe80::1"), route: often(t, "ipv6 default"),
		metric: rapid.SampledFrom([]uint32{1024, 100, 512, 1}).Draw(t, "metric")}
	if often(t, "global address") {
		if seldom(t, "same prefix") {
			n = 0
		}
		s.address = netip.MustParsePrefix(fmt.Sprintf("2001:db8:a%d::%d/64", n, 2+draw(t, "host", 2)))
	}
	if ppp || seldom(t, "on-link") {
		s.gateway = netip.Addr{}
	}
	return s
}

func (w *world) drawAddressing(t *rapid.T, device string, f rules.Family) rules.Addressing {
	a := rules.Addressing{Enabled: often(t, "enabled"), Masquerade: f == rules.IPv4 && often(t, "masquerade") || seldom(t, "masquerade6")}
	supply := w.providers[device][f]
	switch draw(t, "method", 6) {
	case 4:
		if a.Managed = true; supply.address.IsValid() && often(t, "lease") {
			a.Assign = supply.assignment()
		}
	case 5:
		if supply.address.IsValid() {
			a.Assign = supply.assignment()
		}
	}
	return a
}

func (s *supply) assignment() *rules.Assignment {
	return &rules.Assignment{Addresses: []rules.Address{{Prefix: s.address}}, Gateway: s.gateway}
}

func drawVerdict(t *rapid.T) rules.Verdict {
	return rules.Verdict{Health: rapid.SampledFrom([]rules.Health{rules.Good, rules.Dead, rules.Doubtful, rules.Unknown}).Draw(t, "health"),
		Drained: seldom(t, "drained"), Slower: seldom(t, "slower"), Full: seldom(t, "full")}
}

// drawExtras gives a device more addresses, and routes that an owner may have put on it.
func (w *world) drawExtras(t *rapid.T, device string) {
	s := w.providers[device]
	if link, ok := w.obs.Link(device); !ok || !link.Up || !seldom(t, "extras") {
		return
	}
	n := device[len(device)-1] - '0'
	more := []rules.Addr{
		{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/28", 16*n+2))},
		{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:d%d::1/64", n)), Deprecated: true},
		{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:e%d::1/64", n)), Tentative: true},
		{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:a%d::1/64", n))},
		{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:ffff::%d/64", n)), Dynamic: true}, // advertised
	}
	if p := s[rules.IPv4].address; !p.IsSingleIP() {
		ip := p.Masked().Addr().As4()
		ip[3] += 20 + n
		more = append(more, rules.Addr{Device: device, Prefix: netip.PrefixFrom(netip.AddrFrom4(ip), p.Bits())})
	}
	for _, a := range more {
		if flip(t, a.Prefix.String()) {
			_ = w.addAddr(a)
		}
	}
	if gw := s[rules.IPv4].gateway; gw.IsValid() && flip(t, "static route") {
		w.addForeignRoute(static("192.0.2.128/25", device, gw, 0))
		if flip(t, "and its like") {
			w.addForeignRoute(static("192.0.2.128/25", device, gw.Next().Next().Next().Next().Next(), 0))
		}
	}
	if gw := s[rules.IPv6].gateway; gw.IsValid() && flip(t, "static route 6") {
		w.addForeignRoute(static("2001:db8:fffe::/48", device, gw, 1024))
	}
}

func static(dst, device string, gateway netip.Addr, metric uint32) netcfg.Route {
	p := netip.MustParsePrefix(dst)
	return netcfg.Route{Family: rules.FamilyOf(p.Addr()), Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p, Metric: metric,
		Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: device, Gateway: gateway, Weight: 1}}}
}

// addForeignRoute appends a route of somebody else if the kernel would take it.
func (m *machine) addForeignRoute(r netcfg.Route) {
	if m.checkNexthops(&r) == nil && !slices.ContainsFunc(m.obs.Routes, r.Equal) {
		m.obs.Routes = append(m.obs.Routes, r)
	}
}

// provision does what a DHCP client and router advertisements do on a device that is up.
func (w *world) provision(device string) {
	link, ok := w.obs.Link(device)
	u := w.uplinkOn(device)
	if !ok || !link.Up {
		return
	}
	for _, f := range rules.Families {
		s := w.providers[device][f]
		if u != nil && (u.Family(f).Managed || u.Family(f).Assign != nil) {
			continue
		}
		if s.address.IsValid() {
			_ = w.addAddr(rules.Addr{Device: device, Prefix: s.address})
		}
		if !s.route {
			continue
		}
		r := netcfg.Route{Family: f, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: f.Default(), Metric: s.metric, Protocol: protoDHCP,
			Nexthops: []netcfg.Nexthop{{Device: device, Gateway: s.gateway, Weight: 1}}}
		if f == rules.IPv6 {
			r.Protocol = protoRA
		} else if !s.gateway.IsValid() {
			r.Scope = netcfg.ScopeLink
		}
		if s.source.IsValid() {
			_ = w.addAddr(rules.Addr{Device: "lo", Prefix: s.source})
			r.Src = s.source.Addr()
		}
		w.addForeignRoute(r)
	}
}

// withdraw takes back what provision gave.
func (w *world) withdraw(device string, f rules.Family) {
	w.dropRoutes(func(r netcfg.Route) bool {
		return r.Family == f && r.IsDefault() && (r.Protocol == protoDHCP || r.Protocol == protoRA) && r.Nexthops[0].Device == device
	})
	address := w.providers[device][f].address
	if slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool {
		return a.Device == device && a.Prefix == address && a.Protocol != numbers.Protocol
	}) {
		_ = w.delAddr(device, address)
	}
}

func (w *world) uplinkOn(device string) *rules.Uplink {
	i := slices.IndexFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.Device == device })
	if i < 0 {
		return nil
	}
	return &w.cfg.Uplinks[i]
}

func (w *world) addLAN(t *rapid.T, n int) {
	device := fmt.Sprintf("lan%d", n)
	w.lans = append(w.lans, device)
	w.plug(rules.Link{Name: device, Up: true, Carrier: true})
	_ = w.addAddr(rules.Addr{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("192.168.%d.1/24", n))})
	_ = w.addAddr(rules.Addr{Device: device, Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::1/64", n))})
	if flip(t, "lan route") {
		w.addForeignRoute(static(fmt.Sprintf("10.%d.0.0/16", n), device, lanHost(n, rules.IPv4, 2), 0))
		w.addForeignRoute(static(fmt.Sprintf("2001:db8:%d00::/56", n), device, lanHost(n, rules.IPv6, 2), 1024))
	}
}

// lanHost is a host in the nth LAN.
func lanHost(n int, f rules.Family, host int) netip.Addr {
	if f == rules.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", n, host))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", n, host))
}

// behindLAN is a host that a router in the nth LAN leads to.
func behindLAN(n int, f rules.Family) netip.Addr {
	if f == rules.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d07::7", n))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.%d.7.7", n))
}

func (w *world) addSysctls(t *rapid.T) {
	value := rapid.SampledFrom([]string{"0", "1", "2"})
	w.obs.Sysctls["net/ipv4/conf/all/rp_filter"] = value.Draw(t, "rp_filter")
	w.obs.Sysctls["net/ipv4/fib_multipath_hash_policy"] = value.Draw(t, "hash policy")
	if seldom(t, "src_valid_mark") {
		w.obs.Sysctls["net/ipv4/conf/all/src_valid_mark"] = "1"
	}
	for _, l := range w.obs.Links {
		w.obs.Sysctls["net/ipv4/conf/"+l.Name+"/rp_filter"] = value.Draw(t, "rp_filter of "+l.Name)
	}
}

// addVPN puts up a tunnel that is no uplink, with the routes that VPN clients install to precede the
// default without replacing it.
func (w *world) addVPN() {
	w.plug(rules.Link{Name: "vpn0", Up: true, Carrier: true, PointToPoint: true})
	_ = w.addAddr(rules.Addr{Device: "vpn0", Prefix: netip.MustParsePrefix("172.16.9.2/24")})
	for _, dst := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
		w.addForeignRoute(static(dst, "vpn0", netip.Addr{}, 0))
	}
	w.addForeignRoute(static("2000::/3", "vpn0", netip.Addr{}, 1024))
}

// addForeign adds rules and routes of other programs that do not take our traffic.
func (w *world) addForeign(t *rapid.T) {
	other := func(priority int, table uint32) netcfg.Rule {
		return netcfg.Rule{Family: rules.IPv4, Priority: priority, Table: table, SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: protoBird}
	}
	candidates := []netcfg.Rule{other(5270, 52), other(10000, 52), other(10150, 52), other(32000, netcfg.TableMain)}
	candidates[1].From = netip.MustParsePrefix("172.31.0.0/16")
	candidates[2].Mark, candidates[2].Mask = 0x80000, 0xff0000
	for _, r := range candidates {
		if flip(t, "rule "+r.String()) {
			_ = w.addRule(r)
		}
	}
	unreachable := netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unreachable, Dst: netip.MustParsePrefix("172.31.0.0/16"), Protocol: protoBird}
	w.addForeignRoute(unreachable)
	unreachable.Table = 52
	w.addForeignRoute(unreachable)
	if flip(t, "last resort default") {
		w.addForeignRoute(netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unreachable, Dst: rules.IPv4.Default(),
			Metric: 4294967290, Protocol: protoStatic})
	}
	if len(w.lans) > 0 && seldom(t, "default by lan") {
		w.addForeignRoute(static("0.0.0.0/0", w.lans[0], lanHost(1, rules.IPv4, 2), rapid.SampledFrom([]uint32{50, 0, 1}).Draw(t, "metric")))
	}
	if seldom(t, "multipath default") {
		w.addMultipathDefault()
	}
}

// addMultipathDefault installs a default over all IPv4 gateways, as some distributions' scripts do.
func (w *world) addMultipathDefault() {
	r := static("0.0.0.0/0", "", netip.Addr{}, 20)
	r.Nexthops = nil
	for i := range w.cfg.Uplinks {
		device := w.cfg.Uplinks[i].Device
		hop := netcfg.Nexthop{Device: device, Gateway: w.providers[device][rules.IPv4].gateway, Weight: 1 + i}
		if one := (netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Nexthops: []netcfg.Nexthop{hop}}); w.checkNexthops(&one) == nil {
			r.Nexthops = append(r.Nexthops, hop)
		}
	}
	if len(r.Nexthops) > 1 {
		w.addForeignRoute(r)
	}
}

// addOrphans leaves what an earlier run with another configuration may have left: routes and rules with
// our number, devices in our group, addresses with our tag, records.
func (w *world) addOrphans(t *rapid.T) {
	for _, l := range w.obs.Links {
		if l.Loopback || !l.Up || !flip(t, "orphans on "+l.Name) {
			continue
		}
		_ = w.changeLink(l.Name, func(l *rules.Link) { l.Group = numbers.LinkGroup })
		record(&w.obs.Recorded.Groups, l.Name, 7)
		if seldom(t, "address") {
			_ = w.addAddr(rules.Addr{Device: l.Name, Prefix: netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/32", 200+l.Index)), Protocol: numbers.Protocol})
		}
		if seldom(t, "sysctl") {
			record(&w.obs.Recorded.Sysctls, "net/ipv4/conf/"+l.Name+"/src_valid_mark", "0")
			w.obs.Sysctls["net/ipv4/conf/"+l.Name+"/src_valid_mark"] = "1"
		}
		id := 1 + draw(t, "id", rules.MaxUplinks)
		if seldom(t, "in a table of ours") {
			id = 1
		}
		r := static("0.0.0.0/0", l.Name, netip.Addr{}, rapid.SampledFrom([]uint32{0, 9}).Draw(t, "metric"))
		r.Table, r.Protocol, r.Scope = numbers.Table(id), numbers.Protocol, netcfg.ScopeLink
		if flip(t, "in main") {
			r.Table = netcfg.TableMain
		}
		_ = w.putRoute(r, true)
		if slices.ContainsFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.ID == id }) ||
			slices.ContainsFunc(w.cfg.Groups, func(g rules.Group) bool { return g.ID == id }) || w.isUnderlay(id) {
			continue // ids are kept over restarts: another device's rule does not lead to this table
		}
		_ = w.addRule(netcfg.Rule{Family: rules.IPv4, Priority: numbers.RulePriority + 99 + id, OIF: l.Name, Table: numbers.Table(id),
			SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: numbers.Protocol})
	}
	if flip(t, "table") {
		w.obs.Table = &nft.Table{Chains: []nft.Chain{{Name: "old", Type: "filter", Hook: "prerouting"}}}
	}
}

func record[V any](m *map[string]V, name string, value V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[name] = value
}
