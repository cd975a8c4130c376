package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
)

// Endpoint is an address that the kernel's path manager opens further subflows of Multipath TCP connections from (RFC 8684 section 3.2,
// ip-mptcp(8)).
type Endpoint struct {
	ID     uint8 // 128 and more are ours
	Addr   netip.Addr
	Device string
	Backup bool // is used while no other subflow works
}

// FirstEndpoint is the lowest id of endpoints of ours: the kernel gives those that others add without one the lowest that is free.
const FirstEndpoint = 128

type (
	// AddEndpoint adds an endpoint; connections that stand open a subflow from it.
	AddEndpoint struct{ Endpoint }
	// ChangeEndpoint changes whether it is a backup, for connections that stand too.
	ChangeEndpoint struct{ Endpoint }
	// DelEndpoint removes an endpoint, and closes the subflows from it.
	DelEndpoint struct{ Endpoint }
	// SetSubflows sets how many further subflows a connection may have. From is the former limit.
	SetSubflows struct{ Limit, From uint32 }
)

func (e Endpoint) flags() string {
	if e.Backup {
		return "subflow backup"
	}
	return "subflow"
}

// Command writes the change as lines for a shell.
func (o AddEndpoint) Command() string {
	return fmt.Sprintf("ip mptcp endpoint add %v id %d dev %s %s", o.Addr, o.ID, o.Device, o.flags())
}

// Command writes the change as lines for a shell.
func (o ChangeEndpoint) Command() string {
	word := "nobackup"
	if o.Backup {
		word = "backup"
	}
	return fmt.Sprintf("ip mptcp endpoint change id %d %s", o.ID, word)
}

// Command writes the change as lines for a shell.
func (o DelEndpoint) Command() string { return fmt.Sprintf("ip mptcp endpoint delete id %d", o.ID) }

// Command writes the change as lines for a shell.
func (o SetSubflows) Command() string { return fmt.Sprintf("ip mptcp limits set subflow %d", o.Limit) }

// endpoints removes and changes those that are there before it adds others: the kernel has room for a few.
func (d *differ) endpoints(have, want State) {
	for _, h := range have.Endpoints {
		i := slices.IndexFunc(want.Endpoints, func(w Endpoint) bool { return w.ID == h.ID })
		switch {
		case i < 0 || want.Endpoints[i].Addr != h.Addr || want.Endpoints[i].Device != h.Device:
			d.ops = append(d.ops, DelEndpoint{h})
		case want.Endpoints[i].Backup != h.Backup:
			d.ops = append(d.ops, ChangeEndpoint{want.Endpoints[i]})
		}
	}
	if want.Subflows != nil && have.Subflows != nil && *want.Subflows != *have.Subflows {
		d.ops = append(d.ops, SetSubflows{*want.Subflows, *have.Subflows})
	}
	for _, w := range want.Endpoints {
		if !slices.ContainsFunc(have.Endpoints, func(h Endpoint) bool { return h.ID == w.ID && h.Addr == w.Addr && h.Device == w.Device }) {
			d.ops = append(d.ops, AddEndpoint{w})
		}
	}
}
