package status

import (
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Health is the whole of a status in one word, for monitoring.
type Health int

// From best to worst.
const (
	AllWell   Health = iota
	Unsettled        // online by a spare, or with a problem to be seen to
	NotOnline        // new traffic leads nowhere in the families that uplinks have
)

// Summary is the headline: it says in some short sentences whether hosts are online, by what, what else is ready, and what waits for the owner.
func (s *Status) Summary() string {
	var b []string
	v4, has4 := s.carriers(rules.IPv4)
	v6, has6 := s.carriers(rules.IPv6)
	if s.backup() {
		b = append(b, "Backup: the other router has "+s.Pair.Virtual)
	}
	if s.Pair != nil && s.Pair.Yielding {
		b = append(b, "Handing over to the other router")
	}
	switch {
	case s.backup() && !has4 && !has6:
	case len(s.Uplinks) == 0:
		b = append(b, "No uplinks")
	case len(v4)+len(v6) == 0:
		b = append(b, "Offline"+s.others(rules.IPv4, rules.IPv6))
	case len(v4) > 0:
		b = append(b, "Online by "+join(v4)+s.others(rules.IPv4))
		if len(v6) > 0 {
			b = append(b, "IPv6 by "+join(v6))
		} else if has6 {
			b = append(b, "IPv6 is offline")
		}
	default:
		if has4 {
			b = append(b, "IPv4 is offline")
		}
		b = append(b, "Online in IPv6 by "+join(v6)+s.others(rules.IPv6))
	}
	if closed := s.closed(); len(closed) > 0 {
		b = append(b, "Closed by kill switch: "+join(closed))
	}
	if s.Config.Error != "" {
		b = append(b, "The configuration file has an error and is not used")
	}
	if !s.Config.ConfirmUntil.IsZero() {
		b = append(b, "The configuration is waiting for: uplinkd confirm")
	}
	return strings.Join(b, ". ") + "."
}

// Line is the headline, with the codes of the problems that are no mere notices.
func (s *Status) Line() string {
	var problems []string
	for _, p := range s.Problems {
		if p.Severity != "notice" {
			problems = append(problems, p.Code)
		}
	}
	if len(problems) == 0 {
		return s.Headline
	}
	return s.Headline + " Problems: " + strings.Join(problems, ", ") + "."
}

// Health judges the status.
func (s *Status) Health() Health {
	v4, has4 := s.carriers(rules.IPv4)
	v6, has6 := s.carriers(rules.IPv6)
	if len(v4)+len(v6) == 0 && (has4 || has6 || !s.backup()) {
		return NotOnline
	}
	problem := func(p rules.Problem) bool { return p.Severity != "notice" }
	if has4 && len(v4) == 0 || has6 && len(v6) == 0 || s.OnSpare(rules.IPv4) || s.OnSpare(rules.IPv6) || len(s.closed()) > 0 ||
		slices.ContainsFunc(s.Problems, problem) {
		return Unsettled
	}
	return AllWell
}

// backup reports whether another router works in this one's place.
func (s *Status) backup() bool { return s.Pair != nil && s.Pair.Role == "backup" }

// carriers lists the uplinks that carry new traffic of a family and may work; has is false where none has the family.
func (s *Status) carriers(f rules.Family) (names []string, has bool) {
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		of := u.Family(f)
		if of.State == uplink.Disabled || !u.Default {
			continue
		}
		has = true
		if of.Share > 0 && of.State != uplink.Down {
			names = append(names, u.Name)
		}
	}
	return names, has
}

// OnSpare reports whether all new traffic of a family uses tiers behind one that has uplinks.
func (s *Status) OnSpare(f rules.Family) bool {
	lowest, used := 0, 0
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		of := u.Family(f)
		if of.State == uplink.Disabled || !u.Default {
			continue
		}
		if lowest == 0 || u.Tier < lowest {
			lowest = u.Tier
		}
		if of.Share > 0 && (used == 0 || u.Tier < used) {
			used = u.Tier
		}
	}
	return used > lowest
}

// others says how the uplinks are that carry nothing of a family, in the first of some that they have.
func (s *Status) others(families ...rules.Family) string {
	var words []string
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		for _, f := range families {
			of := u.Family(f)
			if of.State == uplink.Disabled || !u.Default {
				continue
			}
			if of.Share == 0 || of.State == uplink.Down {
				words = append(words, u.Name+" "+condition(u, of))
			}
			break
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, ", ")
}

func condition(u *Uplink, of *FamilyStatus) string {
	switch {
	case of.State == uplink.Up && u.Drained:
		return "drained"
	case of.State == uplink.Up && u.OverQuota:
		return "over quota"
	case of.State == uplink.Up && u.Full:
		return "full"
	case of.State == uplink.Up && of.AwaitsUndrain:
		return "waiting for uplinkd undrain"
	case of.State == uplink.Up:
		return "ready"
	}
	return string(of.State)
}

// closed lists the policies whose traffic is refused, in every family that they are about, because no uplink of theirs works.
func (s *Status) closed() (names []string) {
	for _, p := range s.PolicyList() {
		if p.Fallback == "unreachable" && (p.IPv4.Applies || p.IPv6.Applies) && len(p.IPv4.Shares)+len(p.IPv6.Shares) == 0 {
			names = append(names, p.Name)
		}
	}
	return names
}

func join(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
