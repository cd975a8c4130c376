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

// UplinkPrefix is a prefix that is delegated by an uplink.
type UplinkPrefix struct {
	Uplink string
	Delegated
}
