package config

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules/encap"
)

// The sections' titles in messages.
const (
	titleDaemon = "[daemon]"
	titleKernel = "[kernel]"
	titleUplink = "[[uplink]]"
	titleIPv4   = "[uplink.ipv4]"
	titleIPv6   = "[uplink.ipv6]"
	titleProbe  = "[uplink.probe]"
)

// sections lists all of them, for messages about a key that stands in the wrong one.
func sections() []section {
	var u Uplink
	return append(encapSections(), []section{
		daemonSection(new(Daemon)), kernelSection(new(Kernel)), uplinkSection(&u),
		ipv4Section(&u.IPv4), ipv6Section(&u.IPv6), probeSection(&u.Probe), lanSection(new(LAN)), qualitySection(&u.Quality),
		tierSection(new(Tier)), recoverSection(new(Recover)), sixRDSection(new(SixRD)), bandwidthSection(new(Bandwidth)), dnsSection(new(Resolution)), uplinkDNSSection(&u.DNS), setSection(new(Set)), policySection(new(Policy), nil), tproxySection(new(TProxy), nil), forwardSection(new(Forward)),
		wireguardSection(new(WireGuard)), tunnelSection(new(Tunnel)), notifySection(new(Notify)), pairSection(new(Pair)),
	}...)
}

// rootTitle returns the title of a section of the whole document.
func rootTitle(name string) string {
	if name == "daemon" || name == "kernel" || name == "dns" || name == "pair" {
		return "[" + name + "]"
	}
	return "[[" + name + "]]"
}

// config reads the whole document.
func (r *reader) config(root *table) *Config {
	c := Default()
	r.section(root, section{"", []field{
		subtable("daemon", titleDaemon, func(r *reader, t *table) { r.section(t, daemonSection(&c.Daemon)) }),
		subtable("kernel", titleKernel, func(r *reader, t *table) { r.section(t, kernelSection(&c.Kernel)) }),
		subtable("dns", titleDNS, func(r *reader, t *table) { r.section(t, dnsSection(&c.DNS)) }),
		{name: "uplink", read: func(r *reader, v *value) {
			seen := uplinksSeen{names: make(map[string]int), devices: make(map[string]int)}
			r.tableArray(v, "uplink", "an uplink", MaxUplinks, func(t *table) { c.Uplinks = append(c.Uplinks, r.uplink(t, seen)) })
		}},
		{name: "pair", read: func(*reader, *value) {}}, // when the uplinks are known
		{name: "tier", read: func(*reader, *value) {}},
		{name: "lan", read: func(*reader, *value) {}},
		{name: "set", read: func(*reader, *value) {}},
		{name: "policy", read: func(*reader, *value) {}},
		{name: "tunnel", read: func(*reader, *value) {}},
		{name: "tproxy", read: func(*reader, *value) {}},
		{name: "forward", read: func(*reader, *value) {}},
		{name: "notify", read: func(r *reader, v *value) {
			seen := make(map[string]int)
			r.tableArray(v, "notify", "a notify", maxNotify, func(t *table) { c.Notify = append(c.Notify, r.notify(t, seen)) })
		}},
	}})
	if v := root.values["tier"]; v != nil {
		seen := make(map[int]int)
		r.tableArray(v, "tier", "a tier", MaxUplinks, func(t *table) { c.Tiers = append(c.Tiers, r.tier(t, c, seen)) })
	}
	if v := root.values["lan"]; v != nil {
		seen := lansSeen{devices: make(map[string]int), subnets: make(map[int]int)}
		r.tableArray(v, "lan", "a LAN", MaxLANs, func(t *table) { c.LANs = append(c.LANs, r.lan(t, c, seen)) })
	}
	r.carriers(root, c)
	if v := root.values["pair"]; v != nil {
		subtable("pair", titlePair, func(r *reader, t *table) { r.pair(t, c) }).read(r, v)
	}
	r.pairUplinks(root, c)
	if v := root.values["tunnel"]; v != nil {
		seen := tunnelsSeen{devices: make(map[string]int)}
		r.tableArray(v, "tunnel", "a tunnel", maxTunnels, func(t *table) { c.Tunnels = append(c.Tunnels, r.tunnel(t, c, seen)) })
	}
	r.traffic(root, c)
	r.samePaths(root, c)
	r.clats(root, c)
	r.sixRDCarriers(root, c)
	r.disable(root, c)
	return c
}

