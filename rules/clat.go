package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// CLAT is the customer-side translator of an uplink that has IPv6 alone (464XLAT, RFC 6877): a program with a tun device, which turns
// IPv4 packets into IPv6 packets to the provider's NAT64.
//
//	LAN ──IPv4──► tun ──► program ──► tun ──IPv6──► device of the uplink ──► NAT64 of the provider
//	      masqueraded as Addr4              from Addr6, masqueraded as the uplink's own address
//
// Both ends of the program are for this machine alone, so whatever the uplink is given, an address, a /64 or a delegation, it needs no
// address of its own there, nobody has to find it by neighbour discovery, and a new prefix of the line does not restart it.
//
// To planning the device of the translator is an uplink with the id and the name of the line, so that both have one mark and one table:
// the line has IPv6 alone, and the translator's device IPv4 alone.
type CLAT struct {
	Device string
	Addr4  netip.Addr
	Addr6  netip.Addr   // of a /64 that is for translators alone
	NAT64  netip.Prefix // of the provider's translator (RFC 6052); zero: not known, and nothing can be translated
}

// clatOverhead is by how much an IPv4 packet grows, in bytes: an IPv6 header for an IPv4 header (RFC 7915 section 4).
const clatOverhead = 20

// Translate splits an uplink into its line and the device of its translator.
func (u *Uplink) Translate(c CLAT) (line, tun Uplink) {
	line, tun = *u, *u
	line.CLAT, tun.CLAT = &c, &c
	line.IPv4, tun.IPv6 = Addressing{}, Addressing{}
	line.IPv6.MasqueradeFrom = append(slices.Clone(u.IPv6.MasqueradeFrom), host(c.Addr6))
	tun.Device, tun.Delegations = c.Device, nil
	tun.IPv4 = Addressing{Enabled: true, Managed: true, Masquerade: true,
		Assign: &Assignment{Addresses: []Address{{Prefix: host(c.Addr4)}}, NoDefault: !c.NAT64.IsValid()}}
	line.Resolvers, tun.Resolvers = nil, nil
	for _, a := range u.Resolvers {
		if FamilyOf(a) == IPv4 {
			tun.Resolvers = append(tun.Resolvers, a)
		} else {
			line.Resolvers = append(line.Resolvers, a)
		}
	}
	return line, tun
}

