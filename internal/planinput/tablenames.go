package planinput

import (
	"fmt"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
)

// TableNames is a file for iproute2 (/etc/iproute2/rt_tables.d) with our names for our tables.
func TableNames(c *config.Config, ids map[string]int) string {
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
	return b.String()
}
