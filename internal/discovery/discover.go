// Package discovery finds uplinks where there is no configuration file.
package discovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/lease"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Discovery makes a configuration of what the kernel holds: each device with a default route in table
// main, other than one of ours, is an uplink, and so is one that somebody leased an address with a router for, whose default
// route was refused. Metrics become tiers: the lowest is tier 1, equal ones share a tier, except that mobile networks stand
// behind wired ones and are metered. What was found once stays: an uplink that lost its default route is down, not gone.
type Discovery struct {
	base    *config.Config
	machine Machine
	seen    map[string]*candidate // by device
}

// Machine says of devices what the kernel's routing does not. Functions that are nil say nothing.
type Machine struct {
	Driver func(device string) string                         // as ethtool -i has it
	Lease  func(device string, index int) (lease.Lease, bool) // of another program, in force
}

// ThisMachine reads the leases of the programs that run here. Driver names the driver of a device.
func ThisMachine(driver func(device string) string) Machine {
	return Machine{Driver: driver, Lease: func(device string, index int) (lease.Lease, bool) { return lease.Of("", device, index, time.Now()) }}
}

// candidate is a device that leads out.
type candidate struct {
	name   string
	metric uint32 // the lowest that a default route of the device has had
	mobile bool
}

// New returns a discovery of uplinks beside what a configuration says.
func New(base *config.Config, m Machine) *Discovery {
	return &Discovery{base: base, machine: m, seen: make(map[string]*candidate)}
}

// Scan returns the configuration of all that was found so far, and whether this look changed it.
func (d *Discovery) Scan(obs *rules.Observed) (c *config.Config, changed bool) {
	metrics := defaultMetrics(obs, d.base.Kernel.Protocol, rules.Families[:]...)
	for _, l := range d.LostDefaults(obs) {
		if _, has := metrics[l.Device]; !has {
			metrics[l.Device] = l.Metric
		}
	}
	for _, device := range byMetric(metrics) {
		metric, s := metrics[device], d.seen[device]
		switch {
		case s == nil && len(d.seen) < config.MaxUplinks:
			d.seen[device] = &candidate{metric: metric, mobile: d.machine.Mobile(device)}
			changed = true
		case s != nil && metric < s.metric:
			s.metric = metric
			changed = true
		}
	}
	for device, s := range d.seen {
		metrics[device] = s.metric
	}
	maps.DeleteFunc(metrics, func(device string, _ uint32) bool { return d.seen[device] == nil })
	devices := byMetric(metrics)
	slices.SortStableFunc(devices, func(a, b string) int {
		return cmp.Or(cmp.Compare(metrics[a], metrics[b]), order(d.seen[a].mobile)-order(d.seen[b].mobile))
	})
	out := *d.base
	out.Uplinks = make([]config.Uplink, len(devices))
	for i, device := range devices {
		s := d.seen[device]
		if s.name == "" {
			s.name = d.unusedName(device)
		}
		u := config.DefaultUplink(s.name, device)
		if i > 0 {
			u.Tier = out.Uplinks[i-1].Tier
			if before := d.seen[devices[i-1]]; s.metric != before.metric || s.mobile != before.mobile {
				u.Tier++
			}
		}
		if s.mobile {
			u.Metered, u.Probe.Interval = true, config.MeteredInterval
		}
		out.Uplinks[i] = u
	}
	return &out, changed
}

// order puts wired lines before mobile ones.
func order(mobile bool) int {
	if mobile {
		return 1
	}
	return 0
}

// LostDefault is a device that leads out, as its lease has a router or as it is a line of PPP, and that has no default route while
// another one has.
type LostDefault struct {
	Device string
	Lease  lease.Lease // the zero value of a line of PPP
	Metric uint32      // of the default route that is there
	By     string      // the device of that one
}