func daemonSection(d *Daemon) section {
	return section{titleDaemon, []field{
		text("state_dir", &d.StateDir, "/var/lib/uplinkd", checkDir),
		text("socket", &d.Socket, "/run/uplinkd/uplinkd.sock", checkSocket),
		text("socket_group", &d.SocketGroup, "netdev", checkGroup),
		text("listen", &d.Listen, "127.0.0.1:9275", checkListen),
		text("token_file", &d.TokenFile, "/etc/uplinkd/token", checkOptionalPath),
		hosts(&d.Hosts),
		text("hooks", &d.Hooks, "/etc/uplinkd/hooks.d", checkOptionalDir),
		text("webhook", &d.Webhook, "https://192.0.2.10/uplinkd", checkWebhook),
		boolean("mptcp", &d.MPTCP),
		parsed("ula", &d.ULA, exampleULA, parseULA),
	}}
}

func kernelSection(k *Kernel) section {
	return section{titleKernel, []field{
		integer("protocol", &k.Protocol, firstProtocol, 255, checkProtocol),
		integer("rule_priority", &k.RulePriority, 1, maxRulePriority, nil),
		integer("table_base", &k.TableBase, 1, maxTableBase, checkTableBase),
		parsed("mark_mask", &k.MarkMask, "0x3f000000", parseMask),
		integer("link_group", &k.LinkGroup, 1, 1<<31-1, nil),
		autoOrBoolean("main_default", &k.MainDefault),
		boolean("ingress_qdisc", &k.IngressQdisc),
		boolean("offload", &k.Offload),
		text("table_names", &k.TableNames, "/etc/iproute2/rt_tables.d/uplinkd.conf", checkTableNames),
	}}
}

// samePaths reports two keys that name one file: the daemon would write over what the other one holds.
func (r *reader) samePaths(root *table, c *Config) {
	paths := []struct{ section, key, path string }{
		{"daemon", "state_dir", c.Daemon.StateDir},
		{"daemon", "socket", c.Daemon.Socket},
		{"daemon", "token_file", c.Daemon.TokenFile},
		{"pair", "key_file", c.Pair.KeyFile},
		{"kernel", "table_names", c.Kernel.TableNames},
		{"dns", "resolv_conf", c.DNS.ResolvConf},
		{"dns", "dnsmasq", c.DNS.Dnsmasq},
	}
	for i, p := range paths {
		for _, q := range paths[:i] {
			if p.path == "" || !samePath(p.path, q.path) {
				continue
			}
			at := 0
			for _, x := range []struct{ section, key string }{{q.section, q.key}, {p.section, p.key}} {
				if s := root.values[x.section]; s != nil && s.table != nil && s.table.values[x.key] != nil {
					at = s.table.values[x.key].off
				}
			}
			r.errorf(at, "%s and %s are the same file, %s: each needs its own", q.key, p.key, clip(p.path))
		}
	}
}

