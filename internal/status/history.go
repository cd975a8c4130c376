package status

import (
	"encoding/json"
	"math"
	"strconv"
)

// History is what was seen of every uplink over a span that ends now. Each array has one value for each step,
// the oldest first; null stands for a step without one.
type History struct {
	Range   string              `json:"range"`   // "5m", "1h" or "24h"
	StepS   int                 `json:"step_s"`  // seconds
	First   int64               `json:"first"`   // seconds since 1970: the beginning of the first step
	Samples int                 `json:"samples"` // how many steps
	Uplinks List[UplinkHistory] `json:"uplinks"`
}

// UplinkHistory is the history of one uplink.
type UplinkHistory struct {
	Name     string      `json:"name"`
	Received Numbers     `json:"received"` // by its device, bytes a second
	Sent     Numbers     `json:"sent"`
	IPv4     PathHistory `json:"ipv4"`
	IPv6     PathHistory `json:"ipv6"`
}

// PathHistory is the history of one family of an uplink.
type PathHistory struct {
	RTTms  Numbers   `json:"rtt_ms"`
	Loss   Numbers   `json:"loss"`
	States List[Run] `json:"states"` // verdicts, each with how many steps it held
}

// Run is a verdict that held for some steps; "" stands for steps of which nothing is known.
type Run struct {
	State string `json:"state"`
	Steps int    `json:"steps"`
}

// Numbers is an array whose JSON has null for NaN, and no more digits than a chart shows.
type Numbers []float32

// MarshalJSON implements [json.Marshaler].
func (n Numbers) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 8*len(n)+2), '[')
	for i, v := range n {
		if i > 0 {
			b = append(b, ',')
		}
		switch x := float64(v); {
		case math.IsNaN(x) || math.IsInf(x, 0):
			b = append(b, "null"...)
		case math.Abs(x) >= 1000:
			b = strconv.AppendFloat(b, math.Round(x), 'f', -1, 64)
		default:
			b = strconv.AppendFloat(b, math.Round(x*1000)/1000, 'f', -1, 64)
		}
	}
	return append(b, ']'), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *Numbers) UnmarshalJSON(data []byte) error {
	var list []*float32
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	*n = make(Numbers, len(list))
	for i, v := range list {
		(*n)[i] = float32(math.NaN())
		if v != nil {
			(*n)[i] = *v
		}
	}
	return nil
}

// Append adds a step to the runs.
func (p *PathHistory) Append(rtt, loss float32, state string) {
	p.RTTms, p.Loss = append(p.RTTms, rtt), append(p.Loss, loss)
	if n := len(p.States); n > 0 && p.States[n-1].State == state {
		p.States[n-1].Steps++
		return
	}
	p.States = append(p.States, Run{state, 1})
}
