package kernel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// flowCount adds up what the counters of our table have counted, over the tables that follow one another. Its methods may be called by
// any goroutine.
type flowCount struct {
	conn *nftables.Conn // of its own

	mu   sync.Mutex
	past map[string]uint64 // of tables that are gone, by counter
	last map[string]uint64 // of the present one, as it was read
}

// Flows returns the connections of each uplink since the table that Open found was made, by uplink name. What is counted between the
// last reading of a table and the moment when somebody else removes it or resets its counters is lost. It may be called by any goroutine.
func (k *Kernel) Flows() (map[string]rules.Flows, error) {
	k.flows.mu.Lock()
	defer k.flows.mu.Unlock()
	if err := k.flows.read(); err != nil {
		return nil, err
	}
	return rules.CountedFlows(k.flows.total()), nil
}

// around calls replace, which makes our table anew.
func (f *flowCount) around(replace func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.read() // a table is not kept back for a number
	if err := replace(); err != nil {
		return err
	}
	f.past, f.last = f.total(), nil
	return nil
}

// read reads the counters of our table; without one there are none.
func (f *flowCount) read() error {
	objects, err := f.conn.GetObjects(&nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("reading the counters of nftables table %s: %w", nft.TableName, err)
	}
	now := make(map[string]uint64, len(objects))
	for _, o := range objects {
		if c, ok := o.(*nftables.CounterObj); ok && c.Table.Name == nft.TableName {
			now[c.Name] = c.Packets
		}
	}
	for name, packets := range f.last {
		if now[name] < packets { // somebody has reset it, or made the table anew
			f.past = f.total()
			break
		}
	}
	f.last = now
	return nil
}

func (f *flowCount) total() map[string]uint64 {
	total := make(map[string]uint64, len(f.last))
	for _, counters := range []map[string]uint64{f.past, f.last} {
		for name, packets := range counters {
			total[name] += packets
		}
	}
	return total
}
