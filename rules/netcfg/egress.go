package netcfg

import (
	"fmt"
	"slices"
	"strings"
)

// EgressFilter is a classifier of traffic control (tc-bpf(8)) on the way out of an uplink's device. It drops what has
// a source that is foreign there, as chain egress_filter does, and it outlives our nftables table: somebody's "nft flush
// ruleset" takes the translation of sources away, and until it is back packets would leave as their hosts made them.
type EgressFilter struct {
	Device  string
	Pref    uint8 // our routing protocol number: the tag of what is ours
	Program []BPFInstruction
}

func (f EgressFilter) equal(o EgressFilter) bool {
	return f.Device == o.Device && f.Pref == o.Pref && slices.Equal(f.Program, o.Program)
}

// BPFInstruction is one of classic BPF (linux/filter.h struct sock_filter). The kernel takes programs of those from
// whoever may change the network, without the bpf system call.
type BPFInstruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// PutEgress puts a filter on a device, or replaces ours there. Qdisc is true when the device has nothing yet that a
// filter could hang on.
type PutEgress struct {
	EgressFilter
	Qdisc bool
}

// DelEgress removes our filter from a device, and with Qdisc what we have hung it on, if nobody else's hangs there too.
type DelEgress struct {
	Device string
	Pref   uint8
	Qdisc  bool
}

// Command writes the change as lines for a shell.
func (o PutEgress) Command() string {
	var b strings.Builder
	if o.Qdisc {
		fmt.Fprintf(&b, "tc qdisc add dev %s clsact\n", o.Device)
	}
	fmt.Fprintf(&b, "tc filter replace dev %s egress pref %d handle 1 protocol all bpf direct-action bytecode '%d", o.Device, o.Pref, len(o.Program))
	for _, i := range o.Program {
		fmt.Fprintf(&b, ",%d %d %d %d", i.Op, i.Jt, i.Jf, i.K)
	}
	return b.String() + "'"
}

// Command writes the change as lines for a shell.
func (o DelEgress) Command() string {
	s := fmt.Sprintf("tc filter del dev %s egress pref %d", o.Device, o.Pref)
	if o.Qdisc {
		s += fmt.Sprintf("\n[ -n \"$(tc filter show dev %[1]s ingress; tc filter show dev %[1]s egress)\" ] || tc qdisc del dev %[1]s clsact", o.Device)
	}
	return s
}

func (d *differ) putEgress(have, want State) {
	for _, f := range want.Egress {
		if !slices.ContainsFunc(have.Egress, f.equal) {
			d.ops = append(d.ops, PutEgress{EgressFilter: f, Qdisc: !slices.Contains(have.Qdiscs, f.Device)})
		}
	}
}

func (d *differ) delEgress(have, want State) {
	for _, f := range have.Egress {
		if !slices.ContainsFunc(want.Egress, func(w EgressFilter) bool { return w.Device == f.Device }) {
			d.ops = append(d.ops, DelEgress{Device: f.Device, Pref: f.Pref, Qdisc: slices.Contains(want.Qdiscs, f.Device)})
		}
	}
}
