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
	"github.com/uplinkd/uplinkd/internal/lease"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

// Files of programs that learn DNS servers of a device.
const (
	fromNetworkd   planinput.ResolverSource = "systemd-networkd" // /run/systemd/netif/links/INDEX, its own form
	fromResolvconf planinput.ResolverSource = "resolvconf"       // what programs tell resolvconf(8): DEVICE.PROGRAM, as resolv.conf
	fromPPP        planinput.ResolverSource = "pppd"             // usepeerdns of pppd(8), one file for all its devices
	fromNM         planinput.ResolverSource = "NetworkManager"   // over D-Bus: askNetworkManager
	fromDhclient   planinput.ResolverSource = "dhclient"         // dhclient.leases(5)
)

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
	var devices []string
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if strings.HasPrefix(u.Device, "ppp") {
			points++
		}
		if u.DNS.Auto && (u.IPv4.Method == config.MethodAuto || u.IPv6.Method == config.MethodAuto) {
			devices = append(devices, u.Device)
		}
	}
	managed := e.managed(devices, time.Now())
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
		add(fromNM, managed[u.Device])
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
func (e *Engine) read(path string) []byte { return lease.Read(e.o.Root, path) }

// networkd reads "DNS=192.0.2.1 2001:db8::1", which has also what is configured for the link.
func (e *Engine) networkd(device string) []netip.Addr {
	index := strings.TrimSpace(string(e.read("/sys/class/net/" + device + "/ifindex")))
	if index == "" {
		return nil
	}
	for line := range strings.Lines(string(e.read("/run/systemd/netif/links/" + index))) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), "DNS="); ok {
			return lease.Addresses(strings.Fields(words))
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
			list = append(list, lease.Addresses(words[1:2])...)
		}
	}
	return list
}

// dhclient reads the last lease of a device that has not expired.
func (e *Engine) dhclient(device string) []netip.Addr {
	for _, file := range lease.DhclientFiles(device) {
		if l, ok := lease.Dhclient(e.read(file), device, time.Now()); ok && len(l.DNS) > 0 {
			return l.DNS
		}
	}
	return nil
}
