package dhcp6

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// DUID identifies a client or a server. It is opaque: made or read once, stored, compared byte by byte
// (RFC 9915 section 11). Its text is hexadecimal with colons.
type DUID []byte

// Bounds of a DUID in octets: a type of two, and at most 128 behind it (section 11.1).
const (
	minDUID = 3
	maxDUID = 130
)

// NewDUID makes a DUID-UUID (RFC 6355) of random bits. It depends on no interface, so it outlives them all.
// The caller stores it: a router keeps one for life, for all its clients.
func NewDUID() DUID {
	d := make(DUID, 18)
	d[1] = byte(dhcpv6.DUID_UUID)
	_, _ = rand.Read(d[2:]) // crypto/rand.Read never fails
	d[8] = d[8]&0x0f | 0x40 // RFC 9562 section 5.4: version 4
	d[10] = d[10]&0x3f | 0x80
	return d
}

// String returns the text form.
func (d DUID) String() string {
	var b strings.Builder
	for i, o := range d {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex.EncodeToString([]byte{o}))
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (d DUID) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It wants 3 to 130 octets, with or without colons;
// the empty text is no DUID.
func (d *DUID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = nil
		return nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), ":", ""))
	if err != nil {
		return fmt.Errorf("reading DUID %q: %w", text, err)
	}
	if len(b) < minDUID || len(b) > maxDUID {
		return fmt.Errorf("reading DUID %q: %d octets, want %d to %d", text, len(b), minDUID, maxDUID)
	}
	*d = b
	return nil
}
