package planinput

import "github.com/uplinkd/uplinkd/internal/config"

// Carriers lists, by name, which uplinks may carry an uplink.
func Carriers(c *config.Config) map[string][]string {
	all := make(map[string][]string)
	for i := range c.Uplinks {
		if names := c.Carriers(&c.Uplinks[i]); len(names) > 0 {
			all[c.Uplinks[i].Name] = names
		}
	}
	return all
}