// tableArray reads all sections [[name]], or what somebody wrote in their place.
func (r *reader) tableArray(v *value, name, what string, limit int, read func(*table)) {
	elems := v.elems
	switch {
	case v.kind == kindTable:
		elems = []*value{v}
	case v.kind != kindList:
		r.fail(v, v.off, "%s must be a list of sections, not %s: write [[%s]] on a line of its own and its "+
			"keys below", name, v.kind, name)
		return
	}
	for i, e := range elems {
		if e.kind != kindTable {
			r.fail(v, e.off, "%s must be a section, not %s: write [[%s]] on a line of its own and its keys "+
				"below", what, e.kind, name)
			continue
		}
		if e.table.origin == originImplicit {
			r.fail(v, e.off, "there is no [[%s]] above that this section could belong to", name)
			continue
		}
		if v.kind == kindTable || e.table.origin == originHeader {
			r.fail(v, e.off, "%s needs double brackets, because there may be several: write [[%s]]", what, name)
		}
		if i == limit {
			r.fail(v, e.off, "this is %s number %d: there can be at most %d", name, i+1, limit)
		}
		read(e.table)
	}
}

// uplinksSeen are the values that only one uplink may have, with their first offsets.
type uplinksSeen struct {
	names, devices map[string]int
}

func uplinkSection(u *Uplink) section {
	return section{titleUplink, append(encapTables(u), []field{
		text("name", &u.Name, "fiber", checkName),
		integer("id", &u.ID, 1, MaxUplinks, nil),
		choice("kind", &u.Kind, append([]string{KindISP}, kindNames(func(*encap.Kind) bool { return true })...), nil),
		text("device", &u.Device, "eth1", checkDevice),
		parsed("hardware_address", &u.HardwareAddress, exampleHardware, parseHardware),
		integer("tier", &u.Tier, 1, 255, nil),
		integer("weight", &u.Weight, 1, 256, nil),
		subtable("bandwidth", titleBandwidth, func(r *reader, t *table) { r.section(t, bandwidthSection(&u.Bandwidth)) }),
		boolean("enabled", &u.Enabled),
		boolean("default", &u.Default),
		boolean("shared", &u.Shared),
		boolean("primary_only", &u.PrimaryOnly),
		boolean("metered", &u.Metered),
		parsed("quota", &u.Quota, "20GB", parseQuota),
		choice("failback", &u.Failback, []Failback{FailbackAfterStable, FailbackImmediate, FailbackImmediateAll, FailbackNewFlowsOnly, FailbackManual}, nil),
		subtable("ipv4", titleIPv4, func(r *reader, t *table) { r.ip(t, ipv4Section(&u.IPv4), &u.IPv4) }),
		subtable("ipv6", titleIPv6, func(r *reader, t *table) { r.ip(t, ipv6Section(&u.IPv6), &u.IPv6) }),
		subtable("dns", titleUplinkDNS, func(r *reader, t *table) { r.section(t, uplinkDNSSection(&u.DNS)) }),
		subtable("quality", titleQuality, func(r *reader, t *table) { r.quality(t, &u.Quality) }),
		subtable("recover", titleRecover, func(r *reader, t *table) { r.recover(t, &u.Recover) }),
		subtable("probe", titleProbe, func(r *reader, t *table) { r.section(t, probeSection(&u.Probe)) }),
		subtable(KindSixRD, titleSixRD, func(r *reader, t *table) {
			u.IPv6.SixRD = new(SixRD)
			r.section(t, sixRDSection(u.IPv6.SixRD))
		}),
		texts("underlay", &u.Underlay, "fiber", MaxUplinks, nil),
		text("over", &u.Over, "vps", checkName),
		boolean("peer_routes", &u.PeerRoutes),
		subtable("wireguard", titleWireGuard, func(r *reader, t *table) {
			u.WireGuard = new(WireGuard)
			r.section(t, wireguardSection(u.WireGuard))
		}),
	}...)}
}

// uplink reads one uplink and what must fit together in it.
func (r *reader) uplink(t *table, seen uplinksSeen) Uplink {
	u := DefaultUplink("", "")
	r.section(t, uplinkSection(&u))
	r.required(t, "uplink", "name", "name", "fiber", u.Name, seen.names)
	r.required(t, "uplink", "device", "device", "eth1", u.Device, seen.devices)
	r.tunnelKeys(t, &u)
	r.families(t, &u)
	r.sixRD(t, &u)
	r.clat(t, &u)
	r.masqueradeFrom(t, &u)
	r.probe(t, &u)
	return u
}

