package encap

import (
	"encoding/binary"
	"fmt"
)

// VXLAN is Ethernet in UDP (RFC 7348), between two ends.
const VXLAN = "vxlan"

// Attributes of linux/if_link.h.
const (
	vxlanID       = 1
	vxlanRemote   = 2
	vxlanLocal    = 4
	vxlanTTL      = 5
	vxlanLearning = 7
	vxlanPort     = 15
	vxlanRemote6  = 16
	vxlanLocal6   = 17
)

var vxlan = Kind{Name: VXLAN, Name6: VXLAN, Module: "vxlan", Carries: Frames, LinkLocal: true,
	Settings: []Setting{
		{Key: "id", Min: 1, Max: 1<<24 - 1, Required: "id = 42 below, the same at both ends", Set: func(p *Params, n uint32) { p.ID = n }},
		{Key: "port", Min: 1, Max: 65535, Default: 4789, Set: func(p *Params, n uint32) { p.Port = uint16(n) }}, // RFC 7348 section 5
	},
	header: func(*Params) int { return 8 + 8 },
	// There is one other end: nothing is to be learned, and an address learned wrongly would mislead.
	args: func(p *Params) string { return fmt.Sprintf(" id %d dstport %d nolearning", p.ID, p.Port) },
	attributes: func(p *Params) []Attribute {
		local, remote := uint16(vxlanLocal), uint16(vxlanRemote)
		if p.Local.Is6() {
			local, remote = vxlanLocal6, vxlanRemote6
		}
		return []Attribute{{vxlanID, native32(p.ID)}, {local, p.Local.AsSlice()}, {remote, p.Remote.AsSlice()}, {vxlanTTL, []byte{p.TTL}},
			{vxlanPort, be16(p.Port)}, {vxlanLearning, []byte{0}}}
	},
	decode: func(p *Params, a Attribute) {
		switch a.Type {
		case vxlanID:
			p.ID = a.u32(binary.NativeEndian)
		case vxlanLocal, vxlanLocal6:
			p.Local = a.addr()
		case vxlanRemote, vxlanRemote6:
			p.Remote = a.addr()
		case vxlanTTL:
			p.TTL = a.u8()
		case vxlanPort:
			p.Port = a.u16(binary.BigEndian)
		}
	},
}
