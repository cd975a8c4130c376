package dhcp6

import (
	"net/netip"
	"time"
)

// Lease is what a server has given: for the caller to use, and to store for the next run. Times are cut to
// seconds; [Never] is for ever. Those that a Client tells have a monotonic reading, so that time.Until is right
// even when the wall clock has just been set; JSON leaves it out.
type Lease struct {
	Server DUID      `json:"server"`
	Heard  time.Time `json:"heard"`  // when the server granted or renewed something last
	Renew  time.Time `json:"renew"`  // T1
	Rebind time.Time `json:"rebind"` // T2

	Prefixes  []Delegation `json:"prefixes,omitempty"`
	Addresses []Address    `json:"addresses,omitempty"`

	DNS     []netip.Addr `json:"dns,omitempty"`
	Domains []string     `json:"domains,omitempty"`
}

// Delegation is one delegated prefix.
type Delegation struct {
	IAID   uint32       `json:"iaid"`
	Prefix netip.Prefix `json:"prefix"`
	// Exclude is the part that belongs to the uplink's own link and must not be used on a LAN (RFC 6603);
	// zero for none.
	Exclude netip.Prefix `json:"exclude,omitzero"`
	// Preferred is when it is deprecated: it has passed for a prefix that the server deprecates.
	Preferred time.Time `json:"preferred"`
	Valid     time.Time `json:"valid"`
}

// Address is one address for the uplink itself. It has no prefix length: what is on link is for router
// advertisements to say (RFC 5942).
type Address struct {
	IAID      uint32     `json:"iaid"`
	Address   netip.Addr `json:"address"`
	Preferred time.Time  `json:"preferred"`
	Valid     time.Time  `json:"valid"`
}

// Change says what holds now and what became of each prefix.
type Change struct {
	Reason   Reason
	Lease    *Lease         // nil: nothing holds. It is not modified afterwards.
	Prefixes []PrefixChange // sorted; empty when only DNS or times changed
	Note     string         // what the server said, or what is odd; "" for nothing
}

// PrefixChange is the outcome of a delegated prefix, or of an address as a prefix of 128 bits.
type PrefixChange struct {
	Prefix  netip.Prefix
	Outcome Outcome
}

// Reason is why a lease changed.
type Reason string

// The reasons.
const (
	Restored Reason = "restored" // at start: what is left of Config.Last; it will be verified
	Granted  Reason = "granted"  // a server answered a Request, or a Solicit with Rapid Commit
	Renewed  Reason = "renewed"  // the server answered a Renew
	Rebound  Reason = "rebound"  // some server answered a Rebind
	Verified Reason = "verified" // some server answered after the link came up
	Denied   Reason = "denied"   // the server has nothing for us, or the address does not belong to the link
	Lapsed   Reason = "lapsed"   // a lifetime is over
	Returned Reason = "returned" // Release was called
	Reset    Reason = "reset"    // the clock was set, or the machine slept: the same lease in corrected times
)

// Outcome is what became of a prefix.
type Outcome string

// The outcomes.
const (
	Added    Outcome = "added"
	Extended Outcome = "extended" // renewed: its lifetimes start anew
	// Deprecated is held on, and not for new connections: the server has given another one instead and says nothing of
	// this one (RFC 9096 section 3.5).
	Deprecated Outcome = "deprecated"
	Kept       Outcome = "kept"      // of Config.Last, still valid
	Withdrawn  Outcome = "withdrawn" // the server set its valid lifetime to 0
	Replaced   Outcome = "replaced"  // a new binding does not have it
	Refused    Outcome = "refused"   // the server has no binding for it, and gives none
	Expired    Outcome = "expired"
	Unwanted   Outcome = "unwanted" // of Config.Last, with an IAID that is not configured any more
	Released   Outcome = "released"
)

// Gone reports whether the prefix must not be used any more.
func (f Outcome) Gone() bool {
	switch f {
	case Added, Extended, Deprecated, Kept:
		return false
	}
	return true
}
