package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Packet is what a route is looked up for.
type Packet struct {
	From         netip.Addr // zero: a socket of this machine that has not chosen its source yet
	To           netip.Addr
	In           string // device that the packet came in by; "" when this machine makes it
	Out          string // device that the socket is bound to; only without In
	Mark         uint32
	Protocol     uint8 // 0: none is given, and rules that ask for one do not match (RTM_GETROUTE takes it for UDP)
	SPort, DPort uint16
	UID          uint32 // owner of the socket; a forwarded packet counts as root's
	TOS          uint8
	MAC          [6]byte // of the Ethernet frame that it came in with; zero: none is given
}

// Routing is all that the kernel's answer depends on.
type Routing struct {
	// Observed holds links, addresses, rules and the parameters of LookupSysctls. Its routes are not
	// looked at: Tables has them all.
	*rules.Observed
	Tables []TableRoute  // of every table, in the order in which the kernel lists them
	IPsec  []IPsecPolicy // for what leaves
}

// TableRoute is a route as a lookup meets it: with what decides whether it is used.
type TableRoute struct {
	netcfg.Route
	Unusable []bool // by nexthop: the kernel has marked it dead, as on a device that is down
	Linkdown []bool // by nexthop: its device has no carrier
}

// AddNexthop appends a nexthop and what the kernel says of it.
func (r *TableRoute) AddNexthop(n netcfg.Nexthop, dead, linkdown bool) {
	r.Nexthops = append(r.Nexthops, n)
	r.Unusable, r.Linkdown = append(r.Unusable, dead), append(r.Linkdown, linkdown)
}

// Explanation says what becomes of a packet, and why.
type Explanation struct {
	Packet  Packet
	Steps   []Step
	Outcome Outcome
	// Egresses are where it may go: several when a route shares its load, one of which the kernel takes
	// by a hash of the flow.
	Egresses []Egress
	Reason   string
	// RPFilter is why the source is not accepted where the packet came in, "" when it is.
	RPFilter string
	// Uncertain says what the kernel may do differently, "" when nothing.
	Uncertain string
	// Lookup is the last route lookup on the way that the kernel can be asked for: its packet has the mark
	// and the source of that moment, and no packet filter has seen it since. It is nil for an IPv6 socket
	// that is bound to a device and has a source: RTM_GETROUTE then takes the device for a wish only.
	Lookup *Lookup
}

// Lookup is a route lookup and its result.
type Lookup struct {
	Packet   Packet
	Outcome  Outcome
	Egresses []Egress
}

// Answer is what the kernel says of a packet.
type Answer struct {
	Refused string // why there is no way, in the words of the error; "" when there is one
	Local   bool
	Device  string
	Gateway netip.Addr
	Table   uint32
	Source  netip.Addr // that a socket without one gets
}

// Agrees reports whether the kernel's answer is one of those that were expected.
func (l *Lookup) Agrees(a Answer) bool {
	switch {
	case a.Refused != "":
		return l.Outcome == Refused
	case a.Local:
		return l.Outcome == Delivered
	}
	return l.Outcome == Leaves && slices.ContainsFunc(l.Egresses, func(w Egress) bool {
		return w.Device == a.Device && (w.Gateway == a.Gateway || w.Gateway == rules.PlaceholderGateway)
	})
}

// Outcome is what becomes of a packet.
type Outcome string

// The outcomes.
const (
	Leaves    Outcome = "leaves"   // by one of the ways
	Delivered Outcome = "local"    // to this machine itself
	Refused   Outcome = "refused"  // no route, one that refuses, or a filter of sources
	Filtered  Outcome = "filtered" // there is a way, and our packet filter drops the packet there
)

// Egress is where a packet may go.
type Egress struct {
	Device  string
	Gateway netip.Addr // zero: on-link
	Table   uint32
	Source  netip.Addr // that the packet has or, made here without one, would get; zero: not known
	Uplink  string     // of the device; "" for none
	Weight  int
	MTU     int // of the route, 0 for the device's

	bits  int    // length of the prefix that matched
	first string // device of the route's first nexthop, which is what IPv4 suppression looks at
	scope uint8
}

// StepKind says what a step looked at.
type StepKind string

