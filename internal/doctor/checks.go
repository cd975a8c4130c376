package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

type found = func(severity Severity, cause, fix string)

// remoteHost is an address far away, of a network that is for tests only: where packets come from in checks
// that only think.
var remoteHost = map[rules.Family]netip.Addr{
	rules.IPv4: netip.MustParseAddr("198.18.117.117"),
	rules.IPv6: netip.MustParseAddr("2001:2::117"),
}

func kernelFeatures(o *Observation, found found) {
	for _, m := range o.Missing {
		fix := "use a kernel with it"
		if m.Module != "" {
			fix = fmt.Sprintf("modprobe %[1]s; echo %[1]s >> /etc/modules-load.d/uplinkd.conf (install the distribution's kernel module package where modprobe does not find it)", m.Module)
		}
		found(Error, fmt.Sprintf("the kernel lacks %s: %s", m.What, m.Err), fix)
	}
}

// reversePath walks a packet that arrives at each uplink, for this machine and for a LAN host behind it, and
// looks whether the filter of sources lets it in.
func reversePath(o *Observation, found found) {
	for i := range o.Config.Uplinks {
		u := &o.Config.Uplinks[i]
		info := o.Report.Paths[rules.Path{Uplink: u.ID, Family: rules.IPv4}]
		if !u.IPv4.Enabled || !info.Up || !info.HasDefault || !info.Source().IsValid() {
			continue
		}
		targets := []netip.Addr{info.Source()}
		if host := lanHost(o); host.IsValid() {
			targets = append(targets, host)
		}
		for _, to := range targets {
			p := explain.Packet{In: u.Device, From: remoteHost[rules.IPv4], To: to, Protocol: 6, SPort: 40000, DPort: 443}
			e, err := explain.Explain(o.Config, o.Routing, o.State, p)
			if err != nil || e.Outcome != explain.Refused || e.RPFilter == "" {
				continue
			}
			found(Error, fmt.Sprintf("reverse-path filtering drops packets that arrive on %s (%s) for %v: %s", u.Name, u.Device, to, e.RPFilter),
				fmt.Sprintf("start uplinkd if it is not running (it makes strict filtering pass); otherwise: sysctl -w net.ipv4.conf.%s.rp_filter=2", u.Device))
			break
		}
	}
	undeclaredReversePath(o, found)
}

// undeclaredReversePath does it for devices that are no uplinks, and that somebody sends to the Internet by: a VPN for what has a
// mark, for example. Where the filter looks at marks, those of others decide.
func undeclaredReversePath(o *Observation, found found) {
	for _, link := range o.Routing.Links {
		marks := o.Routing.Sysctls["net/ipv4/conf/all/src_valid_mark"] == "1" || o.Routing.Sysctls["net/ipv4/conf/"+link.Name+"/src_valid_mark"] == "1"
		if link.Loopback || !link.Up || isUplink(o, link.Name) || marks {
			continue
		}
		out := slices.IndexFunc(o.Routing.Tables, func(r explain.TableRoute) bool {
			return r.Family == rules.IPv4 && r.Type == netcfg.Unicast && r.Dst.Bits() <= 1 && r.Nexthops[0].Device == link.Name
		})
		own := slices.IndexFunc(o.Routing.Addrs, func(a rules.Addr) bool { return a.Device == link.Name && a.Prefix.Addr().Is4() })
		if out < 0 || own < 0 {
			continue
		}
		p := explain.Packet{In: link.Name, From: remoteHost[rules.IPv4], To: o.Routing.Addrs[own].Prefix.Addr(), Protocol: 6, SPort: 443, DPort: 40000}
		e, err := explain.Explain(o.Config, o.Routing, o.State, p)
		if err != nil || e.Outcome != explain.Refused || e.RPFilter == "" {
			continue
		}
		found(Warning, fmt.Sprintf("reverse-path filtering drops packets from the Internet on %s, which is not an uplink but the default route of table %d: %s", link.Name, o.Routing.Tables[out].Table, e.RPFilter),
			fmt.Sprintf("sysctl -w net.ipv4.conf.%[1]s.rp_filter=2, or make %[1]s an uplink", link.Name))
	}
}

// lanHost is a host that may be behind this machine: a neighbour in a network that is no uplink's.
func lanHost(o *Observation) netip.Addr {
	for _, a := range o.Routing.Addrs {
		link, _ := o.Routing.Link(a.Device)
		if a.Prefix.Addr().Is4() && !link.Loopback && !isUplink(o, a.Device) && a.Prefix.Bits() < 31 && a.Prefix.Addr().IsGlobalUnicast() {
			host := a.Prefix.Masked().Addr().Next()
			if host == a.Prefix.Addr() {
				host = host.Next()
			}
			return host
		}
	}
	return netip.Addr{}
}

