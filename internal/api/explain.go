package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// Explanation is what becomes of a packet and why, with the kernel's own answer beside it.
type Explanation struct {
	Packet    ExplainedPacket     `json:"packet"`
	Without   string              `json:"without"` // the uplink whose cable is thought to be pulled; "" for none
	Outcome   explain.Outcome     `json:"outcome"` // "leaves", "local", "refused" or "filtered"
	Reason    string              `json:"reason"`
	Choice    string              `json:"choice"`    // why those uplinks, where several might carry it; "" where none might
	Uncertain string              `json:"uncertain"` // what the kernel may do differently; "" when nothing
	Egresses  status.List[Egress] `json:"ways"`
	Steps     status.List[Step]   `json:"steps"`
	File      string              `json:"file"` // the configuration that the lines of the steps are of; "" without one
	Kernel    KernelAnswer        `json:"kernel"`
}

// ExplainedPacket is the packet that was asked about.
type ExplainedPacket struct {
	To       netip.Addr  `json:"to"`
	From     netip.Addr  `json:"from"` // "" when the kernel chooses
	IIF      string      `json:"iif"`  // "" when this machine makes it
	OIF      string      `json:"oif"`  // device that its socket is bound to
	Mark     status.Mark `json:"mark"`
	Protocol string      `json:"protocol"`
	SPort    uint16      `json:"sport"`
	DPort    uint16      `json:"dport"`
	UID      uint32      `json:"uid"`
	TOS      uint8       `json:"tos"`
	MAC      string      `json:"mac"` // of the frame that it came in with; "" when none is given
}

// Egress is where the packet may go.
type Egress struct {
	Uplink  string     `json:"uplink"` // "" for another network
	Device  string     `json:"device"`
	Gateway netip.Addr `json:"gateway"` // "" on-link
	Table   uint32     `json:"table"`
	Source  netip.Addr `json:"source"`
	Weight  int        `json:"weight"`
	MTU     int        `json:"mtu"` // of the route; 0 for the device's
}

// Step is one rule, route or filter that was looked at.
type Step struct {
	Kind   explain.StepKind `json:"kind"`
	What   string           `json:"what"`
	Counts bool             `json:"counts"` // false: it was passed over
	Why    string           `json:"why"`
	Uplink string           `json:"uplink"` // whose configuration made it
	Key    string           `json:"key"`
	Line   int              `json:"line"` // of that key in the file; 0 when it is a default, or nobody's
}

// KernelAnswer is what the kernel itself says.
type KernelAnswer struct {
	Asked   bool       `json:"asked"` // false: it cannot be asked for such a packet
	Agrees  bool       `json:"agrees"`
	Refused string     `json:"refused"`
	Local   bool       `json:"local"`
	Device  string     `json:"device"`
	Gateway netip.Addr `json:"gateway"`
	Table   uint32     `json:"table"`
	Source  netip.Addr `json:"source"`
}

// NewExplanation puts an explanation into the form of the JSON. Line tells where a key of the configuration
// stands; the answer is nil when the kernel was not asked.
func NewExplanation(e *explain.Explanation, answer *explain.Answer, file string, line func(rules.Origin) int) Explanation {
	p := e.Packet
	out := Explanation{
		Packet: ExplainedPacket{To: p.To, From: p.From, IIF: p.In, OIF: p.Out, Mark: status.Mark(p.Mark), Protocol: protocolName(p.Protocol),
			SPort: p.SPort, DPort: p.DPort, UID: p.UID, TOS: p.TOS},
		Outcome: e.Outcome, Reason: e.Reason, Uncertain: e.Uncertain, File: file,
	}
	if p.MAC != [6]byte{} {
		out.Packet.MAC = net.HardwareAddr(p.MAC[:]).String()
	}
	for _, w := range e.Egresses {
		out.Egresses = append(out.Egresses, Egress{w.Uplink, w.Device, w.Gateway, w.Table, w.Source, w.Weight, w.MTU})
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, Step{s.Kind, s.What, s.Counts, s.Why, s.Because.Uplink, s.Because.ConfigKey(), line(s.Because)})
	}
	if answer != nil && e.Lookup != nil {
		out.Kernel = KernelAnswer{Asked: true, Agrees: e.Lookup.Agrees(*answer), Refused: answer.Refused, Local: answer.Local,
			Device: answer.Device, Gateway: answer.Gateway, Table: answer.Table, Source: answer.Source}
	}
	return out
}

// protocols are the names of protocols that have one here; the first of a number is the one shown.
var protocols = []struct {
	name   string
	number uint8
}{{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"gre", 47}, {"esp", 50}, {"icmpv6", 58}, {"sctp", 132}}

func protocolName(n uint8) string {
	for _, p := range protocols {
		if p.number == n {
			return p.name
		}
	}
	return strconv.Itoa(int(n))
}

