package doctor

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
)

// notPlain finds lines of keepalived.conf whose meaning is elsewhere, or depends on more: other files, conditions, definitions.
var notPlain = regexp.MustCompile(`(?m)^\s*(include|@|\$|~)|\$\{|\$[A-Z_]`)

// keepalivedFile looks into keepalived's configuration, as far as all of it is in one file and is plain.
func keepalivedFile(o *Observation, found found) {
	p := o.Pair
	if p.Keepalived == "" || notPlain.MatchString(p.Keepalived) {
		return
	}
	file, ok := readBlocks(p.Keepalived, "#!")
	if !ok {
		return
	}
	var instance *block
	for i := range file {
		if b := &file[i]; b.words[0] == "vrrp_instance" && slices.Contains(addressesIn(b), p.Virtual[0]) {
			instance = b
		}
	}
	if instance == nil {
		return
	}
	has := func(word string) bool { return find(instance.body, word) != nil }
	tracking(p, file, instance, found)
	if has("nopreempt") {
		found(Warning, "keepalived's nopreempt keeps this router from taking over while the other one lives: \"uplinkd pair yield\" there fails",
			"remove nopreempt, and give both routers the same priority: then none takes the role from the other")
	}
	if delay := find(instance.body, "preempt_delay"); delay != nil && len(delay.words) == 2 && delay.words[1] != "0" {
		found(Warning, fmt.Sprintf("keepalived's preempt_delay of %s s is how long \"uplinkd pair yield\" at the other router would have to wait, and it does not", delay.words[1]),
			"remove preempt_delay, and give both routers the same priority: then none takes the role from the other")
	}
	defs := find(file, "global_defs")
	global := func(word string) *block {
		if defs == nil {
			return nil
		}
		return find(defs.body, word)
	}
	for _, interval := range []*block{find(instance.body, "garp_interval"), global("vrrp_garp_interval"), global("vrrp_gna_interval")} {
		if interval == nil || len(interval.words) != 2 {
			continue
		}
		if s, err := strconv.ParseFloat(interval.words[1], 64); err == nil && s >= 0.05 {
			found(Warning, fmt.Sprintf("keepalived's %s of %s s is between two addresses: hosts and providers hear late that this router has them", interval.words[0], interval.words[1]),
				"remove "+interval.words[0])
		}
	}
	if global("vrrp_strict") != nil {
		found(Warning, "keepalived's vrrp_strict drops what hosts send to the virtual address itself, such as DNS queries", "remove vrrp_strict")
	}
	if len(p.Shared) > 0 && find(instance.body, "notify_master") == nil && find(instance.body, "notify") == nil && find(file, "vrrp_sync_group") == nil {
		found(Warning, fmt.Sprintf("keepalived runs nothing when this router becomes primary, so conntrackd does not put the other one's connections into the kernel: those by %s end", strings.Join(p.Shared, ", ")),
			"notify_master, notify_backup and notify_fault as in examples/pair/keepalived.conf")
	}
	for i := range o.Config.Uplinks {
		u := &o.Config.Uplinks[i]
		if u.Shared && !onDevice(instance, u.Device) {
			found(Error, fmt.Sprintf("keepalived has no address for %s, the device of the shared line %s: it would be without one", u.Device, u.Name),
				fmt.Sprintf("add ADDRESS/LENGTH dev %s to virtual_ipaddress, and the default route to virtual_routes", u.Device))
		}
	}
}

// tracking looks whether keepalived ranks this router by the file of "uplinkd pair yield".
func tracking(p *Pair, file []block, instance *block, found found) {
	write := fmt.Sprintf("track_file as in examples/pair/keepalived.conf, with file \"%s\" and weight -100, and its name in track_file of the vrrp_instance", p.YieldFile)
	var name string
	var weight *block
	for i := range file {
		b := &file[i]
		if (b.words[0] == "track_file" || b.words[0] == "vrrp_track_file") && len(b.words) == 2 {
			if f := find(b.body, "file"); f != nil && len(f.words) == 2 && f.words[1] == p.YieldFile {
				name, weight = b.words[1], find(b.body, "weight")
			}
		}
	}
	used := find(instance.body, "track_file")
	var entry *block
	if used != nil && name != "" {
		entry = find(used.body, name)
	}
	if entry == nil {
		found(Notice, fmt.Sprintf("keepalived does not track %s, so \"uplinkd pair yield\" cannot hand over from here", p.YieldFile), write)
		return
	}
	words := entry.words[1:]
	if len(words) == 0 && weight != nil {
		words = weight.words
	}
	if len(words) != 2 || words[0] != "weight" {
		words = []string{"weight", "1"}
	}
	if n, err := strconv.Atoi(words[1]); err == nil && n >= 0 {
		found(Warning, fmt.Sprintf("keepalived tracks %s with weight %d, which does not rank this router behind the other one", p.YieldFile, n), write)
	}
}