// LostDefaults finds devices that were leased an address and have no default route. DHCP clients that are told no metric
// give all the same one, and table main has room for one default route of each: the second is refused, or replaces the first.
// pppd installs none where there is one. A line of PPP with a private address may as well be somebody who dialed in: it does not count.
func (d *Discovery) LostDefaults(obs *rules.Observed) (list []LostDefault) {
	four := defaultMetrics(obs, d.base.Kernel.Protocol, rules.IPv4)
	if len(four) == 0 {
		return nil // nobody has one: the clients are not done yet
	}
	by := byMetric(four)[0]
	for _, a := range obs.Addrs {
		link, ok := obs.Link(a.Device)
		if _, has := four[a.Device]; has || !ok || link.Loopback || !link.Carrier || a.LinkScope || !a.Prefix.Addr().Is4() || int(a.Protocol) == d.base.Kernel.Protocol {
			continue
		}
		if strings.HasPrefix(a.Device, "ppp") && link.PointToPoint && !a.Prefix.Addr().IsPrivate() {
			list = append(list, LostDefault{a.Device, lease.Lease{}, four[by], by})
			continue
		}
		if d.machine.Lease == nil || !a.Dynamic { // whoever leases an address gives it a lifetime; files are looked at for no others
			continue
		}
		// The file may be of another network that the device was in, or of the other end of a cable that was moved.
		if l, ok := d.machine.Lease(a.Device, link.Index); ok && l.Address == a.Prefix.Addr() && slices.ContainsFunc(l.Routers, a.Prefix.Contains) {
			list = append(list, LostDefault{a.Device, l, four[by], by})
		}
	}
	return list
}

// mobileDrivers are those of mobile modems, and of phones and LTE sticks that look like a network card on USB.
var mobileDrivers = []string{
	"qmi_wwan", "qmi_wwan_q", "cdc_mbim", "huawei_cdc_ncm", "sierra_net", "hso", "mhi_net", "iosm", "mtk_t7xx",
	"rndis_host", "ipheth", "cdc_ether", "cdc_ncm", "cdc_eem",
}

// mobilePrefixes are how the kernel, udev and ModemManager name such devices: wwan0, wwp0s20u2i8, usb0, rmnet0, bnep0 (a phone by Bluetooth).
var mobilePrefixes = []string{"ww", "usb", "rmnet", "bnep"}

// Mobile reports whether a device looks like a mobile network, or a phone that shares one: by its driver, or by its name.
func (m Machine) Mobile(device string) bool {
	if slices.ContainsFunc(mobilePrefixes, func(p string) bool { return strings.HasPrefix(device, p) }) {
		return true
	}
	return m.Driver != nil && slices.Contains(mobileDrivers, m.Driver(device))
}

// defaultMetrics returns the lowest metric of each device's default routes of some families that are not ours.
func defaultMetrics(obs *rules.Observed, ours int, families ...rules.Family) map[string]uint32 {
	metrics := make(map[string]uint32)
	for _, r := range obs.Routes {
		if r.Table != netcfg.TableMain || int(r.Protocol) == ours || r.Type != netcfg.Unicast || !r.IsDefault() || !slices.Contains(families, r.Family) {
			continue
		}
		for _, hop := range r.Nexthops {
			if have, ok := metrics[hop.Device]; !ok || r.Metric < have {
				metrics[hop.Device] = r.Metric
			}
		}
	}
	return metrics
}

// byMetric sorts devices, the lowest metric first.
func byMetric(metrics map[string]uint32) []string {
	return slices.SortedFunc(maps.Keys(metrics), func(a, b string) int {
		return cmp.Or(cmp.Compare(metrics[a], metrics[b]), cmp.Compare(a, b))
	})
}

// unusedName makes an uplink name of a device name that no other uplink has.
func (d *Discovery) unusedName(device string) string {
	name := UplinkName(device)
	for n, base := 2, name; d.named(name); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

func (d *Discovery) named(name string) bool {
	for _, s := range d.seen {
		if s.name == name {
			return true
		}
	}
	return false
}

// UplinkName makes a valid uplink name of a device name ("eth0.7" becomes "eth0-7").
func UplinkName(device string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, device)
	if name[0] == '-' || name[0] == '_' {
		name = "x" + name
	}
	return name
}
