package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Instructions of linux/filter.h, and where they load from: below zero are what belongs to the packet and where its
// network header begins.
const (
	bpfLoadHalf = 0x28 // BPF_LD | BPF_H | BPF_ABS
	bpfLoadWord = 0x20 // BPF_LD | BPF_W | BPF_ABS
	bpfAnd      = 0x54 // BPF_ALU | BPF_AND | BPF_K
	bpfIfEqual  = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	bpfJump     = 0x05 // BPF_JMP | BPF_JA
	bpfReturn   = 0x06 // BPF_RET | BPF_K

	bpfProtocol = 0xfffff000 // SKF_AD_OFF + SKF_AD_PROTOCOL
	bpfNetwork  = 0xfff00000 // SKF_NET_OFF

	// What the program returns (linux/pkt_cls.h): TC_ACT_UNSPEC leaves the packet to the next filter.
	bpfPass = 0xffffffff
	bpfDrop = 2

	// maxBPF is half of what the kernel takes (BPF_MAXINSNS): a filter that fills more than the 16 KiB which this makes does not fit into
	// the answer when it is listed.
	maxBPF = 2048
	// maxBeside is how many IPv4 networks are told apart: more than a jump can pass over (BPFInstruction.Jf) do not fit.
	maxBeside = 40
)

// egressProgram lets sources pass that are among the first, and those beside the provider to where they belong, and drops what is
// foreign, and what is hidden unless it goes to one of the networks. A list that would make the program too long is cut: chain
// egress_filter has all of it.
func egressProgram(own []netip.Prefix, besides []beside, foreign, networks, hidden []netip.Prefix) []netcfg.BPFInstruction {
	var parts [2][]netcfg.BPFInstruction
	for i, family := range Families {
		var part []netcfg.BPFInstruction
		for _, b := range besides {
			for _, source := range inet.OfFamily(b.sources, family) {
				then := []netcfg.BPFInstruction{{Op: bpfReturn, K: bpfPass}}
				if len(b.networks) <= maxBeside {
					then = append(bpfMatches(nil, b.networks, true, bpfPass, maxBPF), netcfg.BPFInstruction{Op: bpfReturn, K: bpfDrop})
				}
				part = bpfMatch(part, source, false, then, maxBPF/8)
			}
		}
		part = bpfMatches(part, inet.OfFamily(own, family), false, bpfPass, maxBPF/8)
		part = bpfMatches(part, inet.OfFamily(foreign, family), false, bpfDrop, maxBPF/4)
		part = bpfMatches(part, inet.OfFamily(networks, family), true, bpfPass, maxBPF/16)
		part = bpfMatches(part, inet.OfFamily(hidden, family), false, bpfDrop, maxBPF/8)
		parts[i] = append(part, netcfg.BPFInstruction{Op: bpfReturn, K: bpfPass})
	}
	four, six := uint32(len(parts[0])), uint32(len(parts[1]))
	program := make([]netcfg.BPFInstruction, 0, 6+four+six)
	program = append(program,
		netcfg.BPFInstruction{Op: bpfLoadHalf, K: bpfProtocol},
		netcfg.BPFInstruction{Op: bpfIfEqual, K: 0x0800, Jf: 1}, // ETH_P_IP
		netcfg.BPFInstruction{Op: bpfJump, K: 3},
		netcfg.BPFInstruction{Op: bpfIfEqual, K: 0x86dd, Jf: 1}, // ETH_P_IPV6
		netcfg.BPFInstruction{Op: bpfJump, K: 1 + four},
		netcfg.BPFInstruction{Op: bpfReturn, K: bpfPass})
	return append(append(program, parts[0]...), parts[1]...)
}

// bpfMatches returns a verdict for addresses within one of the prefixes, as far as there is room.
func bpfMatches(b []netcfg.BPFInstruction, prefixes []netip.Prefix, dest bool, verdict uint32, room int) []netcfg.BPFInstruction {
	end := len(b) + room
	for _, p := range prefixes {
		b = bpfMatch(b, p, dest, []netcfg.BPFInstruction{{Op: bpfReturn, K: verdict}}, end-len(b))
	}
	return b
}

// bpfMatch does something about sources, or destinations, within a prefix, and goes on with all others, if there is room.
func bpfMatch(b []netcfg.BPFInstruction, p netip.Prefix, dest bool, then []netcfg.BPFInstruction, room int) []netcfg.BPFInstruction {
	if 15+len(then) > room { // no prefix needs more
		return b
	}
	at, address := uint32(12), p.Masked().Addr().AsSlice() // RFC 791 section 3.1
	if p.Addr().Is6() {
		at = 8 // RFC 8200 section 3
	}
	if dest {
		at += uint32(len(address))
	}
	from := len(b)
	for bits := p.Bits(); bits > 0; bits -= 32 {
		b = append(b, netcfg.BPFInstruction{Op: bpfLoadWord, K: bpfNetwork + at})
		if bits < 32 {
			b = append(b, netcfg.BPFInstruction{Op: bpfAnd, K: ^uint32(0) << (32 - bits)})
		}
		b = append(b, netcfg.BPFInstruction{Op: bpfIfEqual, K: binary.BigEndian.Uint32(address)})
		at, address = at+4, address[4:]
	}
	conditions := len(b)
	b = append(b, then...)
	for i := from; i < conditions; i++ {
		if b[i].Op == bpfIfEqual {
			b[i].Jf = uint8(len(b) - i - 1)
		}
	}
	return b
}

// egressFilters plans a filter for each uplink that may have one. Where others hold the place of its qdisc there is none.
func (p *planner) egressFilters(sources map[string]*egressSources) {
	if p.obs.Egress == nil || p.cfg.IngressQdisc {
		return
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		s := sources[u.Device]
		if _, present := p.obs.Link(u.Device); !present || u.Site || s == nil {
			continue
		}
		foreign, hidden := inet.Disjoint(slices.Concat(s.foreign...)), inet.Disjoint(slices.Concat(s.hidden...))
		if len(foreign)+len(hidden) == 0 {
			continue
		}
		if why := p.obs.Egress.Impossible[u.Device]; why != "" {
			p.problem("no-egress-filter", "notice",
				fmt.Sprintf("%s has no source filter behind nftables: %s. If the nftables ruleset is flushed, some LAN packets leave untranslated until our table is back", u.Device, why),
				"set [kernel] ingress_qdisc = true if that is intended; otherwise load the kernel modules sch_ingress and cls_bpf, use clsact in place of the ingress qdisc, and restart uplinkd")
			continue
		}
		p.state.Egress = append(p.state.Egress, netcfg.EgressFilter{Device: u.Device, Pref: p.k.Protocol, Program: egressProgram(inet.Disjoint(slices.Concat(s.own...)), s.beside, foreign, inet.Disjoint(s.networks), hidden)})
	}
}

// egressSources are lists of what may leave by a device, of what may not, and of what may but to the networks behind the device.
type egressSources struct {
	own, foreign, hidden [][]netip.Prefix
	networks             []netip.Prefix
	beside               []beside
}

// Egress is what a snapshot says of egress filters.
type Egress struct {
	Filters []netcfg.EgressFilter // ours
	// Qdiscs are the devices that have the qdisc that filters hang on, clsact.
	Qdiscs map[string]bool
	// Impossible says of devices why they cannot have a filter.
	Impossible map[string]string
}
