package ndisc

import "fmt"

// Preference is the preference of a router or route (RFC 4191 section 2.1); the zero value is Medium.
type Preference int

// Preferences; a higher number is better.
const (
	Low    Preference = -1
	Medium Preference = 0
	High   Preference = 1
)

// preferenceOf reads the two bits of a flags byte; false for the reserved value.
func preferenceOf(flags byte) (Preference, bool) {
	switch flags >> 3 & 3 {
	case 1:
		return High, true
	case 3:
		return Low, true
	case 2:
		return Medium, false
	}
	return Medium, true
}

func (p Preference) String() string {
	switch p {
	case High:
		return "high"
	case Low:
		return "low"
	}
	return "medium"
}

// MarshalText writes low, medium or high.
func (p Preference) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *Preference) UnmarshalText(b []byte) error {
	for _, known := range []Preference{Low, Medium, High} {
		if known.String() == string(b) {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("router preference %q is not low, medium or high", b)
}
