package sets

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	// maxBytes bounds a list: that of all networks of the Internet has a fifth of that.
	maxBytes = 32 << 20
	// maxRanges bounds what is kept of one: 96 bytes each in memory, and some 200 in the kernel.
	maxRanges = 1_000_000
	maxLine   = 4096 // bytes
)

// errEmpty means that a list has no address. Nobody makes a list for that: a download has failed, or a disk was full.
var errEmpty = errors.New("there is no address in it")

// parse reads a list: an address, a prefix or a range of addresses ("192.0.2.10-192.0.2.20") in each line, with comments behind # and ;.
// Both families may be mixed, and what overlaps is joined. An error names the line.
func parse(r io.Reader) (*inet.Set, error) {
	limited := &io.LimitedReader{R: r, N: maxBytes + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	var ranges []inet.Range
	n := 0
	for lines.Scan() {
		n++
		line := lines.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if end := bytes.IndexAny(line, "#;"); end >= 0 {
			line = line[:end]
		}
		text := string(bytes.TrimSpace(line))
		if text == "" {
			continue
		}
		one, err := parseRange(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if ranges = append(ranges, one); len(ranges) > maxRanges {
			return nil, fmt.Errorf("line %d: more than %d entries", n, maxRanges)
		}
	}
	switch err := lines.Err(); {
	case limited.N <= 0:
		return nil, fmt.Errorf("it has more than %d bytes", maxBytes)
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is longer than %d bytes: this is no list of addresses", n+1, maxLine)
	case err != nil:
		return nil, err
	case len(ranges) == 0:
		return nil, errEmpty
	}
	return inet.NewSet(ranges), nil
}

// parseRange reads an entry. Bits behind the length of a prefix, which many published lists have, do not count.
func parseRange(text string) (r inet.Range, err error) {
	bad := fmt.Errorf("%q is no address, no prefix and no range", clip(text))
	usable := func(a netip.Addr) bool { return a.Zone() == "" && !a.Is4In6() }
	if first, last, is := strings.Cut(text, "-"); is {
		a, errA := netip.ParseAddr(strings.TrimSpace(first))
		b, errB := netip.ParseAddr(strings.TrimSpace(last))
		if errA != nil || errB != nil || !usable(a) || !usable(b) || a.Is4() != b.Is4() || b.Less(a) {
			return r, bad
		}
		r = inet.Range{First: a, Last: b}
	} else if a, err := netip.ParseAddr(text); err == nil && usable(a) {
		r = inet.Range{First: a, Last: a}
	} else if p, err := netip.ParsePrefix(text); err == nil && usable(p.Addr()) {
		r = inet.RangeOf(p)
	} else {
		return r, bad
	}
	if p := r.Prefixes(); p[0].Bits() == 0 {
		return r, fmt.Errorf("%q is all of the Internet", clip(text))
	}
	return r, nil
}

// clip bounds what a message quotes.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// write writes a list that parse reads.
func write(b *bytes.Buffer, s *inet.Set) {
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, r := range s.Ranges(f) {
			if r.First == r.Last {
				fmt.Fprintln(b, r.First)
			} else {
				fmt.Fprintf(b, "%v-%v\n", r.First, r.Last)
			}
		}
	}
}
