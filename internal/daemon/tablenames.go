package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/store"
)

// writeTableNames tells iproute2 our names for our tables.
func writeTableNames(c *config.Config, ids map[string]int) error {
	if c.Kernel.TableNames == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Written by uplinkd: its routing tables, for \"ip route show table NAME\".\n")
	fmt.Fprintf(&b, "%d uplinkd\n", c.Kernel.TableBase)
	for i := range c.Uplinks {
		name := c.Uplinks[i].Name
		fmt.Fprintf(&b, "%d %s\n", c.Kernel.TableBase+ids[name], name)
	}
	named := make(map[int]bool)
	for i := range c.Policies { // a table that several share has the name of the first
		if id := ids[c.Policies[i].Group()]; !named[id] && c.Policies[i].LeftTo == config.LeftToNobody {
			named[id] = true
			fmt.Fprintf(&b, "%d policy-%s\n", c.Kernel.TableBase+id, c.Policies[i].Name)
		}
	}
	if have, err := os.ReadFile(c.Kernel.TableNames); err == nil && string(have) == b.String() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Kernel.TableNames), 0o755); err != nil {
		return err
	}
	return store.WriteFile(c.Kernel.TableNames, []byte(b.String()), 0o644)
}
