package offline

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Init looks at this machine and proposes a configuration, as text with comments. It changes nothing.
func Init() (string, error) {
	c := config.Default()
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer k.Close()
	obs, err := k.Snapshot(rules.Query{})
	if err != nil {
		return "", err
	}
	beside, err := programsHere(k, uint8(c.Kernel.Protocol), obs, obs.Routes)
	return proposal(obs, discovery.ThisMachine(kernel.Driver), beside), err
}

// proposer writes what was found. In its text, "##" begins a remark, and "#" a line that may be uncommented: the text passes
// config.Parse as it is, and with these lines uncommented.
type proposer struct {
	strings.Builder
	obs     *rules.Observed
	machine discovery.Machine
	found   []config.Uplink
	lost    map[string]discovery.LostDefault // by device
	lans    []lanFound
	refused []string   // devices with a default route and a name that no configuration may have
	pair    *pairFound // nil: one router
}

// lanFound is a network of hosts that could have prefixes of the providers.
type lanFound struct {
	device string
	ipv6   netip.Prefix // what somebody else gives it; invalid: nothing
}

func proposal(obs *rules.Observed, m discovery.Machine, beside []programs.Found) string {
	p := newProposer(obs, m)
	p.all(beside)
	return p.String()
}

// newProposer finds out what there is.
func newProposer(obs *rules.Observed, m discovery.Machine) *proposer {
	d := discovery.New(config.Default(), m)
	found, _ := d.Scan(obs)
	p := &proposer{obs: obs, machine: m, lost: make(map[string]discovery.LostDefault)}
	for _, l := range d.LostDefaults(obs) {
		p.lost[l.Device] = l
	}
	for i := range found.Uplinks {
		if u := &found.Uplinks[i]; accepted(u) {
			p.found = append(p.found, *u)
		} else {
			p.refused = append(p.refused, u.Device)
		}
	}
	p.findLANs()
	return p
}

// all writes the whole proposal.
func (p *proposer) all(beside []programs.Found) {
	p.write("## Proposed by \"uplinkd init\" from what this machine had when it was asked. A line that begins with one # is a key\n" +
		"## with its default, or a section that could be of use; \"uplinkd check -c FILE\" validates, \"uplinkd plan -c FILE\" shows\n" +
		"## what would change in the kernel. Keys are explained in uplinkd.toml(5).\n\n" +
		"[daemon]\n# listen = \"127.0.0.1:9275\"      # dashboard, JSON and metrics; an address of the LAN shows it there too\n" +
		"# token_file = \"/etc/uplinkd/token\"  # with it, the dashboard's buttons work over the network\n")
	p.pairSection()
	for _, device := range p.refused {
		p.write("\n## The device %+q has a default route too, and a name that no configuration may have: rename it.\n", device)
	}
	for i := range p.found {
		p.uplink(&p.found[i])
	}
	if len(p.found) == 0 {
		p.write("\n## No device of this machine has a default route now, so nothing could be proposed. An uplink looks like this:\n" +
			"# [[uplink]]\n# name = \"fiber\"\n# device = \"eth1\"\n")
	}
	p.sections()
	p.others()
	p.programs(beside)
}

func (p *proposer) write(format string, args ...any) { fmt.Fprintf(p, format, args...) }

func (p *proposer) uplink(u *config.Uplink) {
	p.write("\n## %s\n", p.describe(u.Device))
	p.write("[[uplink]]\nname = %q\ndevice = %q\n", u.Name, u.Device)
	p.pairUplink(u)
	link, _ := p.obs.Link(u.Device)
	if link.Kind == config.KindWireGuard {
		p.write("kind = \"wireguard\"             # its own packets leave by the other uplinks\n")
	}
	if u.Tier > 1 {
		p.write("tier = %d                       # used when nothing of a lower tier works\n", u.Tier)
	} else {
		p.write("# tier = 1                     # the lowest tier that works carries new traffic\n")
	}
	p.write("# weight = 1                   # share of new flows among the uplinks of a tier\n")
	if u.Metered {
		p.write("metered = true                 # looks like a mobile network or a phone: probes are rarer; false for a flat rate\n" +
			"# quota = \"20GB\"               # a month; above it, new flows go elsewhere\n")
		if u.Tier == 1 && len(p.found) > 1 {
			p.write("## It has the lowest metric, so it carries all new traffic now. As a spare it would have tier = %d.\n", len(p.found)+1)
		}
	} else {
		p.write("# metered = false              # true: traffic costs money, probes are rarer\n")
	}
	p.ipv4(u)
	p.ipv6(u)
	p.write("  # [uplink.probe]\n  # targets = [%s]  # whom to ask; anycast resolvers of three operators unless you name others\n", p.targets(u))
}

