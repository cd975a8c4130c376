package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// selectDefault picks the uplinks that carry new traffic of a family: among the paths that have a way out,
// those of the best class that has any, and of these the lowest tier.
func (p *planner) selectDefault(family Family) Choice {
	return p.selectBest(family, (*Uplink).defaultTier)
}

// defaultTier returns the tier in which an uplink carries the default, 0 when it never does.
func (u *Uplink) defaultTier() int {
	if u.PoliciesOnly {
		return 0
	}
	return u.Tier
}

// selectBest is choose among the uplinks that have a tier, which is 1 or more.
func (p *planner) selectBest(family Family, tierOf func(*Uplink) int) Choice {
	type candidate struct {
		u     *Uplink
		class int
	}
	var all []candidate
	p.eachPath(func(u *Uplink, f Family, info PathInfo) {
		if f == family && tierOf(u) > 0 && p.routesInternet(u, f, info) {
			all = append(all, candidate{u, class(p.verdicts[Path{u.ID, f}], info)})
		}
	})
	if len(all) == 0 {
		return Choice{Code: ChoiceNone, Reason: "no uplink has a default route", LastResort: true}
	}
	better := slices.MaxFunc(all, func(a, b candidate) int { return a.class - b.class }).class
	all = slices.DeleteFunc(all, func(c candidate) bool { return c.class != better })
	tier := tierOf(slices.MinFunc(all, func(a, b candidate) int { return tierOf(a.u) - tierOf(b.u) }).u)
	all = slices.DeleteFunc(all, func(c candidate) bool { return tierOf(c.u) != tier })
	if family == IPv6 && len(all) > 1 {
		fits := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return !p.multipathCapable(c.u) })
		if len(fits) == 0 {
			fits = []candidate{slices.MaxFunc(all, func(a, b candidate) int { return a.u.Weight - b.u.Weight })}
		}
		all = fits
	}

	total := 0
	for _, c := range all {
		total += c.u.Weight
	}
	choice := Choice{LastResort: better <= classDead, class: better, Code: classCodes[better]}
	names := make([]string, len(all))
	for i, c := range all {
		choice.Members = append(choice.Members, Member{c.u.ID, float64(c.u.Weight) / float64(total)})
		names[i] = c.u.Name
	}
	choice.Reason = fmt.Sprintf("%s: %s of tier %d", strings.Join(names, ", "), classNames[better], tier)
	return choice
}

// PlaceholderGateway stands for the gateway of a point-to-point device in a shared IPv6 default. The kernel
// shares among gateways only (net/ipv6/route.c: "Device only routes can not be added for IPv6 using the
// multipath API"), and on such a device it never asks who has the gateway's address.
var PlaceholderGateway = netip.MustParseAddr("fe80::ffff:ffff:ffff:fffe")

// multipathCapable reports whether the uplink can be one of several in an IPv6 default.
func (p *planner) multipathCapable(u *Uplink) bool {
	link, _ := p.obs.Link(u.Device)
	if p.info(u, IPv6).Gateway.IsValid() || link.PointToPoint {
		return true
	}
	p.problemOnce("cannot-share", "warning", u.Name+" has an IPv6 default without a gateway, which the kernel cannot balance with others",
		"give it a gateway, or a tier of its own")
	return false
}

// Classes of candidates, worst first.
const (
	classNoCarrier = iota
	classDead
	classDrained
	classDoubtful
	classImpaired
	classGood
)

var classNames = [...]string{"nothing is alive, the least bad", "nothing is alive, the least bad", "only drained ones are alive, those", "none is surely alive, the best hope", "none is without loss, the best", "usable"}

// ChoiceCode says how well the uplinks work that carry new traffic.
type ChoiceCode string

// The codes of choices, best first.
const (
	ChoiceGood     ChoiceCode = "good"
	ChoiceImpaired ChoiceCode = "impaired" // they lose packets
	ChoiceDoubtful ChoiceCode = "doubtful" // suspect, or recovering
	ChoiceDrained  ChoiceCode = "drained"  // none else is alive
	ChoiceDead     ChoiceCode = "dead"     // none is alive: the least bad
	ChoiceNone     ChoiceCode = "none"     // none has a default route
)

var classCodes = [...]ChoiceCode{ChoiceDead, ChoiceDead, ChoiceDrained, ChoiceDoubtful, ChoiceImpaired, ChoiceGood}

func class(v Verdict, info PathInfo) int {
	switch {
	case v.Health >= Doubtful && v.Drained:
		return classDrained
	case v.Health == Good:
		return classGood
	case v.Health == Impaired:
		return classImpaired
	case v.Health == Doubtful:
		return classDoubtful
	case info.Carrier:
		return classDead
	}
	return classNoCarrier
}