// addressesIn lists the addresses that an instance moves.
func addressesIn(instance *block) (list []netip.Addr) {
	for _, word := range all(instance.body) {
		address, _, _ := strings.Cut(word, "/")
		if a, err := netip.ParseAddr(address); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// onDevice reports whether an instance moves an address of a device.
func onDevice(instance *block, device string) bool {
	own := ""
	if b := find(instance.body, "interface"); b != nil && len(b.words) == 2 {
		own = b.words[1]
	}
	for _, section := range []string{"virtual_ipaddress", "virtual_ipaddress_excluded"} {
		b := find(instance.body, section)
		if b == nil {
			continue
		}
		for _, line := range b.body {
			on := own
			if at := slices.Index(line.words, "dev"); at >= 0 && at+1 < len(line.words) {
				on = line.words[at+1]
			}
			if on == device {
				return true
			}
		}
	}
	return false
}

// conntrackdFile looks whether conntrackd copies the connections of hosts.
func conntrackdFile(o *Observation, found found) {
	p := o.Pair
	if p.Conntrackd == "" || len(p.Shared) == 0 {
		return
	}
	file, ok := readBlocks(p.Conntrackd, "#")
	if !ok {
		return
	}
	general := find(file, "General")
	if find(file, "Sync") == nil {
		found(Warning, "conntrackd copies nothing: its configuration has no Sync section", "write one, as in examples/pair/conntrackd.conf")
		return
	}
	if general == nil {
		return
	}
	filter := find(general.body, "Filter")
	if filter == nil {
		return
	}
	const like = "as in examples/pair/conntrackd.conf: Protocol Accept { TCP UDP }, one on a line, and Address Ignore with the routers' own addresses alone"
	for _, protocol := range []string{"TCP", "UDP"} {
		accept, ignore := find(filter.body, "Protocol", "Accept"), find(filter.body, "Protocol", "Ignore")
		named := func(b *block) bool {
			return slices.ContainsFunc(all(b.body), func(w string) bool { return strings.EqualFold(w, protocol) })
		}
		if accept != nil && !named(accept) || ignore != nil && named(ignore) {
			found(Warning, fmt.Sprintf("conntrackd's filter keeps %s from the other router: these connections end when it takes over", protocol), like)
		}
	}
	lan := localNetworks(o)
	if ignore := find(filter.body, "Address", "Ignore"); ignore != nil {
		for _, n := range networksIn(ignore) {
			if !n.IsSingleIP() && slices.ContainsFunc(lan, n.Overlaps) {
				found(Warning, fmt.Sprintf("conntrackd's filter ignores %v, in which there are hosts: their connections end when the other router takes over", n), like)
			}
		}
	}
	if accept := find(filter.body, "Address", "Accept"); accept != nil {
		copied := networksIn(accept)
		for _, n := range lan {
			if !slices.ContainsFunc(copied, n.Overlaps) {
				found(Warning, fmt.Sprintf("conntrackd's filter accepts nothing of %v: connections of hosts there end when the other router takes over", n), like)
			}
		}
	}
	if state := find(filter.body, "State", "Accept"); state != nil && !slices.Contains(all(state.body), "ESTABLISHED") && len(all(state.body)) > 0 {
		found(Warning, "conntrackd's filter accepts no ESTABLISHED connections: they end when the other router takes over", "State Accept { ESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP }, or no State filter")
	}
}

// networksIn lists the addresses and networks of a filter.
func networksIn(b *block) (list []netip.Prefix) {
	for _, line := range b.body {
		if len(line.words) != 2 || !strings.EqualFold(line.words[0], "IPv4_address") && !strings.EqualFold(line.words[0], "IPv6_address") {
			continue
		}
		if n, err := netip.ParsePrefix(line.words[1]); err == nil {
			list = append(list, n.Masked())
		} else if a, err := netip.ParseAddr(line.words[1]); err == nil {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}

// localNetworks lists the IPv4 networks of the LAN with the virtual address.
func localNetworks(o *Observation) (list []netip.Prefix) {
	for _, a := range o.Routing.Addrs {
		if a.Device == o.Pair.Device && rules.FamilyOf(a.Prefix.Addr()) == rules.IPv4 && !a.LinkScope && !a.Prefix.IsSingleIP() && !slices.Contains(list, a.Prefix.Masked()) {
			list = append(list, a.Prefix.Masked())
		}
	}
	return list
}

// pairSysctls looks for what keeps a handover from being seamless.
func pairSysctls(o *Observation, found found) {
	if len(o.Pair.Shared) > 0 && !o.Liberal {
		found(Notice, fmt.Sprintf("while a handover is under way, requests by %s go through one router and answers through the other, and connection tracking holds TCP segments for invalid whose other half it has not seen: some are sent again, and a connection that comes back here may stand still",
			strings.Join(o.Pair.Shared, ", ")),
			"sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1, and the same line in /etc/sysctl.d/uplinkd.conf, on both routers")
	}
}