// required reports a key that is absent, or whose value another section of the same name has already.
func (r *reader) required(t *table, section, key, what, example, val string, seen map[string]int) {
	v := t.values[key]
	switch {
	case v == nil && t.misspelled[key]:
	case v == nil:
		r.errorf(t.off, "this %s has no %s: write %s = %q below, with your own", section, what, key, example)
	case v.bad:
	default:
		if first, taken := seen[val]; taken {
			r.fail(v, v.off, "%s %s is already used by another %s, at %s", what, quote(val), section, r.where(first))
			return
		}
		seen[val] = v.off
	}
}

// families reports an uplink that carries nothing.
func (r *reader) families(t *table, u *Uplink) {
	if u.IPv4.Method != MethodOff || u.IPv6.Method != MethodOff {
		return
	}
	// A section says so, unless the tunnel has no addresses of the family.
	at := t.off
	for _, family := range []string{"ipv4", "ipv6"} {
		if v := t.values[family]; v != nil && v.table != nil {
			at = max(at, v.table.offset("method"))
		}
	}
	r.errorf(at, "ipv4 and ipv6 are both off: turn one on, or remove the uplink")
}

func ipv4Section(ip *IP) section {
	return section{titleIPv4, []field{
		choice("method", &ip.Method, []Method{MethodAuto, MethodDHCP, MethodStatic, MethodCLAT, MethodOff}, map[string]string{
			"ra": `method "ra" is for ipv6: write "auto", "dhcp", "static", "clat" or "off"`,
		}),
		parsed("address", &ip.Address, exampleAddress4, parseAddress4),
		parsed("gateway", &ip.Gateway, exampleGateway4, parseGateway4),
		unsetOrBoolean("masquerade", &ip.Masquerade),
		parsedList("masquerade_from", &ip.MasqueradeFrom, "10.7.0.0/24", maxAllowedIPs, parseNetwork),
		parsed("nat64_prefix", &ip.NAT64, exampleNAT64, parseNAT64),
	}}
}

func ipv6Section(ip *IP) section {
	return section{titleIPv6, []field{
		choice("method", &ip.Method, []Method{MethodAuto, MethodRA, MethodStatic, MethodOff}, map[string]string{
			"dhcp": `method "dhcp" is for ipv4: write "auto", "ra", "static" or "off"`,
			"clat": `method "clat" is for ipv4, which it carries by ipv6: write "auto", "ra", "static" or "off"`,
		}),
		parsed("address", &ip.Address, exampleAddress6, parseAddress6),
		parsed("gateway", &ip.Gateway, exampleGateway6, parseGateway6),
		unsetOrBoolean("masquerade", &ip.Masquerade),
		parsedList("masquerade_from", &ip.MasqueradeFrom, "10.7.0.0/24", maxAllowedIPs, parseNetwork),
		boolean("delegation", &ip.Delegation),
		parsed("prefix_hint", &ip.PrefixHint, exampleHint, parseHint),
		parsed("prefix", &ip.Prefix, exampleRouted, parseRouted),
		parsed("duid", &ip.DUID, exampleDUID, parseDUID),
		iaid(&ip.IAID),
		text("vendor_class", &ip.VendorClass, "3561:dslforum.org", checkVendorClass),
		texts("user_class", &ip.UserClass, "FSVDSL_livebox", maxUserClasses, checkUserClass).scalarOrList(),
		boolean("request_address", &ip.RequestAddress),
		boolean("translate", &ip.Translate),
		unsetOrBoolean("share", &ip.Share),
	}}
}