// PacketKey is a parameter of an explain request. The command line has an option of the same name.
type PacketKey struct {
	Name string
	What string // it is, as in the usage of the option
	read func(p *explain.Packet, text string) error
}

// PacketKeys lists what an explain request may say of a packet.
func PacketKeys() []PacketKey {
	return []PacketKey{
		{"to", "`ADDRESS` that the packet is for; required", func(p *explain.Packet, text string) error { return address(&p.To, text) }},
		{"from", "`ADDRESS` that it is from; without it, the kernel chooses for a local socket", func(p *explain.Packet, text string) error { return address(&p.From, text) }},
		{"iif", "`DEVICE` that it came in by; without it, this machine makes the packet", func(p *explain.Packet, text string) error { p.In = text; return nil }},
		{"oif", "`DEVICE` that its socket is bound to", func(p *explain.Packet, text string) error { p.Out = text; return nil }},
		{"mark", "packet `MARK`", func(p *explain.Packet, text string) error { return number(&p.Mark, text, 32) }},
		{"proto", "`PROTOCOL`: udp unless given, tcp, icmp, icmpv6 or a number", func(p *explain.Packet, text string) error { return protocol(&p.Protocol, text) }},
		{"sport", "source `PORT`", func(p *explain.Packet, text string) error { return number(&p.SPort, text, 16) }},
		{"dport", "destination `PORT`", func(p *explain.Packet, text string) error { return number(&p.DPort, text, 16) }},
		{"uid", "number of the `USER` that owns the socket", func(p *explain.Packet, text string) error { return number(&p.UID, text, 32) }},
		{"tos", "`TOS` field of the header", func(p *explain.Packet, text string) error { return number(&p.TOS, text, 8) }},
		{"mac", "hardware `ADDRESS` of the host that it came from", func(p *explain.Packet, text string) error { return hardwareAddress(&p.MAC, text) }},
	}
}

// withoutKey is the parameter that is about no packet: the uplink whose cable is thought to be pulled.
const withoutKey = "without"

// ParsePacket reads the parameters of an explain request. Without a protocol the packet is UDP, which is what
// the kernel's own lookup takes it for. The error says what is wrong in the words of the request.
func ParsePacket(query url.Values) (explain.Packet, error) {
	p, keys := explain.Packet{Protocol: 17}, PacketKeys()
	for key, values := range query {
		i := slices.IndexFunc(keys, func(k PacketKey) bool { return k.Name == key })
		switch {
		case key == withoutKey:
			continue
		case i < 0:
			return p, fmt.Errorf("there is no parameter %q", key)
		case len(values) != 1:
			return p, fmt.Errorf("%s is given %d times", key, len(values))
		case values[0] == "":
			continue
		}
		if err := keys[i].read(&p, values[0]); err != nil {
			return p, fmt.Errorf("%s=%q %w", key, values[0], err)
		}
	}
	if !p.To.IsValid() {
		return p, errors.New("to, the packet's destination, is missing")
	}
	return p, nil
}

func address(a *netip.Addr, text string) error {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return errors.New("is not an address: write it without name, prefix length or zone")
	}
	*a = ip.Unmap()
	return nil
}

func hardwareAddress(mac *[6]byte, text string) error {
	a, err := net.ParseMAC(text)
	if err != nil || len(a) != len(mac) {
		return errors.New(`is not a hardware address: write one as in "02:00:00:00:00:10"`)
	}
	*mac = [6]byte(a)
	return nil
}

func number[T uint8 | uint16 | uint32](n *T, text string, bits int) error {
	v, err := strconv.ParseUint(text, 0, bits)
	if err != nil {
		return fmt.Errorf("is not a number of %d bits", bits)
	}
	*n = T(v)
	return nil
}

func protocol(n *uint8, text string) error {
	for _, p := range protocols {
		if strings.EqualFold(p.name, text) {
			*n = p.number
			return nil
		}
	}
	if number(n, text, 8) != nil {
		return errors.New("is not a protocol: write tcp, udp, icmp, icmpv6 or a number")
	}
	return nil
}

// explain answers what would become of a packet.
func (l *listenerHandler) explain(w http.ResponseWriter, r *http.Request) {
	p, err := ParsePacket(r.URL.Query())
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	e, err := l.o.Source.Explain(p, r.URL.Query().Get(withoutKey))
	switch {
	case errors.Is(err, ErrUnknownUplink):
		writeError(w, http.StatusNotFound, err.Error())
		return
	case errors.Is(err, explain.ErrPacket):
		writeError(w, http.StatusBadRequest, err.Error())
		return
	case err != nil:
		l.fail(w, r, err)
		return
	}
	body, err := json.Marshal(e)
	if err != nil {
		l.fail(w, r, fmt.Errorf("encoding an explanation: %w", err))
		return
	}
	writeBody(w, http.StatusOK, body)
}
