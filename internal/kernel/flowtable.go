package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// flowtable makes the one of a table. Names end in a zero: without it Linux 6.16 and 6.17 take them for the beginning of several
// (net/netfilter/nf_tables_api.c nft_netdev_hook_alloc).
func (b *builder) flowtable(devices []string) {
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = d + "\x00"
	}
	b.conn.AddFlowtable(&nftables.Flowtable{Table: b.table, Name: nft.FlowtableName, Devices: names})
}

// flowtable lists the devices of the flowtable of one of our tables, sorted; none: it has no such thing.
func (k *Kernel) flowtable(t *nftables.Table) ([]string, error) {
	list, err := k.nft.ListFlowtables(t)
	if err != nil {
		return nil, fmt.Errorf("listing flowtables of %s: %w", t.Name, err)
	}
	var devices []string
	for _, f := range list {
		for _, d := range f.Devices {
			devices = append(devices, strings.TrimRight(d, "\x00"))
		}
	}
	slices.Sort(devices)
	return devices, nil
}

// noOffload says why there can be no flowtable, "" when there can. It is tried once, in a transaction that takes back what it makes: the
// kernel would look for its modules each time.
func (k *Kernel) noOffload() string {
	if !k.offload.tried {
		k.offload.tried, k.offload.err = true, tryTable(func(b *builder) error {
			b.conn.AddFlowtable(&nftables.Flowtable{Table: b.table, Name: nft.FlowtableName})
			b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.conn.AddChain(&nftables.Chain{Name: "trial", Table: b.table}), Exprs: []expr.Any{&expr.FlowOffload{Name: nft.FlowtableName}}})
			return nil
		})
	}
	var refused unix.Errno // the one of the flowtable: the rule that refers to it is refused as well
	switch {
	case errors.As(k.offload.err, &refused):
		return fmt.Sprintf("this kernel has no flowtables (%v)", refused)
	case k.offload.err != nil:
		return "this kernel has no flowtables: " + k.offload.err.Error()
	}
	return ""
}
