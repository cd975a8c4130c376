package rules

import "net/netip"

// translations lists what the sources of LANs become by an uplink that translates: the LANs' parts of its delegation, and its own
// addresses; nil for any other uplink.
func (p *planner) translations(u *Uplink) []netip.Prefix {
	if !u.IPv6.PrefixNAT {
		return nil
	}
	to := []netip.Prefix{}
	for _, lan := range p.lansFrom(u.ID) {
		if external, ok := p.translated(u, lan); ok {
			to = append(to, external)
		}
	}
	for _, source := range p.sources(u, IPv6, p.info(u, IPv6)) {
		if source.IsSingleIP() {
			to = append(to, source)
		}
	}
	return to
}