func isUplink(o *Observation, device string) bool {
	return slices.ContainsFunc(o.Config.Uplinks, func(u rules.Uplink) bool { return u.Device == device })
}

// foreignRules finds rules of others between ours, and those before ours that take everything.
func foreignRules(o *Observation, found found) {
	k := o.Config.Kernel
	for _, r := range o.Routing.Rules {
		if r.Protocol == k.Protocol || r.Priority == 0 {
			continue
		}
		flag := "-4"
		if r.Family == rules.IPv6 {
			flag = "-6"
		}
		all := !r.From.IsValid() && !r.To.IsValid() && r.IIF == "" && r.OIF == "" && r.Mask == 0 && r.Selectors == (netcfg.RuleSelectors{}) && r.SuppressPrefixLen < 0 && r.SuppressGroup < 0
		switch {
		case r.Priority >= k.RulePriority && r.Priority < k.RulePriority+1000:
			found(Error, fmt.Sprintf("another program has a rule in our range of priorities (%d to %d): %s", k.RulePriority, k.RulePriority+999, r),
				fmt.Sprintf("ip %s rule del pref %d, or move ours with [kernel] rule_priority", flag, r.Priority))
		case r.Priority < k.RulePriority && all && o.hasDefaultRoute(r.Table, r.Family):
			found(Error, fmt.Sprintf("a rule of another program precedes ours and takes every packet: %s", r),
				fmt.Sprintf("ip %s rule del pref %d, or put ours before it: [kernel] rule_priority = %d", flag, r.Priority, max(1, r.Priority-1000)))
		}
	}
}

// hasDefaultRoute reports whether a table has a default route.
func (o *Observation) hasDefaultRoute(table uint32, family rules.Family) bool {
	return slices.ContainsFunc(o.Routing.Tables, func(r explain.TableRoute) bool {
		return r.Table == table && r.Family == family && r.IsDefault() && r.Type != netcfg.Throw
	})
}

func networkdForeignRules(o *Observation, found found) {
	if o.Networkd == nil {
		return
	}
	var yes []string
	if o.Networkd.ManagesForeignRules {
		yes = append(yes, "ManageForeignRoutingPolicyRules")
	}
	if o.Networkd.ManagesForeignRoutes {
		yes = append(yes, "ManageForeignRoutes")
	}
	if len(yes) == 0 {
		return
	}
	verb := "is"
	if len(yes) > 1 {
		verb = "are"
	}
	var settings []string
	for _, s := range yes {
		settings = append(settings, s+"=no\\n")
	}
	found(Error, fmt.Sprintf("systemd-networkd deletes rules and routes of other programs: %s %s on, so its next restart removes ours", strings.Join(yes, " and "), verb),
		fmt.Sprintf("mkdir -p /etc/systemd/networkd.conf.d; printf '[Network]\\n%s' > /etc/systemd/networkd.conf.d/uplinkd.conf; systemctl restart systemd-networkd", strings.Join(settings, "")))
}

// overlappingSubnets finds networks that two devices believe to be their own. Two uplinks may share one, which
// planning copes with; an uplink and a LAN may not.
func overlappingSubnets(o *Observation, found found) {
	for i, a := range o.Routing.Addrs {
		for _, b := range o.Routing.Addrs[i+1:] {
			if a.Device == b.Device || a.LinkScope || b.LinkScope || a.Prefix.Addr().IsLoopback() || !a.Prefix.Addr().IsGlobalUnicast() ||
				a.Prefix.IsSingleIP() || b.Prefix.IsSingleIP() || !a.Prefix.Masked().Overlaps(b.Prefix.Masked()) {
				continue
			}
			up, other := isUplink(o, a.Device), isUplink(o, b.Device)
			lan, wan := b, a
			if other {
				lan, wan = a, b
			}
			if up != other && lan.Prefix.Bits() > wan.Prefix.Bits() && !translatesSource(o, wan.Device, rules.FamilyOf(lan.Prefix.Addr())) {
				continue // the provider routes that part to us, and the longer prefix wins
			}
			both := fmt.Sprintf("%s (%v) and %s (%v)", a.Device, a.Prefix.Masked(), b.Device, b.Prefix.Masked())
			switch {
			case up && other:
				found(Notice, "two uplinks are in overlapping networks: "+both+"; hosts in that network are reached by only one of them",
					"nothing, for both work towards the Internet; to reach those hosts, change the address range of one modem")
			case up || other:
				found(Error, "an uplink and a network behind this machine overlap: "+both+"; hosts there are looked up on the wrong interface",
					"renumber the LAN, or the modem")
			}
		}
	}
}