// has reports whether a device has a default route of a family that is not ours.
func (p *proposer) has(device string, family rules.Family) bool {
	return slices.ContainsFunc(p.obs.Routes, func(r netcfg.Route) bool {
		return r.Table == netcfg.TableMain && r.IsDefault() && r.Family == family && r.Type == netcfg.Unicast &&
			slices.ContainsFunc(r.Nexthops, func(h netcfg.Nexthop) bool { return h.Device == device })
	})
}

func (p *proposer) ipv4(u *config.Uplink) {
	l, lost := p.lost[u.Device]
	switch {
	case p.pair.leases(u.Name):
		p.write("  ## The primary asks for the lease itself: stop the other client on this device, on both routers.\n" +
			"  [uplink.ipv4]\n  method = \"dhcp\"\n")
	case p.has(u.Device, rules.IPv4):
		p.write("  # [uplink.ipv4]\n  # method = \"auto\"              # follow the addresses and the gateway that others set\n")
	case lost && len(l.Lease.Routers) == 0:
		p.write("  ## It needs no default route, which pppd does not install beside that of %s: there is one way over such a line.\n"+
			"  # [uplink.ipv4]\n  # method = \"auto\"              # follow the addresses that pppd sets\n", l.By)
	case lost:
		p.write("  ## %s has leased %v, with the gateway %v, but there is no default route of it: that of %s has the same\n"+
			"  ## metric (%d), and of two such the second is refused, or replaces the first. So uplinkd asks for the lease itself. Stop\n"+
			"  ## the other client on this device (ifupdown: \"iface %s inet manual\"), or give the clients a metric each\n"+
			"  ## (%s) and write \"auto\" here.\n"+
			"  [uplink.ipv4]\n  method = \"dhcp\"\n", l.Lease.From, l.Lease.Address, l.Lease.Routers[0], l.By, l.Metric, u.Device, programs.Metrics())
	default:
		p.write("  [uplink.ipv4]\n  method = \"off\"                # there is no ipv4 default route now; \"auto\" would wait for one\n")
	}
}

func (p *proposer) ipv6(u *config.Uplink) {
	if !p.has(u.Device, rules.IPv6) {
		p.write("  [uplink.ipv6]\n  method = \"off\"                # there is no ipv6 default route now; \"auto\" would wait for one\n")
		return
	}
	if !p.global(u.Device).IsValid() {
		p.write("  ## There is no global IPv6 address on the device: hosts need a delegated prefix.\n")
	}
	active := "# "
	if p.delegates() && !u.Metered {
		active = ""
	}
	p.write("  %[1]s[uplink.ipv6]\n  # method = \"auto\"              # follow the addresses and the gateway that others set\n"+
		"  %[1]sdelegation = true            # ask the provider for a prefix, for the hosts of [[lan]]\n", active)
}

// targets lists default targets of the families that the uplink carries, as a file has them.
func (p *proposer) targets(u *config.Uplink) string {
	var words []string
	for _, t := range config.DefaultUplink("", "").Probe.Targets {
		family := rules.IPv6
		if t.Addr().Is4() {
			family = rules.IPv4
		}
		if _, lost := p.lost[u.Device]; p.has(u.Device, family) || lost && family == rules.IPv4 {
			words = append(words, strconv.Quote(t.String()))
		}
	}
	return strings.Join(words, ", ")
}

// delegates reports whether delegation is proposed: there is IPv6, and a LAN that has none.
func (p *proposer) delegates() bool {
	return slices.ContainsFunc(p.lans, func(l lanFound) bool { return !l.ipv6.IsValid() }) &&
		p.offered()
}

