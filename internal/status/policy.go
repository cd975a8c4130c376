package status

import "encoding/json"

// Policy is traffic with uplinks of its own, as the status lists it under "policies".
type Policy struct {
	Name     string       `json:"name"`
	Enabled  bool         `json:"enabled"`
	Fallback string       `json:"fallback"` // "default" or "unreachable"
	Table    int          `json:"table"`
	Compiled string       `json:"compiled"` // to what, and why
	IPv4     PolicyFamily `json:"ipv4"`
	IPv6     PolicyFamily `json:"ipv6"`
}

// PolicyFamily is who carries one family of a policy's traffic.
type PolicyFamily struct {
	Applies bool               `json:"applies"` // the policy is about this family
	Reason  string             `json:"reason"`
	Shares  map[string]float64 `json:"shares"` // of new flows, 0..1, by uplink; empty: the fallback has them
}

// Raw returns the policy as the status carries it.
func (p Policy) Raw() json.RawMessage {
	text, _ := json.Marshal(p) // there is nothing in it that JSON cannot say
	return text
}

// PolicyList returns the policies; those of a newer daemon that cannot be read are left out.
func (s *Status) PolicyList() (list []Policy) {
	for _, raw := range s.Policies {
		var p Policy
		if json.Unmarshal(raw, &p) == nil {
			list = append(list, p)
		}
	}
	return list
}