// translatesSource reports whether an uplink gives what leaves by its device another source.
func translatesSource(o *Observation, device string, f rules.Family) bool {
	return slices.ContainsFunc(o.Config.Uplinks, func(u rules.Uplink) bool { return u.Device == device && u.Family(f).Masquerade })
}

// absentDevices finds what is configured and not there: a typing error, or a device that is unplugged.
func absentDevices(o *Observation, found found) {
	for _, a := range o.Absent {
		fix := "plug the device in, or correct its name in the configuration"
		if a.Like != "" {
			fix = fmt.Sprintf("if %s is meant, correct the name in the configuration; otherwise plug the device in", a.Like)
		}
		found(Warning, fmt.Sprintf("%s: %s", a.User, a.Cause), fix)
	}
}

func invalidDrops(o *Observation, found found) {
	if o.Liberal || len(o.Config.Uplinks) < 2 {
		return
	}
	for _, d := range o.Drops {
		severity, dropped := Warning, ""
		switch {
		case d.Counted && d.Packets == 0:
			continue
		case d.Counted:
			dropped = fmt.Sprintf(" (%d packets so far)", d.Packets)
		case o.NoneInvalid: // firewalld brings such rules along
			severity, dropped = Notice, " (none since the start of this machine)"
		}
		found(severity, fmt.Sprintf("a rule in nftables %s %s, chain %s, handle %d drops packets in connection state invalid%s: asymmetric flows, and flows that moved to another uplink, hang",
			d.Family, d.Table, d.Chain, d.Handle, dropped),
			"sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1; in OpenWrt: uci set firewall.@defaults[0].drop_invalid=0, and masq_allow_invalid=1 for the wan zone")
	}
}

func mtuBlackholes(o *Observation, found found) {
	for _, t := range o.MTUProbes {
		if !t.Answers || t.TooBig || t.Passes >= t.MTU || t.Passes == 0 {
			continue
		}
		found(Error, fmt.Sprintf("%s (%v) silently loses packets above %d bytes (device MTU %d, tested with %s): connections open and then hang", t.Uplink, t.Family.Name(), t.Passes, t.MTU, t.Target),
			fmt.Sprintf("ip link set dev %s mtu %d, permanently; for hosts behind: nft add rule inet filter forward oifname %q tcp flags syn tcp option maxseg size set rt mtu", t.Device, t.Passes, t.Device))
	}
}

func blockedProbes(o *Observation, found found) {
	for _, t := range o.MTUProbes {
		if t.Blocked == "" {
			continue
		}
		id := 0
		for _, u := range o.Config.Uplinks {
			if u.Name == t.Uplink {
				id = u.ID
			}
		}
		found(Error, fmt.Sprintf("this machine's firewall blocks outgoing probes of %s (%v): %s", t.Uplink, t.Family.Name(), t.Blocked),
			fmt.Sprintf("allow them, for example: nft insert rule inet filter output meta mark and %#x == %#x accept", o.Config.Kernel.MarkMask, o.Config.Kernel.Mark(id)))
	}
}

// noTranslator finds that IPv4 cannot be translated.
func noTranslator(o *Observation, found found) {
	if o.NoTranslator != "" {
		found(Error, `an uplink has method = "clat" and carries no IPv4: `+o.NoTranslator, "install tayga (Debian: apt install tayga, and leave its own service off) and load the kernel module tun")
	}
}

// translationsRefused finds translators whose packets a firewall drops.
func translationsRefused(o *Observation, found found) {
	for _, r := range o.RefusedTranslations {
		line := o.Config.UplinkNamed(r.Uplink)
		found(Error, fmt.Sprintf("the firewall forwards no IPv6 from %s to %s: %s carries no IPv4, which is translated to IPv6 there (nftables %s)", r.Device, line.Device, r.Uplink, r.By),
			fmt.Sprintf("nft insert rule %s iifname %q oifname %q accept, and the same where your firewall keeps its rules", strings.Replace(r.By, ", chain", "", 1), r.Device, line.Device))
	}
}

