// Package doctor finds what breaks setups with several uplinks, and says what to do about it.
//
//	kernel, files, a few packets ──> Observation ──> Examine ──> []Finding
//
// Examine is pure: each check looks at what was gathered and knows one trap. The adapters of this package
// read what internal/kernel does not: systemd-networkd's settings, and what a path does to large packets.
package doctor

import (
	"cmp"
	"slices"

	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Severity says how bad a finding is.
type Severity string

// The severities. An error breaks connections now, a warning does so under conditions that will come.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Notice  Severity = "notice"
)

// Finding is a trap that was found.
type Finding struct {
	Check    string   `json:"check"` // its name, for scripts
	Severity Severity `json:"severity"`
	Cause    string   `json:"cause"`
	Fix      string   `json:"fix"`
}

// Observation is all that the checks look at.
type Observation struct {
	Config  rules.Config
	Routing *explain.Routing
	State   *netcfg.State // what the configuration wants
	Report  rules.Report
	// Networkd is nil where systemd-networkd is not in use.
	Networkd *Networkd
	Drops    []InvalidDrop
	// NoneInvalid is true where connection tracking is known to have held no packet for invalid.
	NoneInvalid bool
	// Liberal is true when connection tracking takes TCP segments outside of the window for valid.
	Liberal bool
	Missing []MissingFeature
	// NoTranslator says why there is no program for uplinks whose IPv4 is to be translated; "" where there is, or none is needed.
	NoTranslator string
	// RefusedTranslations is what they do not forward from translators to the lines of these.
	RefusedTranslations []Refused
	// Absent are the devices that the configuration names and that are not there.
	Absent    []AbsentDevice
	MTUProbes []MTUProbe
	// Refused is what others' packet filters do not forward to uplinks.
	Refused []Refused
	// RefusedForwards is what they do not forward from uplinks to the hosts of forwarded ports.
	RefusedForwards []RefusedForward
	// Pair is nil where there is none.
	Pair *Pair
	// Neighbours are the known programs that are here.
	Neighbours []programs.Found
	// DaemonProblems are the problems of the running daemon.
	DaemonProblems []rules.Problem
}

// AbsentDevice is a device that is not there.
type AbsentDevice struct {
	User, Device string
	Like         string // one that is, by a similar name; "" for none
	Cause        string // the sentence that says so
}

// Refused says that somebody's packet filter lets no new connection pass from a local network to an uplink.
type Refused struct {
	Device, Uplink string
	Family         rules.Family
	By             string // chain: "inet filter, chain forward"
}

// InvalidDrop is somebody's packet filter rule that drops what connection tracking holds for invalid.
type InvalidDrop struct {
	Family, Table, Chain string
	Handle               uint64
	Counted              bool   // the rule has a counter
	Packets              uint64 // that it has dropped
}

// MissingFeature is something that the kernel cannot do.
type MissingFeature struct {
	What   string // "masquerading"
	Module string // that would bring it
	Err    string
}

// MTUProbe is what came of a few packets that were sent by a path.
type MTUProbe struct {
	Uplink  string
	Device  string
	Family  rules.Family
	Target  string
	Blocked string // the error of sending, when it was this machine's own refusal
	Answers bool   // small packets are answered
	MTU     int    // bytes of the largest packet that the device takes
	Passes  int    // bytes of the largest one that was answered
	TooBig  bool   // that larger ones do not pass was said by ICMP
}

// check knows one trap.
type check struct {
	name string
	run  func(o *Observation, found func(severity Severity, cause, fix string))
}

func checks() []check {
	return []check{
		{"kernel-feature", kernelFeatures},
		{"rp-filter", reversePath},
		{"foreign-rules", foreignRules},
		{"networkd-foreign-rules", networkdForeignRules},
		{"overlapping-subnets", overlappingSubnets},
		{"ct-invalid-drop", invalidDrops},
		{"mtu-blackhole", mtuBlackholes},
		{"no-device", absentDevices},
		{"clat-program", noTranslator},
		{"clat-refused", translationsRefused},
		{"probe-blocked", blockedProbes},
		{"forwarding", forwarding},
		{"lan-not-forwarded", notForwarded},
		{"forward-refused", forwardsRefused},
		{"ipsec-translated", ipsecTranslated},
		{"pair", pairOfRouters},
		{"other-program", otherPrograms},
	}
}

// Names lists the checks.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Examine returns what was found, errors first.
func Examine(o *Observation) []Finding {
	findings := []Finding{}
	for _, c := range checks() {
		c.run(o, func(severity Severity, cause, fix string) {
			findings = append(findings, Finding{c.name, severity, cause, fix})
		})
	}
	for _, p := range append(slices.Clone(o.Report.Problems), o.DaemonProblems...) {
		known := slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == p.Code })
		if !known {
			findings = append(findings, Finding{p.Code, Severity(p.Severity), p.Message, p.Fix})
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int { return cmp.Compare(rank(a.Severity), rank(b.Severity)) })
	return findings
}

func rank(s Severity) int {
	switch s {
	case Error:
		return 0
	case Warning:
		return 1
	}
	return 2
}

// Worst returns the worst severity among the findings, "" for none.
func Worst(findings []Finding) Severity {
	worst := Severity("")
	for _, f := range findings {
		if worst == "" || rank(f.Severity) < rank(worst) {
			worst = f.Severity
		}
	}
	return worst
}
