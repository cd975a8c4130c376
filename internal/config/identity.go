package config

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

const (
	exampleDUID    = "00:03:00:01:02:00:00:00:00:01"
	maxUserClasses = 8
	maxVendorClass = 255
	maxUserClass   = 63
	// maxClasses is what both may say together, in octets, two more for each user class: a message has to fit in one packet.
	maxClasses = 512
	// Bounds of a DUID in octets (RFC 9915 section 11.1).
	minDUID, maxDUID = 3, 130
)

// parseDUID reads octets in hexadecimal digits, and writes them with colons.
func parseDUID(name, s string) (string, string) {
	octets, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(s))
	switch {
	case err != nil:
		return "", fmt.Sprintf("%s %s must be octets in hexadecimal digits, such as %q", name, quote(s), exampleDUID)
	case len(octets) < minDUID || len(octets) > maxDUID:
		return "", fmt.Sprintf("%s %s has %d octets: it must be %d to %d, a type of two and what follows", name, quote(s), len(octets), minDUID, maxDUID)
	}
	var b strings.Builder
	for i, o := range octets {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02x", o)
	}
	return b.String(), ""
}

func iaid(dst **uint32) field {
	var n uint32
	f := integer("iaid", &n, 0, math.MaxUint32, nil)
	read := f.read
	f.read = func(r *reader, v *value) {
		if read(r, v); !v.bad {
			*dst = &n
		}
	}
	return f
}

// VendorClass splits a vendor class into the number of the enterprise, 0 for none, and what it says.
func VendorClass(s string) (enterprise uint32, text string) {
	if before, after, ok := strings.Cut(s, ":"); ok {
		if n, err := strconv.ParseUint(before, 10, 32); err == nil {
			return uint32(n), after
		}
	}
	return 0, s
}

func checkVendorClass(name, s string) string {
	if before, _, ok := strings.Cut(s, ":"); ok && before != "" && strings.Trim(before, "0123456789") == "" {
		if _, err := strconv.ParseUint(before, 10, 32); err != nil {
			return fmt.Sprintf("%s %s begins with a number beyond 4294967295, which no enterprise has", name, quote(s))
		}
	}
	if _, text := VendorClass(s); text == "" || len(text) > maxVendorClass {
		return fmt.Sprintf("%s %s must say 1 to %d bytes, behind the number of the enterprise, as in \"3561:dslforum.org\"", name, quote(s), maxVendorClass)
	}
	return ""
}

func checkUserClass(name, s string) string {
	if s == "" || len(s) > maxUserClass || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Sprintf("%s %s must be 1 to %d printable bytes", name, quote(s), maxUserClass)
	}
	return ""
}

// classes reports classes that are too long together.
func (r *reader) classes(t *table, ip *IP) {
	_, text := VendorClass(ip.VendorClass)
	n := len(text)
	for _, u := range ip.UserClass {
		n += 2 + len(u)
	}
	if v := t.values["user_class"]; n > maxClasses && v != nil && !v.bad && t.usable("vendor_class") {
		r.fail(v, v.off, "vendor_class and user_class have %d octets together: %d is the most that fits in a message", n, maxClasses)
	}
}