// ip reads one family and checks the method's address and gateway.
func (r *reader) ip(t *table, s section, ip *IP) {
	r.section(t, s)
	if !t.usable("method") {
		return
	}
	r.delegation(t, ip)
	if ip.Method != MethodStatic {
		for _, key := range []string{"address", "gateway"} {
			if v := t.values[key]; v != nil {
				r.fail(v, v.key, `%s needs method = "static", and the method here is %q`, key, ip.Method)
			}
		}
		return
	}
	if t.values["address"] == nil {
		example := exampleAddress4
		if s.title == titleIPv6 {
			example = exampleAddress6
		}
		r.errorf(t.offset("method"), `method "static" needs an address: write address = %q, with your own`, example)
		return
	}
	if !t.usable("address") || !t.usable("gateway") || !ip.Gateway.IsValid() {
		return
	}
	if msg := checkGateway(ip.Gateway, ip.Address); msg != "" {
		r.fail(t.values["gateway"], t.offset("gateway"), "%s", msg)
	}
}

// delegation checks what has to do with prefixes from the provider.
func (r *reader) delegation(t *table, ip *IP) {
	complain := func(key, format string, args ...any) {
		if v := t.values[key]; v != nil && !v.bad {
			r.fail(v, v.key, format, args...)
		}
	}
	if ip.Method == MethodOff && ip.Delegation {
		complain("delegation", `delegation is useless with method "off": remove one of them`)
	}
	if ip.Method == MethodOff {
		complain("prefix", `prefix is useless with method "off": remove one of them`)
	}
	if t.usable("delegation") && !ip.Delegation {
		complain("prefix_hint", "prefix_hint needs delegation = true: add it")
		for _, key := range []string{"duid", "iaid", "vendor_class", "user_class"} {
			if !ip.RequestAddress {
				complain(key, "%s needs delegation = true, or request_address = true: nobody is asked by DHCPv6", key)
			}
		}
		if ip.Translate && t.values["prefix"] == nil {
			complain("translate", "translate needs a prefix to translate to: add delegation = true")
		}
	}
	r.classes(t, ip)
	if ip.Translate && ip.Masquerade == On {
		complain("translate", "translate and masquerade rewrite the same packets: remove one of them")
	}
	if ip.Share == On && ip.Method != MethodRA {
		complain("share", `share needs method = "ra", and the method here is %q: the line's /64 must not be the kernel's to route`, ip.Method)
	}
	if ip.Share == On && ip.Prefix.IsValid() {
		complain("share", "share is for lines without a prefix for LANs, and this one has prefix: remove one of them")
	}
	if ip.Share == On && ip.Translate {
		complain("share", "share gives hosts addresses of the line, and translate rewrites those that they have: remove one of them")
	}
	if ip.RequestAddress && ip.Method != MethodRA {
		complain("request_address", `request_address needs method = "ra", and the method here is %q`, ip.Method)
	}
}

func probeSection(p *Probe) section {
	return section{titleProbe, []field{
		{name: "targets", takes: listSuchAs("192.0.2.1"), read: func(r *reader, v *value) { r.targets(v, p) }},
		duration("interval", &p.Interval, 100*time.Millisecond, time.Hour),
		duration("fast_interval", &p.FastInterval, 20*time.Millisecond, 10*time.Second),
		duration("timeout", &p.Timeout, 150*time.Millisecond, 10*time.Second),
		integer("fall", &p.Fall, 1, 20, nil),
		integer("rise", &p.Rise, 1, 1000, nil),
		parsed("budget", &p.Budget, "0.5MB", parseBudget),
		integer("min_targets_up", &p.MinTargetsUp, 1, maxTargets, nil),
	}}
}