// forwarding matters only to a machine that has hosts behind it.
func forwarding(o *Observation, found found) {
	if len(o.Config.Uplinks) == 0 || !lanHost(o).IsValid() {
		return
	}
	for _, l := range o.Routing.Links {
		if !isUplink(o, l.Name) || o.Routing.Sysctls["net/ipv4/conf/"+l.Name+"/forwarding"] != "0" {
			continue
		}
		found(Warning, "there is a LAN behind this machine, but "+l.Name+" does not forward IPv4", "sysctl -w net.ipv4.ip_forward=1, and the same in a file in /etc/sysctl.d")
		return
	}
}

// notForwarded finds local networks that the firewall lets out by some uplinks and not by others, and those that it lets out by none. Of the
// latter some may be meant, such as a network of cameras: they are none while others are let out, unless the configuration names them.
func notForwarded(o *Observation, found found) {
	for _, family := range rules.Families {
		ways, devices := o.Forwarded(family)
		refused := func(device, uplink string) int {
			return slices.IndexFunc(o.Refused, func(r Refused) bool { return r.Device == device && r.Uplink == uplink && r.Family == family })
		}
		closed := func(device string) bool {
			return !slices.ContainsFunc(ways, func(u *rules.Uplink) bool { return refused(device, u.Name) < 0 })
		}
		allClosed := !slices.ContainsFunc(devices, func(device string) bool { return !closed(device) })
		for _, device := range devices {
			named := slices.ContainsFunc(o.Config.LANs, func(l rules.LAN) bool { return l.Device == device })
			for _, u := range ways {
				at := refused(device, u.Name)
				if at < 0 || closed(device) && !named && !allClosed {
					continue
				}
				then := "its hosts are offline while new traffic uses it"
				if closed(device) {
					then = "its hosts are offline"
				}
				found(Warning, fmt.Sprintf("the firewall forwards no new %s connection from %s to %s (%s): %s (nftables %s)", family.Name(), device, u.Name, u.Device, then, o.Refused[at].By),
					fmt.Sprintf("treat %[2]s as the firewall's other devices to the Internet (in OpenWrt: add it to the wan zone), or: nft insert rule %[3]s iifname %[1]q oifname %[2]q accept", device, u.Device, strings.Replace(o.Refused[at].By, ", chain", "", 1)))
			}
		}
	}
}

// Forwarded lists the uplinks that carry new traffic of a family from behind this machine, and the devices of local networks that it may
// come from.
func (o *Observation) Forwarded(family rules.Family) (ways []*rules.Uplink, devices []string) {
	for i := range o.Config.Uplinks {
		u := &o.Config.Uplinks[i]
		if info := o.Report.Paths[rules.Path{Uplink: u.ID, Family: family}]; u.Family(family).Enabled && !u.PoliciesOnly && !u.Site && info.Up && info.HasDefault {
			ways = append(ways, u)
		}
	}
	for _, a := range o.Routing.Addrs {
		link, _ := o.Routing.Link(a.Device)
		if rules.FamilyOf(a.Prefix.Addr()) == family && a.Prefix.Addr().IsGlobalUnicast() && !a.Prefix.IsSingleIP() && link.Up && !link.Loopback && !link.PointToPoint &&
			!isUplink(o, a.Device) && o.Routing.Sysctls["net/"+family.String()+"/conf/"+a.Device+"/forwarding"] != "0" && !slices.Contains(devices, a.Device) {
			devices = append(devices, a.Device)
		}
	}
	return ways, devices
}

// ipsecTranslated finds translation by others of what IPsec policies cover. Ours leaves it alone.
func ipsecTranslated(o *Observation, found func(Severity, string, string)) {
	for by, policy := range o.Routing.TranslatedIPsec(o.Config) {
		found(Error, fmt.Sprintf("the nftables table %s rewrites the source of traffic that an IPsec policy covers (%v to %v): the policy no longer matches, and the traffic leaves unencrypted", by, policy.From, policy.To),
			fmt.Sprintf("add a rule before it in that chain of %s: rt ipsec exists return", by))
	}
}

// otherPrograms names those of which something must be known that no other check looks at.
func otherPrograms(o *Observation, found found) {
	for _, n := range o.Neighbours {
		if n.Name == "conntrackd" && o.Pair != nil {
			continue // what it needs is looked at there
		}
		if n.Write != "" && n.Check == "" {
			found(Notice, fmt.Sprintf("%s is here (%s): it %s", n.Name, n.By, n.Does), n.Write)
		}
	}
}
