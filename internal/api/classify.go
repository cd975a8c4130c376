package api

import "github.com/uplinkd/uplinkd/uplink"

// codeClasses are the classes of codes, which are labels in Prometheus, where each value costs a series for ever.
var codeClasses = map[uplink.Code]string{
	uplink.CodeNoPrefix:   "route",
	uplink.CodeNoDevice:   "carrier",
	uplink.CodeNoCarrier:  "carrier",
	uplink.CodeNoAddress:  "address",
	uplink.CodeNotOffered: "address",
	uplink.CodeNoGateway:  "gateway",
	uplink.CodeNoRoute:    "route",
	uplink.CodeComplete:   "path", // the link is complete
	uplink.CodeUnprobed:   "path",
	uplink.CodeAnswer:     "probes",
	uplink.CodeSteady:     "probes",
	uplink.CodeSilence:    "probes",
	uplink.CodeConnected:  "probes",
	uplink.CodeLoss:       "probes",
	uplink.CodeOff:        "operator",
	uplink.CodeElsewhere:  "operator",
	uplink.CodeRestart:    "restart",
	uplink.CodeStart:      "restart",
	uplink.CodeSuspended:  "carrier",
}
