package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// dumpTries bounds how often an interrupted dump is asked for again. The kernel interrupts a dump when
// the list changes underneath it; what was read then may lack entries.
const dumpTries = 10

// devices maps interface indexes to names.
type devices struct {
	name  map[int]string
	index map[string]int
	up    map[string]int // of those that are set up
}

// Snapshot reads links, addresses, routes, rules, our nftables tables, and what is asked for.
func (k *Kernel) Snapshot(q rules.Query) (*rules.Observed, error) {
	obs := &rules.Observed{Sysctls: readSysctls(q.Sysctls)}
	var err error
	if obs.Links, obs.Tunnels, err = k.readDevices(); err != nil {
		return nil, err
	}
	for _, device := range q.WireGuard {
		if d, err := k.wireGuard.Device(device); err == nil {
			obs.WireGuard = append(obs.WireGuard, *d)
		} else if !errors.Is(err, fs.ErrNotExist) {
			obs.WireGuard = append(obs.WireGuard, rules.WireGuardDevice{Device: device, Err: err.Error()})
		}
	}
	if obs.Addrs, err = k.addrs(); err != nil {
		return nil, err
	}
	if q.MPTCP {
		if obs.MPTCP, err = k.mptcp(); err != nil { // routes need it not
			obs.MPTCP = &rules.MPTCP{Impossible: err.Error()}
		}
	}
	if q.Proxied {
		if obs.Proxied, err = k.proxyNeighbours(); err != nil {
			return nil, err
		}
	}
	if q.Offload {
		obs.NoOffload = k.noOffload()
	}
	if q.Neighbours {
		if obs.Neighbours, err = k.neighbours(); err != nil {
			return nil, err
		}
	}
	_, err = os.Stat(filepath.Join(sysctlRoot, "net/ipv6"))
	obs.NoIPv6 = errors.Is(err, fs.ErrNotExist)
	near := slices.Clone(q.Near)
	for i := range obs.Links { // planning takes these for uplinks too
		if l := &obs.Links[i]; l.Group == k.numbers.LinkGroup && !slices.Contains(near, l.Name) {
			near = append(near, l.Name)
		}
	}
	for _, family := range rules.Families {
		if family == rules.IPv6 && obs.NoIPv6 {
			continue
		}
		routes, routed, err := k.routes(family, near, q.Urgent)
		if err != nil {
			return nil, err
		}
		obs.Routes, obs.Routed[family.Index()] = append(obs.Routes, routes...), routed
		found, err := k.rules(family)
		if err != nil {
			return nil, err
		}
		obs.Rules = append(obs.Rules, found...)
	}
	read, err := k.readTables()
	if err != nil { // routes and rules need it not
		obs.NoTables = err.Error()
		return obs, nil
	}
	obs.Table, obs.Policies, obs.Translations = read.table, read.policies, read.translations
	obs.PartialTranslations = read.partial
	_, err = os.Stat(filepath.Join(sysctlRoot, "net/core/xfrm_acq_expires"))
	obs.XFRM = err == nil
	if obs.Egress, err = k.egress(obs.Links, q.Sysctls); err != nil {
		return nil, err
	}
	return obs, nil
}

// dump asks for a list until it comes uninterrupted, and hands each message to decode.
func dump[T any](k *Kernel, what string, msgType int, header func() nl.NetlinkRequestData, decode func([]byte) (T, bool)) ([]T, error) {
	for range dumpTries {
		var list []T
		req := k.request(msgType, unix.NLM_F_DUMP)
		req.AddData(header())
		err := req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(m []byte) bool {
			if x, ok := decode(m); ok {
				list = append(list, x)
			}
			return true
		})
		if errors.Is(err, nl.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", what, err)
		}
		return list, nil
	}
	return nil, fmt.Errorf("listing %s: interrupted by changes %d times in a row", what, dumpTries)
}

// readDevices lists the devices, and notes their indexes.
func (k *Kernel) readDevices() ([]rules.Link, []netcfg.TunnelLink, error) {
	links, tunnels, err := k.links()
	if err != nil {
		return nil, nil, err
	}
	k.devices = devices{make(map[int]string, len(links)), make(map[string]int, len(links)), make(map[string]int, len(links))}
	for _, l := range links {
		k.devices.name[l.Index] = l.Name
		k.devices.index[l.Name] = l.Index
		if l.Up {
			k.devices.up[l.Name] = l.Index
		}
	}
	return links, tunnels, nil
}

func (k *Kernel) links() ([]rules.Link, []netcfg.TunnelLink, error) {
	header := func() nl.NetlinkRequestData { return nl.NewIfInfomsg(unix.AF_UNSPEC) }
	all, err := dump(k, "devices", unix.RTM_GETLINK, header, decodeLink)
	links := make([]rules.Link, len(all))
	for i := range all {
		links[i] = all[i].Link
	}
	return links, tunnelLinks(all), err
}

func decodeLink(m []byte) (decodedLink, bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return decodedLink{}, false
	}
	msg := nl.DeserializeIfInfomsg(m)
	l := decodedLink{Link: rules.Link{
		Index:        int(msg.Index),
		Up:           msg.Flags&unix.IFF_UP != 0,
		Loopback:     msg.Flags&unix.IFF_LOOPBACK != 0,
		PointToPoint: msg.Flags&unix.IFF_POINTOPOINT != 0,
		NoNeighbours: msg.Flags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0,
	}}
	l.tunnel.Multicast = msg.Flags&unix.IFF_MULTICAST != 0
	operational, elsewhere := true, false
	for typ, value := range attributes(m[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(value)
		case unix.IFLA_GROUP:
			l.Group = native32(value)
		case unix.IFLA_ADDRESS:
			if len(value) == len(l.Hardware) {
				l.Hardware = [6]byte(value)
			}
		case unix.IFLA_MTU:
			l.MTU = int(native32(value))
		case unix.IFLA_IFALIAS:
			l.tunnel.Alias = unix.ByteSliceToString(value)
		case unix.IFLA_MASTER:
			l.Master = int(native32(value))
		case unix.IFLA_LINK:
			l.Parent = int(native32(value))
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_LINKINFO:
			l.tunnel.Params, l.tunnel.Floods = decodeParams(value), decodeFloods(value)
			l.Kind = l.tunnel.Kind
		case unix.IFLA_OPERSTATE:
			// RFC 2863 states as in linux/if.h: unknown is what tunnels and PPP report for ever.
			operational = len(value) > 0 && (value[0] == 0 || value[0] == 6)
		}
	}
	if elsewhere {
		l.Parent = 0
	}
	l.Carrier = msg.Flags&unix.IFF_LOWER_UP != 0 && operational
	return l, l.Name != ""
}

// attributes walks the attributes of a message; what is cut short ends the walk.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

func native32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func familyNumber(f rules.Family) uint8 {
	if f == rules.IPv6 {
		return syscall.AF_INET6
	}
	return syscall.AF_INET
}

func familyOf(number uint8) (rules.Family, bool) {
	switch number {
	case syscall.AF_INET:
		return rules.IPv4, true
	case syscall.AF_INET6:
		return rules.IPv6, true
	}
	return 0, false
}