// offered reports whether an uplink has IPv6 and may delegate a prefix, as mobile networks do not.
func (p *proposer) offered() bool {
	return slices.ContainsFunc(p.found, func(u config.Uplink) bool { return p.has(u.Device, rules.IPv6) && !u.Metered })
}

// sections proposes the LANs.
func (p *proposer) sections() {
	for i, l := range p.lans {
		p.write("\n## %s\n", p.describe(l.device))
		active := "# "
		switch {
		case l.ipv6.IsValid():
			p.write("## Somebody else gives it IPv6 already. Without them, uplinkd could, and tell hosts at once when a provider fails:\n")
		case !p.offered():
			p.write("## No uplink has IPv6 now. With a provider that delegates a prefix, this would hand it on to the hosts:\n")
		default:
			p.write("## It has no IPv6, and a provider has: its hosts get a part of the delegated prefix. Stop other programs that advertise\n" +
				"## a router there (radvd, dnsmasq's enable-ra).\n")
			active = ""
		}
		p.write("%[1]s[[lan]]\n%[1]sdevice = %[2]q\n%[1]ssubnet_id = %[3]d               # which /64 of each prefix; keep it for ever\n", active, l.device, i)
	}
}

// others names what is neither an uplink nor a LAN, and why.
func (p *proposer) others() {
	first := true
	for _, l := range p.obs.Links {
		if l.Loopback || !l.Up || p.uplinkOn(l.Name) || slices.ContainsFunc(p.lans, func(f lanFound) bool { return f.device == l.Name }) {
			continue
		}
		if first {
			p.write("\n## Left alone:\n")
			first = false
		}
		place, section := "", ""
		switch below, above := p.name(l.Master), p.above(l.Index); {
		case programs.OfGuests(l.Name) != "":
			place = "of containers or virtual machines, whose traffic is treated like a LAN's"
		case below != "":
			place = "a port of " + below
		case above != "":
			place = above + " is on it"
		case l.Kind == config.KindWireGuard:
			place, section = "no default route leads there; policies could use it:", p.wireGuard(l.Name)
		}
		p.write("## * %s\n%s", p.describe(l.Name, place), section)
	}
}

// programs names what else runs here, and what must be known of it.
func (p *proposer) programs(beside []programs.Found) {
	if len(beside) > 0 {
		p.write("\n## Also here (uplinkd doctor looks whether they get on with several uplinks):\n")
	}
	for _, n := range beside {
		p.write("## * %s, by %s: it %s\n", n.Name, n.By, n.Does)
		if n.Write != "" {
			p.write("##   to write: %s\n", n.Write)
		}
	}
}

// wireGuard is the section of a tunnel that carries what policies send there.
func (p *proposer) wireGuard(device string) string {
	u := config.DefaultUplink(discovery.UplinkName(device), device)
	if !accepted(&u) || slices.ContainsFunc(p.found, func(f config.Uplink) bool { return f.Name == u.Name }) || len(p.found) == 0 {
		return ""
	}
	return fmt.Sprintf("# [[uplink]]\n# name = %q\n# kind = \"wireguard\"\n# device = %q\n# default = false              # policies alone use it\n", u.Name, device)
}

func (p *proposer) uplinkOn(device string) bool {
	return slices.ContainsFunc(p.found, func(u config.Uplink) bool { return u.Device == device })
}

func (p *proposer) name(index int) string {
	for _, l := range p.obs.Links {
		if index != 0 && l.Index == index {
			return l.Name
		}
	}
	return ""
}

// above lists the devices that stand on another.
func (p *proposer) above(index int) string {
	var names []string
	for _, l := range p.obs.Links {
		if l.Parent == index {
			names = append(names, l.Name)
		}
	}
	return strings.Join(names, ", ")
}

// findLANs finds devices with a private address that somebody wrote down for this machine: routers of LANs have such.
func (p *proposer) findLANs() {
	for _, l := range p.obs.Links {
		if l.Loopback || !l.Up || l.Master != 0 || l.PointToPoint || l.Kind == config.KindWireGuard || programs.OfGuests(l.Name) != "" || p.uplinkOn(l.Name) ||
			!validDevice(l.Name) || len(p.lans) == config.MaxLANs {
			continue
		}
		if slices.ContainsFunc(p.obs.Addrs, func(a rules.Addr) bool {
			return a.Device == l.Name && a.Prefix.Addr().Is4() && a.Prefix.Addr().IsPrivate() && !a.Dynamic && a.Prefix.Bits() < 31
		}) {
			p.lans = append(p.lans, lanFound{l.Name, p.global(l.Name)})
		}
	}
}

