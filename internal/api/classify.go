package api

import (
	"strings"

	"github.com/uplinkd/uplinkd/uplink"
)

// The classes of reasons. They are labels in Prometheus, where each value costs
// a series for ever; reasons themselves have numbers in them.
const (
	classCarrier  = "carrier"
	classAddress  = "address"
	classGateway  = "gateway"
	classRoute    = "route"
	classPath     = "path"     // the three above are there
	classProbes   = "probes"   // answers, silence, loss
	classOperator = "operator" // drained, disabled, configured
	classRestart  = "restart"  // of the daemon
	classOther    = "other"
)

// exactReasons are the reasons without numbers.
var exactReasons = map[string]string{
	uplink.ReasonCarrier: classCarrier,
	uplink.ReasonDevice:  classCarrier,
	"no carrier":         classCarrier,
	uplink.ReasonAddress: classAddress,
	uplink.ReasonGateway: classGateway,
	uplink.ReasonRoute:   classRoute,
}

// reasonWords tell the class of the others; the first that occurs decides.
var reasonWords = []struct{ word, class string }{
	{"carrier, address and gateway present", classPath},
	{"before the restart", classRestart},
	{"drain", classOperator},
	{"operator", classOperator},
	{"configuration", classOperator},
	{"answer", classProbes}, // also "unanswered"
	{"probe", classProbes},
	{"portal", classProbes},
	{"handshake", classProbes},
}

// reasonClass returns the class of a transition's reason.
func reasonClass(reason string) string {
	if class, ok := exactReasons[reason]; ok {
		return class
	}
	for _, w := range reasonWords {
		if strings.Contains(reason, w.word) {
			return w.class
		}
	}
	return classOther
}
