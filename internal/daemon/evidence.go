package daemon

import (
	"fmt"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
)

// evidence is what the kernel has seen of a path that falls silent: whether its gateway is there, which says on whose side the
// fault is, and how many of its connections are unanswered. It is for people to read; probes decide.
func evidence(family rules.Family, mark, mask uint32, info rules.PathInfo) (lines []string) {
	if info.Gateway.IsValid() {
		if state, err := kernel.Neighbour(info.Index, info.Gateway); err == nil {
			lines = append(lines, fmt.Sprintf("gateway %v: neighbour %s", info.Gateway, state))
		}
	}
	if unanswered, all, err := kernel.Connections(family, mark, mask); err == nil && all > 0 {
		lines = append(lines, fmt.Sprintf("connections by it: %d of %d unanswered", unanswered, all))
	}
	return lines
}
