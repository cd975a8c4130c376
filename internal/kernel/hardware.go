package kernel

import (
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// setHardware changes the link-layer address of a device. One that is set down for that is set up again whatever comes of it.
func (k *Kernel) setHardware(op netcfg.SetHardware) error {
	address := nl.NewRtAttr(unix.IFLA_ADDRESS, op.Address[:])
	if !op.Down {
		return k.setLink(op.Device, 0, 0, address)
	}
	if err := k.setLink(op.Device, 0, unix.IFF_UP); err != nil {
		return err
	}
	return errors.Join(k.setLink(op.Device, 0, 0, address), k.setLink(op.Device, unix.IFF_UP, unix.IFF_UP))
}
