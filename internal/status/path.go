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
}
