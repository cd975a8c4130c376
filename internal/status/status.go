package status

import (
	"encoding/json"
	"net/netip"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Status is all that the daemon tells about itself. Its JSON is a contract: a
// field is always there, and an array is never null.
type Status struct {
	Headline   string        `json:"headline"` // one line for people
	Version    string        `json:"version"`
	Started    Time          `json:"started"`
	Converged  bool          `json:"converged"`  // the kernel has what the latest plan wants
	Generation uint64        `json:"generation"` // grows with every plan that changed something
	Config     Config        `json:"config"`
	Uplinks    List[Uplink]  `json:"uplinks"`
	DNS        DNS           `json:"dns"`
	Sets       List[Set]     `json:"sets"`
	Forwards   List[Forward] `json:"forwards"`

	// LANs and policies are passed on as they are, so that a client shows those
	// of a newer daemon unchanged.
	Lans     List[json.RawMessage] `json:"lans"`
	Policies List[json.RawMessage] `json:"policies"`

	Pair *Pair `json:"pair,omitempty"` // where [pair] is configured

	Problems List[rules.Problem] `json:"problems"`
}

// Pair is what this router is to another one with the same uplinks.
type Pair struct {
	Role    string `json:"role"`    // "primary", "backup", or "alone": primary, and the other one is not heard
	Virtual string `json:"virtual"` // who has it is primary
	Peer    string `json:"peer"`    // the other one's address
	Heard   Time   `json:"heard"`   // when it was heard last; "" for never
	LagMS   *int64 `json:"lag_ms"`  // how old what the backup knows may be; null while it was never heard
	// Yielding is true while this router, the primary, hands over.
	Yielding bool `json:"yielding"`
}

// Config says which configuration is in force.
type Config struct {
	File         string `json:"file"`          // "" without one
	Loaded       Time   `json:"loaded"`        // when what is in force was taken over
	Error        string `json:"error"`         // what is wrong with the file as it is now; "" for nothing
	ConfirmUntil Time   `json:"confirm_until"` // when it is taken back unless it is confirmed; "" for never
}

// Uplink is one uplink in both families.
type Uplink struct {
	Name            string    `json:"name"`
	Kind            string    `json:"kind"`
	Device          string    `json:"device"`
	Tier            int       `json:"tier"`
	Weight          int       `json:"weight"`
	Table           int       `json:"table"`
	Mark            Mark      `json:"mark"`
	Default         bool      `json:"default"` // may carry the default; false: what policies send there, or its peers, alone
	Drained         bool      `json:"drained"`
	Metered         bool      `json:"metered"`
	Failback        string    `json:"failback"`          // "after-stable", "immediate", "immediate-all", "new-flows-only" or "manual"
	ProbeBytesToday int64     `json:"probe_bytes_today"` // both directions, since midnight where the router is
	BytesToday      int64     `json:"bytes_today"`       // both directions, of a metered uplink
	BytesMonth      int64     `json:"bytes_month"`
	QuotaBytes      int64     `json:"quota_bytes"`          // bytes a month; 0 for none
	OverQuota       bool      `json:"over_quota"`           // new flows go elsewhere until the month is over
	Load            *float64  `json:"load"`                 // what it carries of its bandwidth, over some seconds, 0..1 and more; null without one
	Full            bool      `json:"full"`                 // more than the overflow of its tier: new flows use others too
	Recover         *Recovery `json:"recover,omitempty"`    // where [uplink.recover] is configured
	CarriedBy       []string  `json:"carried_by,omitempty"` // of a tunnel: what carries it, what carries that, and so on
	Peers           []Peer    `json:"peers,omitempty"`      // of a WireGuard tunnel
	MTU             int       `json:"mtu,omitempty"`        // bytes, of the device; none while it is not there
	// HardwareAddress is the link-layer address that the device has, where one is configured; none while it has none.
	HardwareAddress string       `json:"hardware_address,omitempty"`
	IPv4            FamilyStatus `json:"ipv4"`
	IPv6            FamilyStatus `json:"ipv6"`
}

// Recovery is how a line that stays dead is helped.
type Recovery struct {
	Running   bool   `json:"running"`
	RunsToday int    `json:"runs_today"` // in 24 h
	MaxPerDay int    `json:"max_per_day"`
	Last      Time   `json:"last"`  // "" for never
	Next      Time   `json:"next"`  // when it is helped next, if it stays dead; "" when that is not in sight
	Held      string `json:"held"`  // what keeps a dead line from being helped: [uplink.RecoveryHold]; "" for nothing
	Error     string `json:"error"` // of the latest run; "" for none
}

// Peer is another end of a WireGuard tunnel.
type Peer struct {
	PublicKey  string             `json:"public_key"`
	Endpoint   netip.AddrPort     `json:"endpoint"` // "" while it is not known where it is
	AllowedIPs List[netip.Prefix] `json:"allowed_ips"`
	Handshake  Time               `json:"handshake"` // the latest; "" for none yet
	Routed     bool               `json:"routed"`    // false while peer_routes has found that it is not there
}

// Family returns the half of the uplink that belongs to f.
func (u *Uplink) Family(f rules.Family) *FamilyStatus {
	if f == rules.IPv6 {
		return &u.IPv6
	}
	return &u.IPv4
}

// FamilyStatus is one uplink in one family. A family that is off has all the
// fields too, and the state "disabled".
type FamilyStatus struct {
	State         uplink.State       `json:"state"`
	Code          uplink.Code        `json:"code"` // why, for programs
	Reason        string             `json:"reason"`
	Since         Time               `json:"since"`
	Addresses     List[netip.Prefix] `json:"addresses"`
	Gateway       netip.Addr         `json:"gateway"`    // "" without one
	Share         float64            `json:"share"`      // of new flows without a policy, 0..1
	RTTms         Millis             `json:"rtt_ms"`     // smoothed
	JitterMs      Millis             `json:"jitter_ms"`  // of the same target
	Loss          float64            `json:"loss"`       // 0..1
	Class         string             `json:"class"`      // "good", "fair" or "poor"; "" when not judged
	Congested     bool               `json:"congested"`  // slow through its own traffic; see reason
	Slower        bool               `json:"slower"`     // another uplink of the tier, which is balanced by latency, has the new flows
	Suppressed    bool               `json:"suppressed"` // fails so often that it carries nothing while another can
	Targets       List[Target]       `json:"targets"`
	AwaitsUndrain bool               `json:"awaits_undrain"`      // was down, and failback is "manual"
	Portal        bool               `json:"portal"`              // something on the way answers in the place of a target
	Suspended     bool               `json:"suspended,omitempty"` // what carries this tunnel is down; it is not probed meanwhile
	Delegated     []Delegated        `json:"delegated,omitempty"` // IPv6 only
}

// Target is one probe target.
type Target struct {
	Target string `json:"target"`
	Up     bool   `json:"up"`
	RTTms  Millis `json:"rtt_ms"`
}

// Delegated is a prefix got by DHCPv6-PD.
type Delegated struct {
	Prefix     netip.Prefix `json:"prefix"`
	PreferredS int64        `json:"preferred_s"` // seconds from now
	ValidS     int64        `json:"valid_s"`
}
