package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/nftables"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// ForeignChains lists the chains of others' nftables tables as family, table and chain. legacy is true when there are tables of
// the xtables of old too, which nftables does not show.
func (k *Kernel) ForeignChains() (chains [][3]string, legacy bool, err error) {
	list, err := k.nft.ListChains()
	if err != nil {
		return nil, false, fmt.Errorf("listing nftables chains: %w", err)
	}
	for _, c := range list {
		if c.Table.Family != nftables.TableFamilyINet || c.Table.Name != nft.TableName && c.Table.Name != nft.PolicyTableName {
			chains = append(chains, [3]string{tableFamily(c.Table.Family), c.Table.Name, c.Name})
		}
	}
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} { // net/netfilter/x_tables.c; absent without their modules
		names, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		legacy = legacy || len(names) > 0
	}
	return chains, legacy, nil
}
