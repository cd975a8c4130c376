package encap

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// Params are what makes one tunnel device another than the next. The kernel cannot change most of them in place.
type Params struct {
	Kind          string // the name of a Kind; of other devices, the kernel's word
	Local, Remote netip.Addr
	TTL           uint8
	Key           uint32 // GRETAP, of both directions
	HasKey        bool
	ID            uint32 // VXLAN
	Port          uint16 // VXLAN, UDP
	// Fragment lets outer packets be fragmented on their way, whatever the inner ones say: a bridge passes on frames of
	// its own MTU, and drops without a word what its port does not take. GRETAP over IPv4 only.
	Fragment bool
	// Prefix6 and Prefix4 are what all customers of a provider have in common. 6rd only.
	Prefix6, Prefix4 netip.Prefix
}

// Kind is all that is particular to a kind of tunnel device. A new one is a file with such a value, and a place in the list of Kinds.
type Kind struct {
	Name   string // what the configuration calls it, and the kernel where the outer packets are of IPv4
	Device string // what the kernel calls it where it has another name; "" where that is Name
	Name6  string // what the kernel calls it where they are of IPv6; "" where they cannot be
	Module string // of the kernel
	// Carries is what is in the outer packets.
	Carries Payload
	// LinkLocal says that the kernel gives the device a link-local address of IPv6.
	LinkLocal bool
	// Fragments says that outer packets of IPv4 can be fragmented whatever the inner ones say.
	Fragments bool
	// Settings are the keys of the configuration beside local, remote, ttl and mtu.
	Settings []Setting

	// header is how many bytes stand between the outer IP header and the payload.
	header func(*Params) int
	// args are the words of ip(8) behind those for the ends.
	args func(*Params) string
	// attributes are those of IFLA_INFO_DATA, nil for a kind whose device has no ends of its own, which then has neither args nor decode.
	attributes func(*Params) []Attribute
	// decode reads one of them.
	decode func(*Params, Attribute)
	// finish, where it is set, makes of what was decoded what it is.
	finish func(*Params)
}

// Kinds returns all that there are, in the order in which messages list them.
func Kinds() []*Kind { return []*Kind{&wireGuard, &gretap, &vxlan, &sit, &sixRD} }

// Payload is what a tunnel carries.
type Payload uint8

// The payloads.
const (
	Packets  Payload = iota // of IPv4 and IPv6
	Packets6                // of IPv6 alone
	Frames                  // of Ethernet: the device can be a port of a bridge
)

// Setting is a number that the configuration says of a tunnel.
type Setting struct {
	Key      string
	Min, Max uint32
	Default  uint32 // 0: nothing is set
	Required string // what to write where the key is not there; "" where it may be absent
	Set      func(*Params, uint32)
}

// Attribute is one of IFLA_INFO_DATA (linux/if_link.h, linux/if_tunnel.h).
type Attribute struct {
	Type  uint16
	Value []byte
}

// Find returns the kind of a name, nil when there is none.
func Find(name string) *Kind {
	for _, k := range Kinds() {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// Ends reports whether a device of the kind is told of its ends.
func (k *Kind) Ends() bool { return k.attributes != nil }

// Remote reports whether a device of the kind is told of another end.
func (k *Kind) Remote() bool { return k.Ends() && k.Name != SixRD }

// KernelName is what the kernel calls it where the outer packets are of IPv4.
func (k *Kind) KernelName() string { return cmp.Or(k.Device, k.Name) }

// Spec returns the device's kind; of a kind that is not among Kinds, one that has a name and nothing else.
func (p *Params) Spec() *Kind {
	if k := Find(p.Kind); k != nil {
		return k
	}
	return &Kind{Name: p.Kind, Name6: p.Kind}
}

// CanFragment reports whether outer packets can be fragmented whatever the inner ones say.
func (p *Params) CanFragment() bool { return p.Spec().Fragments && p.Local.Is4() }

// Bytes of headers.
const (
	ipv4Header     = 20
	ipv6Header     = 40
	ethernetHeader = 14
)

// Overhead is how many bytes each packet grows by.
func (p *Params) Overhead() int {
	k := p.Spec()
	n := k.header(p) + ipv6Header // where it has no ends, whichever it will be
	if p.Local.Is4() {
		n += ipv4Header - ipv6Header
	}
	if k.Carries == Frames {
		n += ethernetHeader
	}
	return n
}

// LinkKind is the kernel's word for the kind of device (IFLA_INFO_KIND).
func (p *Params) LinkKind() string {
	if p.Local.Is6() {
		return p.Spec().Name6
	}
	return p.Spec().KernelName()
}

// Args are the words of ip(8) that follow "type KIND", a space before each.
func (p *Params) Args() string {
	k := p.Spec()
	if !k.Ends() {
		return ""
	}
	remote := ""
	if k.Remote() {
		remote = fmt.Sprintf(" remote %v", p.Remote)
	}
	return fmt.Sprintf(" local %v%s ttl %d%s", p.Local, remote, p.TTL, k.args(p))
}

// Attributes are what the kernel is told of the device, nil for nothing.
func (p *Params) Attributes() []Attribute {
	if k := p.Spec(); k.Ends() {
		return k.attributes(p)
	}
	return nil
}

// Decode reads what the kernel tells of a device; of those of other kinds, the kind alone.
func Decode(linkKind string, attributes iter.Seq2[uint16, []byte]) Params {
	for _, k := range Kinds() {
		if !k.Ends() || linkKind != k.Name && (linkKind != k.Name6 || linkKind == "") {
			continue
		}
		p := Params{Kind: k.Name}
		var list []Attribute
		for typ, value := range attributes {
			list = append(list, Attribute{typ, value})
		}
		slices.SortFunc(list, func(a, b Attribute) int { return cmp.Compare(a.Type, b.Type) })
		for _, a := range list {
			k.decode(&p, a)
		}
		if k.finish != nil {
			k.finish(&p)
		}
		p.Fragment = p.Fragment && p.CanFragment()
		return p
	}
	return Params{Kind: linkKind}
}

func (a Attribute) addr() netip.Addr {
	addr, _ := netip.AddrFromSlice(a.Value)
	return addr
}

// u8 is the number in the first byte, 0 where there is none.
func (a Attribute) u8() uint8 {
	if len(a.Value) == 0 {
		return 0
	}
	return a.Value[0]
}

// u16 and u32 read in an order of bytes; 0 for what has another size.
func (a Attribute) u16(order binary.ByteOrder) uint16 {
	if len(a.Value) != 2 {
		return 0
	}
	return order.Uint16(a.Value)
}

func (a Attribute) u32(order binary.ByteOrder) uint32 {
	if len(a.Value) != 4 {
		return 0
	}
	return order.Uint32(a.Value)
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// native16 and native32 are in the order of this machine.
func native16(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