// sources lists what a translator sends with: addresses of this machine alone, and what it makes of IPv4 sources that it does not know, which
// nobody has masqueraded.
func (c *CLAT) sources() []netip.Prefix {
	list := []netip.Prefix{netip.PrefixFrom(c.Addr6, 64).Masked()} // its own address, of ICMPv6 errors, is beside it
	if c.NAT64.IsValid() {
		list = append(list, c.NAT64)
	}
	return list
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// IsCLAT reports whether this is the device of a translator.
func (u *Uplink) IsCLAT() bool { return u.CLAT != nil && u.Device == u.CLAT.Device }

// chain is what chains of the uplink's device are called by. No uplink has a name with a dot.
func (u *Uplink) chain() string {
	if u.IsCLAT() {
		return u.Name + ".clat"
	}
	return u.Name
}

// nat64 takes a prefix away by which IPv4 packets would be sent to hosts behind this machine.
func (o *inputCheck) nat64(u *Uplink) {
	if !u.IsCLAT() || !u.CLAT.NAT64.IsValid() {
		return
	}
	prefix, why := u.CLAT.NAT64, ""
	for _, a := range o.behind(128) {
		if network := a.segment(); network.Overlaps(prefix) {
			why = fmt.Sprintf("the network %v is behind %s", network, a.Device)
		}
	}
	for i := range o.cfg.Uplinks {
		for _, d := range o.cfg.Uplinks[i].Delegations {
			if d.Prefix.Overlaps(prefix) {
				why = fmt.Sprintf("%s delegates %v", o.cfg.Uplinks[i].Name, d.Prefix)
			}
		}
	}
	if why == "" {
		return
	}
	c, a := *u.CLAT, *u.IPv4.Assign
	c.NAT64, a.NoDefault = netip.Prefix{}, true
	u.CLAT, u.IPv4.Assign = &c, &a
	o.report("unusable-nat64-prefix", fmt.Sprintf("%s was given the NAT64 prefix %v, but %s: it carries no IPv4", u.Name, prefix, why), u)
}

// uplinkOf returns the uplink of a path, which there must be.
func (p *planner) uplinkOf(path Path) *Uplink {
	u := p.uplink(path.Uplink)
	if u.CLAT != nil && path.Family == IPv4 {
		i := slices.IndexFunc(p.cfg.Uplinks, func(o Uplink) bool { return o.ID == path.Uplink && o.IsCLAT() })
		return &p.cfg.Uplinks[i]
	}
	return u
}

// needsLine takes what a translator's path lacks from the path of its line: what is not there cannot carry it, and how much fits. Given is true when
// the line is about to have an address, at the latest.
func (info *PathInfo) needsLine(c *CLAT, line PathInfo, given bool) {
	info.NoNAT64 = !c.NAT64.IsValid()
	info.Carrier = info.Carrier && line.Carrier
	info.HasDefault = info.HasDefault && line.HasDefault && (given || line.Source().IsValid()) // what it borrows cannot be translated to
	if mtu := line.PathMTU(); mtu > clatOverhead {
		info.MTU = mtu - clatOverhead
	}
}

// isGivenAddress reports whether the plan itself puts an address on the device of a path.
func (c *Config) isGivenAddress(path Path) bool {
	return slices.ContainsFunc(c.Uplinks, func(u Uplink) bool {
		a := u.Family(path.Family)
		return u.ID == path.Uplink && a.Enabled && a.Assign != nil && len(a.Assign.Addresses) > 0
	})
}

// translatorRoutes leads the answers to a translator. They are looked for in the table of their uplink, where their mark leads, and in main.
func (p *planner) translatorRoutes(line *Uplink, table uint32) {
	if link, _ := p.obs.Link(line.CLAT.Device); !link.Up || p.off(line.CLAT.Device, IPv6) {
		return
	}
	for _, t := range []uint32{table, netcfg.TableMain} {
		p.state.Routes = append(p.state.Routes, netcfg.Route{Family: IPv6, Table: t, Type: netcfg.Unicast, Dst: host(line.CLAT.Addr6), Metric: metricV6,
			Protocol: p.k.Protocol, Nexthops: []netcfg.Nexthop{{Device: line.CLAT.Device, Weight: 1}}})
	}
}

// pinTranslated pins what a translator makes of IPv4 packets to its own uplink, before any policy is asked: one that is about both
// families has been asked already.
func (p *planner) pinTranslated(prerouting *nft.Chain, u *Uplink, pinned string) {
	mask := p.k.MarkMask
	prerouting.Add(u.Name+": by the line of the translator", nft.Device{Name: u.Device}, nft.CtMark{Mask: mask}, nft.Family{Family: inet.IPv6},
		nft.SetCtMark{Mask: mask, Value: p.k.Mark(u.ID)}, nft.Goto{Chain: pinned})
}

// translatorDevice names what keeps a translator from working on this machine.
func (p *planner) translatorDevice(u *Uplink) {
	if p.obs.ipv6Off(u.Device) {
		p.switchedOff(u.Device, u.Name+" has no IPv4", `write method = "off" in its [uplink.ipv4]`)
	}
	if p.obs.Sysctls[forwarding6] == "0" {
		p.problem("forwarding-off", "error", "IPv6 forwarding is off: "+u.Name+" carries no IPv4, which is translated to IPv6 and forwarded",
			"sysctl -w net.ipv6.conf.all.forwarding=1, and the same in a file in /etc/sysctl.d")
	}
}
