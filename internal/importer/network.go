package importer

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// network is OpenWrt's /etc/config/network, as far as it says which device an interface has.
type network struct {
	known      bool // a file was given
	interfaces map[string]*netInterface
	names      []string // in the order of the file
}

// netInterface is an interface of netifd.
type netInterface struct {
	name, device, proto string
	metric              int
	off, noDefault      bool
	from                origin
	guessed             string // why the device may be another one, "" when it is sure
}

// networkOf reads the file that was given beside, and sections of a package network among the others ("uci export").
func networkOf(d *draft, all *uciFile, file *File) *network {
	n := &network{interfaces: make(map[string]*netInterface)}
	var sections []*uciSection
	if file != nil {
		n.known = true
		u := parseUCI(*file)
		d.broken(u.broken)
		sections = u.sections
	}
	own := func(s *uciSection) bool { return s.pkg != "network" }
	for _, s := range all.sections {
		if !own(s) {
			n.known = true
			sections = append(sections, s)
		}
	}
	all.sections = slices.DeleteFunc(slices.Clone(all.sections), func(s *uciSection) bool { return !own(s) })
	for _, s := range sections {
		if s.kind != "interface" && s.kind != "alias" || s.name == "" || s.name == "loopback" {
			continue
		}
		metric, _ := strconv.Atoi(s.get("metric", "0"))
		n.interfaces[s.name] = &netInterface{name: s.name, proto: s.get("proto", "none"), metric: metric, from: s.from,
			off: s.flag("disabled", false) || !s.flag("enabled", true), noDefault: !s.flag("defaultroute", true)}
		n.names = append(n.names, s.name)
	}
	for _, s := range sections {
		if i := n.interfaces[s.name]; i != nil && i.device == "" && (s.kind == "interface" || s.kind == "alias") {
			i.device, i.guessed = n.deviceOf(s, sections, 0)
		}
	}
	return n
}

// ownDevice is the name of the device that netifd makes for an interface of a protocol: this before the interface's name.
var ownDevice = map[string]string{
	"pppoe": "pppoe-", "pppoa": "pppoa-", "ppp": "ppp-", "3g": "3g-", "pptp": "pptp-", "l2tp": "l2tp-", "sstp": "sstp-", "openconnect": "vpn-",
	"wireguard": "", "amneziawg": "", "xfrm": "", "6in4": "6in4-", "6to4": "6to4-", "6rd": "6rd-", "gre": "gre4-", "gretap": "gre4t-", "grev6": "gre6-",
	"grev6tap": "gre6t-", "ipip": "ipip-", "vti": "vti-", "vtiv6": "vti6-", "dslite": "ds-", "map": "map-", "464xlat": "464-",
}

// tunnels are protocols of what is carried by something else.
var tunnels = []string{"wireguard", "amneziawg", "openconnect", "pptp", "l2tp", "sstp", "xfrm", "6in4", "gre", "gretap", "grev6", "grev6tap", "ipip", "vti", "vtiv6", "vxlan", "openvpn", "zerotier", "tailscale"}

// deviceOf finds the device of an interface; depth counts aliases of aliases.
func (n *network) deviceOf(s *uciSection, sections []*uciSection, depth int) (device, guessed string) {
	proto := s.get("proto", "none")
	if prefix, ok := ownDevice[proto]; ok {
		return prefix + s.name, ""
	}
	if s.get("type", "") == "bridge" {
		return "br-" + s.name, ""
	}
	device = s.get("device", s.get("ifname", s.get("interface", "")))
	switch first, rest, _ := strings.Cut(device, " "); {
	case slices.Contains([]string{"qmi", "mbim", "ncm", "modemmanager", "wwan"}, proto) && (device == "" || strings.HasPrefix(device, "/")):
		return "wwan0", "the modem's network device is only known when it is up"
	case rest != "":
		device = first
	}
	if base, alias := strings.CutPrefix(device, "@"); alias && depth < 8 {
		for _, o := range sections {
			if o.kind == "interface" && o.name == base && o != s {
				return n.deviceOf(o, sections, depth+1)
			}
		}
		return base, "the interface " + quoted(base) + " that it is an alias of is not in the file"
	}
	if device == "" {
		return s.name, "no device is named there: Wi-Fi networks get theirs from /etc/config/wireless"
	}
	return device, ""
}

// device says which device an interface has, and a sentence when that is a guess.
func (n *network) device(name string) (device, guess string) {
	i := n.interfaces[name]
	ask := "; \"ubus call network.interface." + name + " status\" shows it as l3_device"
	switch {
	case i != nil && i.guessed == "":
		return i.device, ""
	case i != nil:
		return i.device, "device " + quoted(i.device) + " of interface " + quoted(name) + " is a guess, because " + i.guessed + ask
	case n.known:
		return name, "interface " + quoted(name) + " is not in the network file: its name stands for its device" + ask
	}
	return name, "the interface's name " + quoted(name) + " stands for its device, because no --network file was given"
}

var tunnelName = regexp.MustCompile(`(?i)^(wg|vpn|tun|tap|ovpn|openvpn|wireguard|tailscale|zerotier|zt|awg|sit|6in4|gre)`)

// tunnel reports whether an interface is one that something else carries: traffic uses it only when told to.
func (n *network) tunnel(name string) bool {
	if i := n.interfaces[name]; i != nil {
		return slices.Contains(tunnels, i.proto) || i.noDefault || i.proto == "none" && tunnelName.MatchString(i.device)
	}
	return tunnelName.MatchString(name)
}

var wireguardName = regexp.MustCompile(`(?i)^wg|wireguard`)

// wireguard marks an uplink on a WireGuard device, which has no default route in table main to be followed: what its peers are
// allowed decides.
func (n *network) wireguard(u *uplink, name string, at origin) {
	i := n.interfaces[name]
	if u.wireguard = i != nil && i.proto == "wireguard" || i == nil && wireguardName.MatchString(name); !u.wireguard {
		return
	}
	kind := Kept
	if i == nil {
		kind = Assumed
	}
	u.note(kind, at, "it is a WireGuard device that others make: turn their routes for it off (route_allowed_ips 0), and let allowed_ips hold what goes by it")
}

// lans are the devices of interfaces that are no uplinks.
func (n *network) lans(d *draft) (list []string) {
	for _, name := range n.names {
		i := n.interfaces[name]
		if !i.off && i.guessed == "" && !slices.ContainsFunc(d.uplinks, func(u *uplink) bool { return u.device == i.device }) && !slices.Contains(list, i.device) {
			list = append(list, i.device)
		}
	}
	return list
}

// byMetric orders uplinks as table main would: the lowest metric of their interfaces first.
func (n *network) byMetric(list []*uplink, interfaces map[*uplink]string) ways {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *uplink) int { return cmp.Compare(n.metric(interfaces[a]), n.metric(interfaces[b])) })
	var w ways
	for _, u := range list {
		w = append(w, []share{{u, 1}})
	}
	return w
}

func (n *network) metric(name string) int {
	if i := n.interfaces[name]; i != nil {
		return i.metric
	}
	return 0
}
