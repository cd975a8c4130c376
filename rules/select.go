package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// selectDefault picks the uplinks that carry new traffic of a family: among the paths that have a way out,
// those of the best class that has any, and of these the lowest tier, with the next one where that is full.
func (p *planner) selectDefault(family Family) Choice {
	choice := p.selectBest(family, preference{tier: (*Uplink).defaultTier, weight: (*Uplink).ownWeight, fastest: true, overflow: true})
	if len(choice.Members) > 0 {
		choice.Reason = "new traffic " + choice.Reason
	}
	return choice
}

// defaultTier returns the tier in which an uplink carries the default, 0 when it never does.
func (u *Uplink) defaultTier() int {
	if u.PoliciesOnly {
		return 0
	}
	return u.Tier
}

// ownWeight returns by which an uplink shares a tier where nothing else is said.
func (u *Uplink) ownWeight() int { return u.Weight }

// preference says which uplinks are chosen first.
type preference struct {
	tier     func(*Uplink) int // 1 or more; 0: never
	weight   func(*Uplink) int // by which those of a tier share
	fastest  bool              // those that are slower than others of their tier are left out
	overflow bool              // so are those that are full; when all of a tier are, the next one is used too
}

type candidate struct {
	u       *Uplink
	at      int // in the configuration
	class   int
	tier    int
	verdict Verdict
}

// selectBest chooses among the uplinks that have a tier.
func (p *planner) selectBest(family Family, by preference) Choice {
	var all []candidate
	p.eachPath(func(u *Uplink, f Family, info PathInfo) {
		if tier := by.tier(u); f == family && tier > 0 && p.routesInternet(u, f, info) {
			v := p.verdicts[Path{u.ID, f}]
			all = append(all, candidate{u, len(all), class(v, info), tier, v})
		}
	})
	if len(all) == 0 {
		return Choice{Code: ChoiceNone, Reason: "no uplink has a default route", LastResort: true}
	}
	better := slices.MaxFunc(all, func(a, b candidate) int { return a.class - b.class }).class
	all = slices.DeleteFunc(all, func(c candidate) bool { return c.class != better })
	chosen := by.ofTiers(all, better == classGood)
	if family == IPv6 && len(chosen.list) > 1 {
		unfit := func(c candidate) bool { return !p.multipathCapable(c.u) }
		if slices.ContainsFunc(chosen.list, unfit) {
			chosen.stay()
		}
		fits := slices.DeleteFunc(slices.Clone(chosen.list), unfit)
		if len(fits) == 0 {
			fits = []candidate{slices.MaxFunc(chosen.list, func(a, b candidate) int { return by.weight(a.u) - by.weight(b.u) })}
		}
		chosen.list = fits
	}

	total := 0
	for _, c := range chosen.list {
		total += by.weight(c.u)
	}
	choice := Choice{LastResort: better <= classDead, class: better, Code: classCodes[better]}
	for _, c := range chosen.list {
		weight := by.weight(c.u)
		choice.Members = append(choice.Members, Member{Uplink: c.u.ID, Weight: weight, Share: float64(weight) / float64(total)})
	}
	switch {
	case len(chosen.full) > 0:
		choice.Code = ChoiceOverflow
	case len(chosen.slower) > 0:
		choice.Code = ChoiceFastest
	}
	choice.Reason = choiceReason(&chosen, better)
	return choice
}

// chosen are the candidates that are chosen, and why not others.
type chosen struct {
	list   []candidate
	slower []candidate // left out, in the same tier as those
	full   []candidate // because of whom others are used, in their tier or the next
}

// stay takes back that the next tier is used too.
func (c *chosen) stay() {
	lowest := slices.MinFunc(c.list, func(a, b candidate) int { return a.tier - b.tier }).tier
	if kept := slices.DeleteFunc(slices.Clone(c.list), func(x candidate) bool { return x.tier != lowest }); len(kept) < len(c.list) {
		c.list, c.full = kept, nil
	}
}

