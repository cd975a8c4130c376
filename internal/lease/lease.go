// Package lease reads what other DHCPv4 clients of this machine have been given, in the files that they keep.
//
//	dhclient ── /var/lib/dhcp/dhclient.DEVICE.leases ──┐
//	networkd ── /run/systemd/netif/leases/INDEX ───────┴── Of ──► Lease
package lease

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Lease is what a server gave.
type Lease struct {
	Address netip.Addr
	Routers []netip.Addr // gateways, the best first
	DNS     []netip.Addr
	From    string // the program: "dhclient", "systemd-networkd"
}

// MaxSize bounds what is read of a file of others, in bytes.
const MaxSize = 1 << 20

// Of returns the lease in force of a device, with its interface index. Root is where the files are looked for, "" for "/".
func Of(root, device string, index int, now time.Time) (Lease, bool) {
	for _, file := range DhclientFiles(device) {
		if l, ok := Dhclient(Read(root, file), device, now); ok {
			return l, true
		}
	}
	return networkd(Read(root, "/run/systemd/netif/leases/"+strconv.Itoa(index)))
}

// Read reads a file of others; nil: there is none, or none that could be meant.
func Read(root, path string) []byte {
	path = filepath.Join("/", root, path)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > MaxSize {
		return nil
	}
	b, _ := os.ReadFile(path)
	return b
}

// DhclientFiles lists where dhclient keeps leases of a device: Debian's ifupdown, its own default, NetworkManager and RHEL.
func DhclientFiles(device string) []string {
	return []string{
		"/var/lib/dhcp/dhclient." + device + ".leases", "/var/lib/dhcp/dhclient.leases",
		"/var/lib/dhclient/dhclient--" + device + ".lease", "/var/lib/dhclient/dhclient-" + device + ".leases",
	}
}

// Dhclient reads the last lease of a device from dhclient.leases(5): "lease { interface "eth0"; option domain-name-servers
// 192.0.2.1,192.0.2.2; expire 4 2026/11/26 12:00:00; }", the latest last, in UTC. One that has expired is none: another program
// may have the device now.
func Dhclient(content []byte, device string, now time.Time) (last Lease, ok bool) {
	current, ours, valid := Lease{}, false, true
	for line := range strings.Lines(string(content)) {
		words := strings.FieldsFunc(line, func(r rune) bool {
			return r == ' ' || r == '\t' || r == ';' || r == ',' || r == '\n' || r == '"' || r == '\r'
		})
		switch {
		case len(words) == 0:
		case words[0] == "lease":
			current, ours, valid = Lease{From: "dhclient"}, false, true
		case words[0] == "interface" && len(words) > 1:
			ours = words[1] == device
		case words[0] == "fixed-address" && len(words) > 1:
			current.Address, _ = netip.ParseAddr(words[1])
		case words[0] == "option" && len(words) > 2 && words[1] == "domain-name-servers":
			current.DNS = Addresses(words[2:])
		case words[0] == "option" && len(words) > 2 && words[1] == "routers":
			current.Routers = Addresses(words[2:])
		case words[0] == "expire" && len(words) > 3:
			end, err := time.Parse("2006/01/02 15:04:05", words[2]+" "+words[3])
			valid = err == nil && now.Before(end)
		case words[0] == "}" && ours:
			if last, ok = (Lease{}), valid; valid {
				last = current
			}
		}
	}
	return last, ok
}

// networkd reads what systemd-networkd writes down of a lease: "ADDRESS=198.51.100.7", "ROUTER=198.51.100.1 198.51.100.2". It takes the
// file away with the lease.
func networkd(content []byte) (Lease, bool) {
	l := Lease{From: "systemd-networkd"}
	for line := range strings.Lines(string(content)) {
		key, val, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch words := strings.Fields(val); {
		case len(words) == 0:
		case key == "ADDRESS":
			l.Address, _ = netip.ParseAddr(words[0])
		case key == "ROUTER":
			l.Routers = Addresses(words)
		case key == "DNS":
			l.DNS = Addresses(words)
		}
	}
	return l, l.Address.IsValid()
}

// Addresses reads those of the words that are addresses; a zone is the device's own. systemd writes ADDRESS[:PORT][%ZONE][#NAME];
// another port than 53 is none that could be told to everybody.
func Addresses(words []string) (list []netip.Addr) {
	for _, w := range words {
		w, _, _ = strings.Cut(w, "#")
		if a, err := netip.ParseAddr(w); err == nil {
			list = append(list, a.Unmap().WithZone(""))
		}
	}
	return slices.Clip(list)
}
