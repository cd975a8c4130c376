package kernel

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// decodedLink is a device with what only tunnels have.
type decodedLink struct {
	rules.Link
	tunnel netcfg.TunnelLink
}

// tunnelLinks picks those that are tunnels of kinds that we make, or ours.
func tunnelLinks(all []decodedLink) []netcfg.TunnelLink {
	var links []netcfg.TunnelLink
	for i := range all {
		t := all[i].tunnel
		if encap.Find(t.Kind) == nil && !t.Ours() {
			continue
		}
		t.Device, t.MTU, t.Up = all[i].Name, all[i].MTU, all[i].Up
		for j := range all {
			if all[i].Master != 0 && all[j].Index == all[i].Master {
				t.Bridge = all[j].Name
			}
		}
		links = append(links, t)
	}
	return links
}

// decodeParams reads IFLA_LINKINFO: the kind, and the data of the kinds that we make.
func decodeParams(b []byte) encap.Params {
	var kind string
	var data []byte
	for typ, value := range attributes(b) {
		switch typ {
		case nl.IFLA_INFO_KIND:
			kind = unix.ByteSliceToString(value)
		case nl.IFLA_INFO_DATA:
			data = value
		}
	}
	return encap.Decode(kind, attributes(data))
}

// decodeFloods reads of IFLA_LINKINFO whether a bridge hands multicast on to its port.
func decodeFloods(b []byte) bool {
	for typ, value := range attributes(b) {
		if typ != nl.IFLA_INFO_SLAVE_DATA {
			continue
		}
		for typ, value := range attributes(value) {
			if typ == unix.IFLA_BRPORT_MCAST_FLOOD {
				return first(value) != 0
			}
		}
	}
	return false
}

func first(value []byte) uint8 {
	if len(value) == 0 {
		return 0
	}
	return value[0]
}

func (k *Kernel) addTunnel(m netcfg.AddTunnel) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(m.Device)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m.MTU))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(m.LinkKind()))
	if list := m.Attributes(); list != nil {
		data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
		for _, a := range list {
			data.AddRtAttr(int(a.Type), a.Value)
		}
	}
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	// Kernels take no alias with the device. Without its alias it would be nobody's.
	if err := k.setLink(m.Device, 0, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(m.Alias))); err != nil {
		_ = k.removeLink(m.Device)
		return fmt.Errorf("marking the device as ours: %w", err)
	}
	_, _, err := k.readDevices() // what follows is about it
	return err
}

func (k *Kernel) removeLink(device string) error {
	req := k.request(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(device)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (k *Kernel) setMaster(op netcfg.SetMaster) error {
	bridge, ok := k.devices.index[op.Bridge]
	if !ok {
		return fmt.Errorf("bridge %s: %w", op.Bridge, unix.ENODEV)
	}
	return k.setLink(op.Device, 0, 0, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
}
