package doctor

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/programs"
)

// Pair is what a pair of routers rests on.
type Pair struct {
	Virtual []netip.Addr
	Device  string   // where Virtual stands
	Shared  []string // uplinks whose address VRRP moves
	Key     string   // why the key cannot be used; "" when it can
	// Keepalived is keepalived's configuration, and Conntrackd conntrackd's: of what runs, else in the usual place; "": none is found.
	Keepalived, Conntrackd string
	YieldFile              string // that keepalived is to track
}

// include finds a line by which a configuration of keepalived has other files.
var include = regexp.MustCompile(`(?m)^\s*include`)

// pairOfRouters looks whether keepalived, conntrackd and uplinkd are about the same pair.
func pairOfRouters(o *Observation, found found) {
	p := o.Pair
	if p == nil {
		return
	}
	if p.Key != "" {
		found(Error, "the two routers of the pair cannot talk: "+p.Key, "openssl rand -base64 32 into the file on one router, mode 0600, and copy it to the other")
	}
	here := func(program string) bool {
		return slices.ContainsFunc(o.Neighbours, func(n programs.Found) bool { return n.Name == program })
	}
	if !here("keepalived") {
		found(Error, fmt.Sprintf("keepalived is not here, so nobody brings %v to this router when the other one dies", p.Virtual[0]), "apt-get install keepalived, and see docs/several-routers.md for its configuration")
	}
	if p.Keepalived != "" && !include.MatchString(p.Keepalived) {
		for _, a := range p.Virtual {
			named := slices.ContainsFunc(strings.FieldsFunc(p.Keepalived, func(c rune) bool { return strings.ContainsRune(" \t\n{}", c) }), func(word string) bool {
				address, _, _ := strings.Cut(word, "/")
				got, err := netip.ParseAddr(address)
				return err == nil && got == a
			})
			if !named {
				found(Error, fmt.Sprintf("keepalived's configuration does not name %v, which [pair] virtual has: this router would never know that it is primary, or hosts would have no router", a),
					"add it to virtual_ipaddress, an IPv6 address beside IPv4 ones to virtual_ipaddress_excluded, or correct [pair] virtual")
			}
		}
	}
	keepalivedFile(o, found)
	conntrackdFile(o, found)
	pairSysctls(o, found)
	if len(p.Shared) > 0 && !here("conntrackd") {
		found(Warning, fmt.Sprintf("conntrackd is not here: connections by %s end when the other router takes over", strings.Join(p.Shared, ", ")), "apt-get install conntrackd, and see docs/several-routers.md for its configuration")
	}
}
