package netcfg

import (
	"fmt"
	"net"
	"strings"
)

// Hardware is a link-layer address of Ethernet; zero: none.
type Hardware [6]byte

// String writes the address as ip(8) does.
func (h Hardware) String() string { return net.HardwareAddr(h[:]).String() }

// MarshalText writes the address as String does.
func (h Hardware) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads six octets with colons.
func (h *Hardware) UnmarshalText(text []byte) error {
	a, err := net.ParseMAC(string(text))
	if err == nil && len(a) != len(h) {
		err = fmt.Errorf("%s has %d octets, want %d", a, len(a), len(h))
	}
	if err != nil {
		return fmt.Errorf("reading a hardware address: %w", err)
	}
	*h = Hardware(a)
	return nil
}

// Unicast reports whether a device may have the address.
func (h Hardware) Unicast() bool { return h != (Hardware{}) && h[0]&1 == 0 }

// LinkHardware is the link-layer address that a device has, or shall have.
type LinkHardware struct {
	Device  string
	Address Hardware
	Why     string
	Restore bool // the address is a recorded one that is given back
	// Down has the device set down meanwhile, for drivers that change the address of no other (EBUSY of
	// net/ethernet/eth.c eth_prepare_mac_addr_change).
	Down bool
}

// SetHardware gives a device another link-layer address. From is the one that it had.
type SetHardware struct {
	LinkHardware
	From Hardware
}

func (o SetHardware) device() string { return o.Device }

// Command writes the change as a line for a shell, or three.
func (o SetHardware) Command() string {
	set := fmt.Sprintf("ip link set dev %s address %v", o.Device, o.Address)
	if !o.Down {
		return set
	}
	return strings.Join([]string{"ip link set dev " + o.Device + " down", set, "ip link set dev " + o.Device + " up"}, "\n")
}

// hardware sets link-layer addresses: those that are wanted before anything is sent from them, and those that are given back last.
func (d *differ) hardware(have, want State, restore bool) {
	for _, w := range want.Hardware {
		for _, h := range have.Hardware {
			if w.Restore == restore && h.Device == w.Device && h.Address != w.Address {
				d.ops = append(d.ops, SetHardware{LinkHardware: w, From: h.Address})
			}
		}
	}
}
