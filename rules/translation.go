package rules

import (
	"net/netip"
	"slices"
)

// noteTranslation reports what an uplink translates to: the LANs' parts of its delegation, and its own addresses.
func (p *planner) noteTranslation(u *Uplink) {
	path := Path{u.ID, IPv6}
	var to []netip.Prefix
	for _, lan := range p.lansFrom(u.ID) {
		if outside, ok := p.translated(u, lan); ok {
			to = append(to, outside)
		}
	}
	for _, source := range p.sources(u, IPv6, p.fact(u, IPv6)) {
		if source.IsSingleIP() {
			to = append(to, source)
		}
	}
	slices.SortFunc(to, netip.Prefix.Compare)
	if p.report.Translations == nil {
		p.report.Translations = make(map[Path][]netip.Prefix)
	}
	p.report.Translations[path] = slices.Compact(to)
}
