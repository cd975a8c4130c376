package kernel

import (
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

const (
	// loadedAtOnce is how many ranges are told in one message: its attribute holds less than 64 KiB.
	loadedAtOnce = 500
	// bytesPerRange is the room that a range takes in a transaction, at most: two elements with their attributes.
	bytesPerRange = 96
)

// loadSets makes and fills the sets of known addresses that are not there, in a transaction before the one that has rules look into them,
// and returns which are there then. The kernel makes what is new in a set visible some time after the rules of the same
// transaction (net/netfilter/nf_tables_api.c nf_tables_commit: the generation first, nft_set_commit_update last), and for
// that time a set would seem to be empty.
func (k *Kernel) loadSets(op netcfg.PutPolicies) ([]string, error) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.PolicyTableName}
	var missing []nft.Set
	ranges := 0
	for _, s := range op.Sets {
		if s.Known != nil && !slices.Contains(op.Loaded, s.Name) {
			missing = append(missing, s)
			ranges += len(s.Known.Ranges(s.Family))
		}
	}
	if len(missing) == 0 {
		return op.Loaded, nil
	}
	conn, err := openTransaction(ranges * bytesPerRange)
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	defer conn.CloseLasting()
	conn.AddTable(table)
	loaded := slices.Clone(op.Loaded)
	for _, s := range missing {
		if err := (&builder{conn: conn, table: table}).known(s); err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
		loaded = append(loaded, s.Name)
	}
	k.table.valid = false
	return loaded, conn.Flush()
}

// known makes a set of known addresses, and loads it unless it stands there.
func (b *builder) known(s nft.Set) error {
	set := &nftables.Set{Table: b.table, Name: s.Name, KeyType: addressType(s.Family), Interval: true}
	if err := b.conn.AddSet(set, nil); err != nil || slices.Contains(b.loaded, s.Name) {
		return err
	}
	elements := make([]nftables.SetElement, 0, 2*loadedAtOnce)
	for part := range slices.Chunk(s.Known.Ranges(s.Family), loadedAtOnce) {
		elements = elements[:0]
		for _, r := range part {
			elements = append(elements, nftables.SetElement{Key: r.First.AsSlice()})
			if end := r.Last.Next(); end.IsValid() { // the last may have no end
				elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
		}
		if err := b.conn.SetAddElements(set, elements); err != nil {
			return err
		}
	}
	return nil
}
