package probe

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// discard is the port asked for when the target has none; nothing is sent to it.
const discard = 9

// way returns how a probe that wants to take a path has to be sent.
//
// An echo request that its mark and source lead to the device needs nothing else. Else the device goes with it,
// and a rule before the mark's that leads elsewhere is passed over. For IPv6 that holds only when the kernel
// chooses the source: to one that is given, the device is a mere wish (RT6_LOOKUP_F_IFACE in
// ip6_route_output_flags). Link-local addresses mean nothing without a device.
func (n *Net) way(p Path, t Target) (Path, error) {
	if t.kind == ICMP && n.Leads != nil && p.Device != "" && p.Mark != 0 && !t.addr.IsLinkLocalUnicast() && !p.Source.IsLinkLocalUnicast() {
		if n.Leads(p, t.addr) {
			p.Device = ""
			return p, nil
		}
		if t.addr.Is6() {
			p.Source = netip.Addr{}
		}
	}
	return p, p.check(t)
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
func (p Path) check(t Target) error {
	if p.Mark != 0 && t.addr.Is4() {
		if err := (Path{Mark: p.Mark, Source: p.Source}).lookup(t); err != nil {
			return err
		}
	}
	if t.kind == ICMP {
		return nil
	}
	return p.lookup(t)
}

func (p Path) lookup(t Target) error {
	domain := unix.AF_INET
	if t.addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	if err := p.set(fd); err != nil {
		return err
	}
	if p.Source.IsValid() {
		source, err := p.sockaddr(p.Source, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, source); err != nil {
			return fmt.Errorf("using source address %s: %w", p.Source, err)
		}
	}
	port := int(t.port)
	if port == 0 {
		port = discard
	}
	target, err := p.sockaddr(t.addr, port)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, target); err != nil {
		return fmt.Errorf("looking up the route to %s: %w", t.addr, err)
	}
	return nil
}

func (p Path) sockaddr(a netip.Addr, port int) (unix.Sockaddr, error) {
	if a = a.Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() && p.Device != "" {
		device, err := net.InterfaceByName(p.Device)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", unix.ENODEV, err)
		}
		sa.ZoneId = uint32(device.Index)
	}
	return sa, nil
}
