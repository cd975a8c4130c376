package addressing

import (
	"fmt"
	"net/netip"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

// delegated6RD returns the prefix that an uplink has by 6rd, for as long as its carrier has the address; the zero Prefix: none.
func (e *Engine) delegated6RD(u *config.Uplink) netip.Prefix {
	if u.IPv6.SixRD == nil {
		return netip.Prefix{}
	}
	c, _ := e.configuration()
	leases := make(planinput.Learned)
	e.leases.learned(leases)
	s, _ := planinput.SixRDOf(c, u, leases)
	return s.Delegated
}

// problems6RD names the uplinks that lack what the DHCP server of their carrier was to say.
func (e *Engine) problems6RD() (problems []rules.Problem) {
	c, _ := e.configuration()
	leases := make(planinput.Learned)
	e.leases.learned(leases)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv6.SixRD == nil || u.IPv6.SixRD.Prefix.IsValid() {
			continue
		}
		if given := leases[u.Over]; given != nil && given.IPv4 != nil && given.Offers6RD == nil {
			problems = append(problems, rules.Problem{Code: "no-6rd", Severity: "warning",
				Message: fmt.Sprintf("%s has no prefix, because the DHCP server of %s says nothing usable of 6rd (option 212)", u.Name, u.Over),
				Fix:     "ask the provider whether there is 6rd on this line, and write what he says: prefix, border_relay and ipv4_mask_length in [uplink.6rd]"})
		}
	}
	return problems
}