// global returns a global IPv6 address of a device that is not ours.
func (p *proposer) global(device string) netip.Prefix {
	everywhere := netip.MustParsePrefix("2000::/3")
	for _, a := range p.obs.Addrs {
		if a.Device == device && everywhere.Contains(a.Prefix.Addr()) && int(a.Protocol) != config.Default().Kernel.Protocol {
			return a.Prefix
		}
	}
	return netip.Prefix{}
}

// describe says in a line what a device is and has.
func (p *proposer) describe(device string, more ...string) string {
	seen := []string{p.sort(device)}
	for _, a := range p.obs.Addrs {
		if a.Device == device && !a.LinkScope && a.Prefix.Addr().IsGlobalUnicast() {
			seen = append(seen, a.Prefix.String())
		}
	}
	for _, r := range p.obs.Routes {
		if r.Table != netcfg.TableMain || !r.IsDefault() || r.Type != netcfg.Unicast {
			continue
		}
		for _, hop := range r.Nexthops {
			if hop.Device != device {
				continue
			}
			via := "on the link itself"
			if hop.Gateway.IsValid() {
				via = "via " + hop.Gateway.String()
			}
			seen = append(seen, fmt.Sprintf("%s default %s, metric %d (%s)", r.Family, via, r.Metric, protocolWord(r.Protocol)))
		}
	}
	seen = slices.DeleteFunc(append(seen, more...), func(s string) bool { return s == "" })
	if len(seen) == 0 {
		return device
	}
	return device + ": " + strings.Join(seen, "; ")
}

// sort says what kind of device it is; "" for a plain network card.
func (p *proposer) sort(device string) string {
	l, _ := p.obs.Link(device)
	var driver string
	if p.machine.Driver != nil {
		driver = p.machine.Driver(device)
	}
	on := ""
	if parent := p.name(l.Parent); parent != "" {
		on = " on " + parent
	}
	switch {
	case l.Kind == "bridge":
		var ports []string
		for _, port := range p.obs.Links {
			if port.Master == l.Index && l.Index != 0 {
				ports = append(ports, port.Name)
			}
		}
		return "bridge of " + cmp.Or(strings.Join(ports, ", "), "nothing")
	case l.Kind == "vlan":
		return "VLAN" + on
	case l.Kind == "wireguard":
		return "WireGuard"
	case l.Kind == "ppp" || strings.HasPrefix(device, "ppp"):
		return "PPP"
	case p.machine.Mobile(device) && driver != "" && driver != "veth":
		return "mobile network or phone (" + driver + ")"
	case p.machine.Mobile(device):
		return "mobile network or phone, by its name"
	case l.Kind != "" && l.Kind != "veth":
		return l.Kind + on
	}
	return ""
}

// protocolWord says who installed a route (linux/rtnetlink.h, and /etc/iproute2/rt_protos).
func protocolWord(protocol uint8) string {
	switch protocol {
	case 2:
		return "by the kernel"
	case 3:
		return "by hand"
	case 4:
		return "static"
	case 9:
		return "router advertisement"
	case 16:
		return "DHCP"
	}
	return cmp.Or(programs.Tagger(protocol), "protocol "+strconv.Itoa(int(protocol)))
}

// accepted reports whether an uplink of such a name on such a device may stand in a configuration. A name that
// means something else ("main", "7") is replaced.
func accepted(u *config.Uplink) bool {
	for _, name := range []string{u.Name, "wan-" + u.Name[:min(len(u.Name), 20)]} {
		if _, err := config.Parse("", fmt.Appendf(nil, "[[uplink]]\nname = %q\ndevice = %q\n", name, u.Device)); err == nil {
			u.Name = name
			return true
		}
	}
	return false
}

func validDevice(device string) bool {
	u := config.DefaultUplink("lan", device)
	return accepted(&u)
}
