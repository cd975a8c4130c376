// Package tunnel decides which tunnel devices must be made, changed or removed, and which peers a WireGuard device
// must have. It is pure: internal/kernel shows what is there and carries the changes out, internal/daemon joins both.
//
//	[]Spec (wanted), []Link (there), the MTU of carriers ──> Decide ──> []Change, []Problem
//	Config (wanted), State (there) ──> Config.Missing ──> Config (what to set), or nothing
//
// Devices of ours are known by their alias, which begins with "uplinkd: ". A device that has the right kind and ends and
// lacks the alias is used as it is, and stays when we go.
package tunnel
