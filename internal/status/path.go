package status

import (
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// PathVerdict is the verdict on one uplink in one family.
type PathVerdict struct {
	Uplink  string
	Family  rules.Family
	Verdict uplink.Verdict
	// Suspended is true of a tunnel while what carries it is down, Common while every uplink of the family is silent.
	Suspended, Common bool
}

// seenProbes is how many probes make a verdict of an earlier run one of this run.
const seenProbes = 4

// Current reports whether the verdict says something of the line now: it is known, and not that of an earlier run alone.
func (v *PathVerdict) Current() bool {
	switch {
	case v.Suspended || v.Verdict.State == uplink.Init || v.Verdict.State == uplink.Disabled:
		return false
	case v.Verdict.Reason.Code == uplink.CodeRestart:
		return v.Verdict.Requests >= seenProbes
	}
	return true
}