// The kinds of steps.
const (
	StepMark   StepKind = "mark"   // our packet filter sets a mark
	StepRule   StepKind = "rule"   // a policy rule
	StepRoute  StepKind = "route"  // a route of the table that the rule leads to
	StepSource StepKind = "source" // the choice of a source, or its validation
	StepFilter StepKind = "filter" // our packet filter, on the way out
)

// Step is one thing that was looked at on the way to the outcome.
type Step struct {
	Kind    StepKind
	What    string // the rule or the route, in iproute2's words
	Counts  bool   // it decided something; otherwise it was passed over
	Why     string
	Because rules.Origin // what in the configuration made it
}

// ErrPacket is wrapped by the errors of Explain: no packet is such.
var ErrPacket = errors.New("no such packet")

// Explain walks a packet over the rules and tables as the kernel does, through our packet filter on the
// way in and out. State is the plan in force, of which the packet filter is taken.
func Explain(cfg rules.Config, rt *Routing, state *netcfg.State, p Packet) (*Explanation, error) {
	p.From, p.To = p.From.Unmap(), p.To.Unmap()
	if err := rt.check(&p); err != nil {
		return nil, err
	}
	e := explainer{cfg: &cfg, rt: rt, table: state.Table, policies: state.Policies, out: &Explanation{Packet: p}}
	if p.In != "" {
		e.arrival(p)
	} else {
		e.departure(p)
	}
	return e.out, nil
}

type explainer struct {
	cfg      *rules.Config
	rt       *Routing
	table    *nft.Table
	policies *nft.Table
	out      *Explanation
	forward  string // the port forwarding that the packet belongs to, "" for none
	quiet    bool   // the steps are those of a lookup beside the one that is explained
}

func (e *explainer) step(s Step) {
	if !e.quiet {
		e.out.Steps = append(e.out.Steps, s)
	}
}

func (rt *Routing) check(p *Packet) error {
	reject := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrPacket, fmt.Sprintf(format, args...))
	}
	switch {
	case !p.To.IsValid() || p.To.IsUnspecified() || p.To.IsMulticast() || p.To == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return reject("%v is not the address of a single host", p.To)
	case p.From.IsValid() && rules.FamilyOf(p.From) != rules.FamilyOf(p.To):
		return reject("%v and %v are of different families", p.From, p.To)
	case p.From.IsValid() && (p.From.IsUnspecified() || p.From.IsMulticast()):
		return reject("%v is not the address of a single host", p.From)
	case p.In != "" && p.Out != "":
		return reject("a forwarded packet cannot be bound to a device")
	case p.In != "" && !p.From.IsValid():
		return reject("a packet that came in on %s needs a source (from)", p.In)
	case p.In == "" && p.MAC != [6]byte{}:
		return reject("a packet that this machine sends has no hardware address as its source")
	case p.To.Is6() && p.To.IsLinkLocalUnicast() && p.Out == "" && p.In == "":
		return reject("%v exists on every device: say which one with oif", p.To)
	}
	for _, device := range []string{p.In, p.Out} {
		if _, ok := rt.Link(device); device != "" && !ok {
			return reject("there is no device %s", device)
		}
	}
	return nil
}

// LookupSysctls lists the parameters that lookups depend on: paths below /proc/sys.
func LookupSysctls(links []rules.Link) []string {
	devices := []string{"all"}
	for _, l := range links {
		devices = append(devices, l.Name)
	}
	var names []string
	for _, device := range devices {
		for _, key := range []string{"rp_filter", "src_valid_mark", "accept_local", "forwarding", "ignore_routes_with_linkdown"} {
			names = append(names, "net/ipv4/conf/"+device+"/"+key)
		}
		for _, key := range []string{"forwarding", "ignore_routes_with_linkdown"} {
			names = append(names, "net/ipv6/conf/"+device+"/"+key)
		}
	}
	return names
}

func (rt *Routing) sysctl(name string) int {
	n, _ := strconv.Atoi(rt.Sysctls[name])
	return n
}

// ignoresLinkdown is ip_ignore_linkdown and ip6_ignore_linkdown.
func (rt *Routing) ignoresLinkdown(family rules.Family, device string) bool {
	base := "net/" + family.String() + "/conf/"
	value := rt.sysctl(base + device + "/ignore_routes_with_linkdown")
	if family == rules.IPv4 {
		value = max(value, rt.sysctl(base+"all/ignore_routes_with_linkdown"))
	}
	return value != 0
}
