// Package docs holds the pages that uplinkd.toml(5) is made from.
package docs

import _ "embed"

// The pages that have tables of configuration keys.
var (
	//go:embed configuration.md
	Configuration string
	//go:embed policies.md
	Policies string
	//go:embed tunnels.md
	Tunnels string
	//go:embed notify.md
	Notify string
)