// ofTiers picks those of the lowest tier; where all work well, the others' speed and load count.
func (by *preference) ofTiers(all []candidate, well bool) chosen {
	slices.SortStableFunc(all, func(a, b candidate) int { return a.tier - b.tier })
	var c chosen
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].tier == all[0].tier {
			n++
		}
		tier := all[:n]
		all = all[n:]
		var room, full []candidate
		for _, x := range tier {
			if by.overflow && well && x.verdict.Full {
				full = append(full, x)
			} else {
				room = append(room, x)
			}
		}
		fast, slower := room, []candidate(nil)
		if len(room) == 0 {
			fast = full
		}
		if by.fastest && well {
			fast, slower = withoutSlower(fast)
		}
		switch {
		case len(room) > 0:
			c.list, c.slower, c.full = append(c.list, fast...), slower, append(c.full, full...)
			slices.SortFunc(c.list, func(a, b candidate) int { return a.at - b.at })
			return c
		case len(c.list) == 0:
			c.list, c.slower = fast, slower
		}
		c.full = append(c.full, full...)
	}
	c.full = nil // everything is, and changes nothing
	return c
}

// withoutSlower leaves those out that are slower than others of the list.
func withoutSlower(list []candidate) (fast, slower []candidate) {
	for _, x := range list {
		if x.verdict.Slower {
			slower = append(slower, x)
		} else {
			fast = append(fast, x)
		}
	}
	if len(fast) == 0 {
		return slower, nil
	}
	return fast, slower
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
	p.problemOnce("cannot-share", "warning", u.Name+" has an IPv6 default route without a gateway, and the kernel cannot balance that with others",
		"configure a gateway, or put it into a tier of its own")
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

// choiceReason is the sentence of a choice.
func choiceReason(c *chosen, class int) string {
	which, tier, plural := namesOf(c.list), c.list[0].tier, ""
	if len(c.list) > 1 {
		plural = "s"
	}
	switch {
	case len(c.full) > 0:
		verb := " carries"
		if len(c.full) > 1 {
			verb = " carry"
		}
		return fmt.Sprintf("uses %s: %s%s more than the overflow of the bandwidth", which, namesOf(c.full), verb)
	case len(c.slower) > 0:
		times := make([]string, len(c.slower))
		for i, x := range c.slower {
			times[i] = x.u.Name + " " + milliseconds(x.verdict.RTT)
		}
		return fmt.Sprintf("uses %s: %s, the fastest of tier %d (%s)", which, milliseconds(c.list[0].verdict.RTT), tier, strings.Join(times, ", "))
	}
	switch class {
	case classGood:
		return fmt.Sprintf("uses %s: best working uplink%s (tier %d)", which, plural, tier)
	case classImpaired:
		return fmt.Sprintf("uses %s (tier %d): every uplink loses packets", which, tier)
	case classDoubtful:
		return fmt.Sprintf("uses %s (tier %d), the best candidate: no uplink is confirmed up", which, tier)
	case classDrained:
		return fmt.Sprintf("uses %s (tier %d): only drained uplinks work", which, tier)
	}
	return fmt.Sprintf("stays with %s (tier %d): no uplink works", which, tier)
}

func namesOf(list []candidate) string {
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.u.Name
	}
	return strings.Join(names, ", ")
}

func milliseconds(d time.Duration) string {
	if d <= 0 {
		return "no answer yet"
	}
	return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
}

// ChoiceCode says how well the uplinks work that carry new traffic, and of those that work well, why not others do.
type ChoiceCode string

// The codes of choices, best first.
const (
	ChoiceGood     ChoiceCode = "good"
	ChoiceFastest  ChoiceCode = "fastest"  // they work well, and are the fastest of their tier
	ChoiceOverflow ChoiceCode = "overflow" // they work well, and some of their tier or a lower one are full
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
