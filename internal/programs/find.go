// Package programs knows the programs that run beside uplinkd on routers.
//
//	routes, rules, chains, devices, processes ──> Seen ──> Find ──> []Found ──> doctor, init
//	                                programs.go ──┴──> who tags routes with a number, whose device this is; docs/programs.md
//
// All that is known stands in programs.go: a new program is a row there, and a scene in cmd/uplinkd (program_*_test.go).
package programs

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Program is one that is known.
type Program struct {
	Name string
	// Does is what it does that matters to a router with several uplinks; "" where it is known by sight alone.
	Does string
	// Answer is what uplinkd does about it; "" is nothing.
	Answer string
	// Write is what somebody must write for both to work; "" is nothing. Check is the check or problem of doctor that looks
	// whether it was written; "" is none.
	Write, Check string
	// Metric is the setting by which it gives the default routes of two devices different metrics; "" for none.
	Metric string
	// Routing is true where it installs routes that it learns from other routers. Such a program takes a default of somebody
	// else for one that is better than its own, and withdraws that (FRR, zebra/rib: a kernel route has distance 0).
	Routing bool
	// Guests is true where its devices lead to containers or virtual machines.
	Guests bool
	Signs
}

// Signs tell that a program is there; any of them does.
type Signs struct {
	// Protocols tag its routes and rules (linux/rtnetlink.h RTPROT_*, /etc/iproute2/rt_protos.d), with the part of the
	// program that uses the number, or "".
	Protocols map[uint8]string
	// Tables are nftables tables with their family, "inet firewalld", and Chains are of any table, as iptables-nft has them;
	// both are patterns of path.Match.
	Tables, Chains []string
	// Marks are those that its rules compare.
	Marks []Mark
	// Devices are patterns of path.Match, as are Units (the systemd unit of a process), and Processes as
	// /proc/PID/comm has them: the first 15 bytes.
	Devices, Units, Processes []string
	// Legacy is true for tables of the xtables of old, which nftables does not show.
	Legacy bool
}

// Mark is a packet mark under a mask.
type Mark struct{ Value, Mask uint32 }

// Seen is what is on a machine, in one network namespace.
type Seen struct {
	Protocols []uint8 // of routes and rules that are not ours
	Tables    []string
	Chains    []string
	Marks     []Mark
	Devices   []string
	Units     []string
	Processes []string
	Legacy    bool
}

// Found is a program that is there, and by what it was recognised: "the process keepalived".
type Found struct {
	Program
	By string
}

// Known lists the known programs.
func Known() []Program { return slices.Clone(programs) }

// Find recognises programs, in the order of Known.
func Find(s Seen) (found []Found) {
	for _, p := range programs {
		if by := p.by(s); by != "" && p.Does != "" {
			found = append(found, Found{p, by})
		}
	}
	return found
}

// by says by which sign a program is recognised, "" for by none.
func (s *Signs) by(seen Seen) string {
	for _, kind := range []struct {
		what           string
		patterns, have []string
	}{
		{"the process", s.Processes, seen.Processes},
		{"the unit", s.Units, seen.Units},
		{"the nftables table", s.Tables, seen.Tables},
		{"the chain", s.Chains, seen.Chains},
		{"the device", s.Devices, seen.Devices},
	} {
		if at := slices.IndexFunc(kind.have, func(name string) bool { return matches(kind.patterns, name) }); at >= 0 {
			return kind.what + " " + kind.have[at]
		}
	}
	for _, protocol := range seen.Protocols {
		if _, its := s.Protocols[protocol]; its {
			return fmt.Sprintf("routes or rules of protocol %d", protocol)
		}
	}
	for _, m := range seen.Marks {
		if slices.Contains(s.Marks, m) {
			return fmt.Sprintf("a rule for the mark %#x/%#x", m.Value, m.Mask)
		}
	}
	if s.Legacy && seen.Legacy {
		return "tables of iptables-legacy"
	}
	return ""
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok })
}

// Tagger says which program tags routes with a protocol number: "FRR (BGP)"; "" where none is known.
func Tagger(protocol uint8) string { return tagger(protocol, false) }

// RoutingDaemon is Tagger of programs that learn routes from other routers.
func RoutingDaemon(protocol uint8) string { return tagger(protocol, true) }

func tagger(protocol uint8, routing bool) string {
	for _, p := range programs {
		switch part, its := p.Protocols[protocol]; {
		case !its || routing && !p.Routing:
		case part != "":
			return fmt.Sprintf("%s (%s)", p.Name, part)
		default:
			return p.Name
		}
	}
	return ""
}

// OfGuests says whose containers or virtual machines a device leads to: "Docker"; "" for none.
func OfGuests(device string) string {
	for _, p := range programs {
		if p.Guests && matches(p.Devices, device) {
			return p.Name
		}
	}
	return ""
}

// Metrics lists the settings that give default routes different metrics, by program.
func Metrics() string {
	var list []string
	for _, p := range programs {
		if p.Metric != "" {
			list = append(list, p.Name+": "+p.Metric)
		}
	}
	return strings.Join(list, "; ")
}
