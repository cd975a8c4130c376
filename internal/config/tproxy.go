package config

import (
	"net/netip"
	"slices"
)

// MaxTProxies is how many [[tproxy]] sections there may be.
const MaxTProxies = 62

// TProxy is one [[tproxy]] section: traffic of hosts that a program on this router answers in the place of its
// destination (Documentation/networking/tproxy.rst).
type TProxy struct {
	Name      string    // name: unique among them; as an uplink's
	Port      int       // port: where the program listens with IP_TRANSPARENT
	OnFailure OnFailure // on_failure: what happens while nobody listens there
	Match     Match     // IIF and Protocols (tcp, udp) are never empty; no UIDs, no Mark, no DSCP, no filled sets in From
	Except    []netip.Prefix
}

// OnFailure says what becomes of traffic whose proxy is down.
type OnFailure string

// What may happen while a proxy is down.
const (
	OnFailureBypass OnFailure = "bypass" // new connections go on without it
	OnFailureReject OnFailure = "reject" // they are refused
)

const titleTProxy = "[[tproxy]]"

func tproxySection(p *TProxy, sets []Set) section {
	shared := slices.DeleteFunc(matchFields(&p.Match, sets), func(f field) bool { return !slices.Contains([]string{"from", "to", "dport", "mac"}, f.name) })
	return section{titleTProxy, append(shared,
		text("name", &p.Name, "proxy", checkLabel),
		integer("port", &p.Port, 1, 65535, nil),
		choice("on_failure", &p.OnFailure, []OnFailure{OnFailureBypass, OnFailureReject}, nil),
		texts("iif", &p.Match.IIF, "br-lan", maxSelector, checkDevice).scalarOrList(),
		numbers("protocol", &p.Match.Protocols, `["tcp", "udp"]`, parseTCPOrUDP("proxied")),
		prefixes("except", &p.Except, sets),
	)}
}

// tproxy reads one transparent proxy.
func (r *reader) tproxy(t *table, c *Config, seen map[string]int) TProxy {
	p := TProxy{OnFailure: OnFailureBypass, Match: Match{Protocols: []uint8{protocolTCP}}}
	r.section(t, tproxySection(&p, c.Sets))
	r.required(t, "tproxy", "name", "name", "proxy", p.Name, seen)
	if t.values["port"] == nil && !t.misspelled["port"] {
		r.errorf(t.off, "this tproxy has no port: write port = 12345 below, with the one that the program listens on")
	}
	if v := t.values["iif"]; v == nil && !t.misspelled["iif"] {
		r.errorf(t.off, `this tproxy has no iif: write iif = "br-lan" below, with the device that the hosts are behind`)
	} else if v != nil && !v.bad && len(p.Match.IIF) == 0 {
		r.fail(v, v.off, "iif is empty: name the devices that the hosts are behind")
	}
	r.match(t, c, &p.Match, "tproxy")
	return p
}
