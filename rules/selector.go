package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Selector selects the packets that meet each of its conditions. It has one of a kind at most, in the order of Conditions.
type Selector []Condition

// Condition is one thing that a selector asks of packets: of the values that it lists, a packet has to have one. A kind of condition is a
// type in a file of its own (select*.go), and a place in the list of Conditions.
type Condition interface {
	// Key is what the configuration calls it.
	Key() string
	// about tells which packets can meet it.
	about() packets
	// inRules says how rules of the kernel express it, or why they cannot.
	inRules(Family) ruleForm
	// expressions are those of nftables of which a packet of the family has to match one.
	expressions(Family) []nft.Expr
	// tracked returns what tells whether the first packet of a connection met it; nil where connection tracking does not know.
	tracked(*planner) func(*Connection) bool
}

// Conditions returns one of every kind, without values.
func Conditions() []Condition {
	return []Condition{SelectDevices{}, SelectAddresses{}, SelectAddresses{Dest: true}, SelectProtocols{}, SelectPorts{}, SelectPorts{Dest: true},
		SelectUIDs{}, SelectMark{}, SelectDSCP{}, SelectMACs{}}
}

// packets are sorts of packets: one bit of a family and one of an origin must be among them.
type packets uint8

const (
	packetsIPv4 packets = 1 << iota
	packetsIPv6
	packetsLocal           // that this machine makes
	packetsArrived         // by a device
	allPackets     packets = 1<<iota - 1
)

// ruleForm says how rules of the kernel express a condition: by one for each of its values, which set puts there.
type ruleForm struct {
	values int
	set    func(r *netcfg.Rule, value int)
	local  bool   // they are for this machine's own packets only
	cannot string // why they cannot, "" when they can
}

// each makes a rule for each value of a list.
func each[T any](list []T, local bool, set func(*netcfg.Rule, T)) ruleForm {
	return ruleForm{values: len(list), local: local, set: func(r *netcfg.Rule, value int) { set(r, list[value]) }}
}

// maxRules is how many rules of the kernel one policy may become; beyond, a set of our packet filter is
// searched faster than a list of rules is walked.
const maxRules = 32

const dissectionReason = "rules about protocols and ports have the kernel take every forwarded packet apart"

// conditionOf returns the selector's condition of a kind, without values when it has none.
func conditionOf[T Condition](s Selector) (of T) {
	for _, c := range s {
		if c, ok := c.(T); ok {
			return c
		}
	}
	return of
}

// about tells which packets can meet all conditions.
func (s Selector) about() packets {
	all := allPackets
	for _, c := range s {
		all &= c.about()
	}
	return all
}

// covers reports whether the selector can match packets of a family.
func (s Selector) covers(f Family) bool { return s.about()&(packetsIPv4<<f.Index()) != 0 }

// inRules says whether and how rules of the kernel express the selector.
func (s Selector) inRules(f Family) ruleForm {
	form, about := ruleForm{values: 1}, s.about()
	for _, c := range s {
		of := c.inRules(f)
		form.values, form.local = min(form.values*of.values, 1<<20), form.local || of.local
		if form.cannot = of.cannot; of.local && about&packetsLocal == 0 {
			form.cannot = dissectionReason
		}
		if form.cannot != "" {
			return form
		}
	}
	if form.values > maxRules {
		form.cannot = fmt.Sprintf("its lists would take %d rules, and a set is searched faster", form.values)
	}
	return form
}

// appendRules expands the selector into rules that are like the given one otherwise.
func (s Selector) appendRules(list []netcfg.Rule, like netcfg.Rule) []netcfg.Rule {
	if !s.covers(like.Family) {
		return list
	}
	at := len(list)
	list = append(list, like)
	for _, c := range s {
		form := c.inRules(like.Family)
		for i, end := at, len(list); i < end; i++ {
			if form.local {
				list[i].IIF = loopback
			}
			for value := 1; value < form.values; value++ {
				list = append(list, list[i])
				form.set(&list[len(list)-1], value)
			}
			form.set(&list[i], 0)
		}
	}
	return list
}

// matches writes a selector, and exceptions from it, in expressions for one family: a list for each way in which
// it can match.
func (s Selector) matches(except []netip.Prefix, family Family) [][]nft.Expr {
	except = inet.OfFamily(except, family)
	told := len(except) > 0 // the families are told apart
	var conditions [][]nft.Expr
	excepted := 0 // where exceptions stand: behind other addresses, before what is in the packet
	for i, c := range s {
		conditions = append(conditions, c.expressions(family))
		switch c.(type) {
		case SelectDevices, SelectAddresses:
			excepted = i + 1
		}
		told = told || slices.ContainsFunc(conditions[i], tellsFamily)
	}
	if len(except) > 0 {
		conditions = slices.Insert(conditions, excepted, []nft.Expr{oneOf(except, family, true, true)})
	}
	all := [][]nft.Expr{nil}
	if !told {
		all[0] = []nft.Expr{nft.Family{Family: family}}
	}
	for _, alternatives := range conditions {
		longer := make([][]nft.Expr, 0, len(all)*len(alternatives))
		for _, match := range all {
			for _, e := range alternatives {
				longer = append(longer, append(slices.Clip(match), e))
			}
		}
		all = longer
	}
	return all
}

// tellsFamily reports whether packets of one family alone match an expression. Where none of a rule does, one more is needed.
func tellsFamily(e nft.Expr) bool {
	switch e.(type) {
	case nft.Addresses, nft.ExternalSet, nft.DSCP:
		return true
	}
	return false
}

// bySide is the key of a condition about the source or the destination.
func bySide(dest bool, source, destination string) string {
	if dest {
		return destination
	}
	return source
}
