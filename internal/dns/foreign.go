package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

// Files of programs that learn DNS servers of a device.
const (
	fromNetworkd   planinput.ResolverSource = "systemd-networkd" // /run/systemd/netif/links/INDEX, its own form
	fromResolvconf planinput.ResolverSource = "resolvconf"       // what programs tell resolvconf(8): DEVICE.PROGRAM, as resolv.conf
	fromPPP        planinput.ResolverSource = "pppd"             // usepeerdns of pppd(8), one file for all its devices
	fromDhclient   planinput.ResolverSource = "dhclient"         // dhclient.leases(5)
)

// maxForeign bounds what is read of a file of others, in bytes.
const maxForeign = 1 << 20

// lookForeign looks at what other programs have learned, and has it planned for when that has changed.
func (e *Engine) lookForeign() {
	e.mu.Lock()
	c := e.config
	e.mu.Unlock()
	foreign := e.readForeign(c)
	e.mu.Lock()
	changed := e.config == c && !reflect.DeepEqual(foreign, e.foreign)
	if changed {
		e.foreign = foreign
	}
	e.mu.Unlock()
	if changed {
		e.o.Changed()
	}
}

// readForeign reads what other programs have learned for the uplinks, by name, in the families that they configure.
func (e *Engine) readForeign(c *config.Config) map[string][]planinput.Resolver {
	found := make(map[string][]planinput.Resolver)
	points := 0 // devices that pppd may have made
	for i := range c.Uplinks {
		if strings.HasPrefix(c.Uplinks[i].Device, "ppp") {
			points++
		}
	}
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		four, six := u.IPv4.Method == config.MethodAuto, u.IPv6.Method == config.MethodAuto
		if !u.DNS.Auto || !four && !six {
			continue
		}
		var list []planinput.Resolver
		add := func(from planinput.ResolverSource, addrs []netip.Addr) {
			for _, a := range addrs {
				known := slices.ContainsFunc(list, func(r planinput.Resolver) bool { return r.Addr == a })
				if !known && (a.Is4() && four || a.Is6() && six) && len(list) < 2*maxNameservers+2 {
					list = append(list, planinput.Resolver{Addr: a, From: from})
				}
			}
		}
		add(fromNetworkd, e.networkd(u.Device))
		add(fromResolvconf, e.resolvconf(u.Device))
		add(fromDhclient, e.dhclient(u.Device))
		if strings.HasPrefix(u.Device, "ppp") && points == 1 { // else nobody knows whose they are
			for _, file := range []string{"/run/ppp/resolv.conf", "/etc/ppp/resolv.conf"} {
				add(fromPPP, nameservers(e.read(file)))
			}
		}
		if len(list) > 0 {
			found[u.Name] = list
		}
	}
	return found
}

// read reads a file of others; nil: there is none.
func (e *Engine) read(path string) []byte {
	path = filepath.Join("/", e.o.Root, path)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxForeign {
		return nil
	}
	b, _ := os.ReadFile(path)
	return b
}

// networkd reads "DNS=192.0.2.1 2001:db8::1", which has also what is configured for the link.
func (e *Engine) networkd(device string) []netip.Addr {
	index := strings.TrimSpace(string(e.read("/sys/class/net/" + device + "/ifindex")))
	if index == "" {
		return nil
	}
	for line := range strings.Lines(string(e.read("/run/systemd/netif/links/" + index))) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), "DNS="); ok {
			return addresses(strings.Fields(words))
		}
	}
	return nil
}

// resolvconf reads what programs have told resolvconf, or openresolv, of a device: dhclient, dhcpcd, pppd, wg-quick.
func (e *Engine) resolvconf(device string) []netip.Addr {
	var list []netip.Addr
	for _, dir := range []string{"/run/resolvconf/interface", "/run/resolvconf/interfaces"} {
		entries, _ := os.ReadDir(filepath.Join("/", e.o.Root, dir))
		for _, entry := range entries { // by name
			if name := entry.Name(); name == device || strings.HasPrefix(name, device+".") || strings.HasSuffix(name, "."+device) {
				list = append(list, nameservers(e.read(filepath.Join(dir, name)))...)
			}
		}
	}
	return list
}

// nameservers reads a file as resolv.conf(5) has it.
func nameservers(content []byte) []netip.Addr {
	var list []netip.Addr
	for words := range fields(content) {
		if words[0] == "nameserver" && len(words) > 1 {
			list = append(list, addresses(words[1:2])...)
		}
	}
	return list
}

// dhclient reads the last lease of a device that has not expired.
func (e *Engine) dhclient(device string) []netip.Addr {
	for _, file := range []string{"/var/lib/dhcp/dhclient." + device + ".leases", "/var/lib/dhcp/dhclient.leases",
		"/var/lib/dhclient/dhclient--" + device + ".lease", "/var/lib/dhclient/dhclient-" + device + ".leases"} {
		if list := lastLease(e.read(file), device, time.Now()); list != nil {
			return list
		}
	}
	return nil
}

// lastLease reads dhclient.leases(5): "lease { interface "eth0"; option domain-name-servers 192.0.2.1,192.0.2.2; expire 4 2026/11/26
// 12:00:00; }", the latest last, in UTC. What it says of a lease that has expired is nothing: another program may have the device now.
func lastLease(content []byte, device string, now time.Time) []netip.Addr {
	var list, current []netip.Addr
	ours, valid := false, true
	for line := range strings.Lines(string(content)) {
		words := strings.FieldsFunc(line, func(r rune) bool {
			return r == ' ' || r == '\t' || r == ';' || r == ',' || r == '\n' || r == '"' || r == '\r'
		})
		switch {
		case len(words) == 0:
		case words[0] == "lease":
			current, ours, valid = nil, false, true
		case words[0] == "interface" && len(words) > 1:
			ours = words[1] == device
		case words[0] == "option" && len(words) > 2 && words[1] == "domain-name-servers":
			current = addresses(words[2:])
		case words[0] == "expire" && len(words) > 3:
			end, err := time.Parse("2006/01/02 15:04:05", words[2]+" "+words[3])
			valid = err == nil && now.Before(end)
		case words[0] == "}" && ours:
			if list = nil; valid {
				list = current
			}
		}
	}
	return list
}

// addresses reads those of the words that are addresses; a zone is the device's own.
func addresses(words []string) []netip.Addr {
	var list []netip.Addr
	for _, w := range words {
		// systemd writes ADDRESS[:PORT][%ZONE][#NAME]; another port than 53 is none that could be told to everybody.
		w, _, _ = strings.Cut(w, "#")
		if a, err := netip.ParseAddr(w); err == nil {
			list = append(list, a.Unmap().WithZone(""))
		}
	}
	return list
}
