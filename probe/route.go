package probe

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// discardPort is the port asked for when the target has none; nothing is sent to it.
const discardPort = 9

// bindingFor returns the binding with which a probe to a target takes the path of the given one.
//
// An echo request that leaves by the device for its mark and source needs nothing else. Else the device goes with it,
// and a rule before the mark's that leads elsewhere is skipped. For IPv6 that holds only when the kernel
// chooses the source: to one that is given, the device is a mere wish (RT6_LOOKUP_F_IFACE in
// ip6_route_output_flags). Link-local addresses mean nothing without a device.
func (n *Net) bindingFor(b Binding, t Target) (Binding, error) {
	if t.kind == &echo && n.LeavesByDevice != nil && b.Device != "" && b.Mark != 0 && !t.addr.IsLinkLocalUnicast() && !b.Source.IsLinkLocalUnicast() {
		if n.LeavesByDevice(b, t.addr) {
			b.Device = ""
			return b, nil
		}
		if t.addr.Is6() {
			b.Source = netip.Addr{}
		}
	}
	return b, b.check(t)
}

// check asks the kernel for the route that a probe would take, by connecting
// UDP sockets, which sends nothing. It exists because the error of a later
// connect or sendmsg could be anybody's: EHOSTUNREACH is given by our own
// unreachable route as well as by a router far away.
//
// An IPv4 socket that is bound to a device never lacks a route: when the lookup
// fails, even at an unreachable route, the kernel takes any destination to be
// on the link and asks for it by ARP (ip_route_output_key_hash_rcu). So with a
// mark, the tables are asked first without the device.
//
// An echo request needs no more than that: its socket sends once, and cannot have
// an error of anybody else before.
func (b Binding) check(t Target) error {
	if b.Mark != 0 && t.addr.Is4() {
		if err := (Binding{Mark: b.Mark, Source: b.Source}).lookup(t); err != nil {
			return err
		}
	}
	if t.kind == &echo {
		return nil
	}
	return b.lookup(t)
}

func (b Binding) lookup(t Target) error {
	domain := unix.AF_INET
	if t.addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	if err := b.set(fd); err != nil {
		return err
	}
	if b.Source.IsValid() {
		source, err := b.sockaddr(b.Source, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, source); err != nil {
			return fmt.Errorf("using source address %s: %w", b.Source, err)
		}
	}
	port := int(t.port)
	if port == 0 {
		port = discardPort
	}
	target, err := b.sockaddr(t.addr, port)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, target); err != nil {
		return fmt.Errorf("looking up the route to %s: %w", t.addr, err)
	}
	return nil
}

func (b Binding) sockaddr(a netip.Addr, port int) (unix.Sockaddr, error) {
	if a = a.Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() && b.Device != "" {
		device, err := net.InterfaceByName(b.Device)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", unix.ENODEV, err)
		}
		sa.ZoneId = uint32(device.Index)
	}
	return sa, nil
}