// targets reads the list of probe targets.
func (r *reader) targets(v *value, p *Probe) {
	if v.kind != kindList {
		example := "192.0.2.1"
		if v.kind == kindString {
			example = v.text
		}
		r.wrongType(v, "targets", "a list of strings", "["+quote(example)+"]")
		return
	}
	if len(v.elems) == 0 {
		r.fail(v, v.off, "targets is empty: leave the key out to use the default targets, or name some")
		return
	}
	if len(v.elems) > maxTargets {
		r.fail(v, v.off, "these are %d targets: there can be at most %d", len(v.elems), maxTargets)
		return
	}
	p.Targets = nil
	var seen []int // offsets of those in p.Targets
	for i, e := range v.elems {
		if e.kind != kindString {
			r.fail(v, e.off, "target %d must be a string, not %s", i+1, e.kind)
			continue
		}
		t, err := probe.ParseTarget(e.text)
		if err != nil {
			r.fail(v, e.off, "%s", suggestScheme(err))
			continue
		}
		if i := slices.IndexFunc(p.Targets, t.Same); i >= 0 {
			r.fail(v, e.off, "target %s is given twice, first at %s", quote(e.text), r.where(seen[i]))
			continue
		}
		p.Targets, seen = append(p.Targets, t), append(seen, e.off)
	}
}

// suggestScheme is the message for a wrong target, with the scheme that was probably meant.
func suggestScheme(err error) string {
	var unknown probe.UnknownScheme
	if errors.As(err, &unknown) {
		if suggestion := nearest(unknown.Scheme, probe.Schemes()); suggestion != "" {
			return fmt.Sprintf("target %s begins with an unknown protocol, did you mean %q?", quote(unknown.Target), suggestion+"://")
		}
	}
	return err.Error()
}

// probe checks what the probe section says against itself and against the families.
func (r *reader) probe(t *table, u *Uplink) {
	section := &table{off: t.off}
	if v := t.values["probe"]; v != nil && v.table != nil {
		section = v.table
	}
	u.Probe.Fixed = section.values["interval"] != nil
	if u.Metered && !u.Probe.Fixed {
		u.Probe.Interval = max(MeteredInterval, u.Probe.FastInterval)
	}
	if p := u.Probe; p.FastInterval > p.Interval && section.usable("fast_interval") && section.usable("interval") {
		r.errorf(section.offset("fast_interval"), "fast_interval (%s) is longer than interval (%s): it is the interval of the "+
			"burst after a miss", span(p.FastInterval), span(p.Interval))
	}
	if section.usable("targets") && t.usable("kind") && u.Kind != KindWireGuard {
		for _, target := range u.Probe.Targets {
			if target.Kind() == probe.Handshake {
				r.errorf(section.offset("targets"), "target %s needs kind = %q, and the kind here is %q", quote(target.String()), KindWireGuard, u.Kind)
			}
		}
	}
	if !section.usable("targets") || len(u.Probe.Targets) == 0 || u.WireGuard != nil && len(u.WireGuard.Addresses) == 0 {
		return
	}
	for _, f := range []struct {
		name  string
		title string
		ip    IP
		is4   bool
		add   probe.Target
	}{
		{"ipv4", titleIPv4, u.IPv4, true, defaultTargets()[0]},
		{"ipv6", titleIPv6, u.IPv6, false, defaultTargets()[3]},
	} {
		if v := t.values[f.name]; v != nil && (v.bad || !v.table.usable("method")) || f.ip.Method == MethodOff {
			continue
		}
		n := len(slices.DeleteFunc(slices.Clone(u.Probe.Targets), func(t probe.Target) bool { return t.Addr().Is4() != f.is4 }))
		switch {
		case n == 0:
			r.errorf(section.offset("targets"), `no target is an %s address, so nothing can tell whether %s `+
				`works here: add one, such as %q, or write method = "off" in %s`, f.name, f.name, f.add.String(), f.title)
		case n < u.Probe.MinTargetsUp && section.usable("min_targets_up"):
			r.errorf(section.offset("min_targets_up"), "min_targets_up = %d can never be reached: %s has %d of the targets",
				u.Probe.MinTargetsUp, f.name, n)
		}
	}
}
