package rules

import (
	"slices"
	"strings"
)

// wildcard ends the name of a device that stands for all devices whose names begin so, as nftables writes it.
const wildcard = "*"

// isPattern reports whether a name stands for several devices.
func isPattern(name string) bool { return strings.HasSuffix(name, wildcard) }

// matchesDevice reports whether a device is one of those that names and patterns stand for.
func matchesDevice(names []string, device string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		prefix, pattern := strings.CutSuffix(name, wildcard)
		return name == device || pattern && strings.HasPrefix(device, prefix)
	})
}
