package linksession

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// addressFile lists the IPv6 addresses of the namespace that the calling thread is in, with their flags.
const addressFile = "/proc/thread-self/net/if_inet6"

// LinkLocals returns the link-local addresses of a device that may be used, sorted, since the kernel lists them in no order:
// those that it has checked for duplicates (net.Interface does not tell which these are) and, if optimistic, those that may be
// bound before (RFC 4429). The error wraps ErrNotReady while one may still come.
func LinkLocals(index int, optimistic bool) ([]netip.Addr, error) {
	f, err := os.Open(addressFile)
	if err != nil {
		return nil, fmt.Errorf("%w: IPv6 is off: %w", ErrNotReady, err)
	}
	defer func() { _ = f.Close() }()
	return linkLocals(f, index, optimistic)
}

func linkLocals(file io.Reader, index int, optimistic bool) (usable []netip.Addr, err error) {
	taken := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		a, i, flags, ok := addressLine(lines.Text())
		switch {
		case !ok || i != index || !a.IsLinkLocalUnicast():
		case flags&unix.IFA_F_DADFAILED != 0:
			taken = true
		case flags&unix.IFA_F_TENTATIVE == 0 || optimistic && flags&unix.IFA_F_OPTIMISTIC != 0:
			usable = append(usable, a)
		}
	}
	switch {
	case len(usable) > 0:
		slices.SortFunc(usable, netip.Addr.Compare)
		return usable, nil
	case taken:
		return nil, errors.New("another host uses the link-local address (duplicate address detection)")
	}
	return nil, ErrNotReady
}

// addressLine reads a line of if_inet6: address, index, prefix length, scope, flags (all hexadecimal) and name.
func addressLine(line string) (a netip.Addr, index int, flags uint64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return netip.Addr{}, 0, 0, false
	}
	raw, err := hex.DecodeString(fields[0])
	if err != nil || len(raw) != 16 {
		return netip.Addr{}, 0, 0, false
	}
	i, err1 := strconv.ParseInt(fields[1], 16, 32)
	flags, err2 := strconv.ParseUint(fields[4], 16, 32)
	return netip.AddrFrom16([16]byte(raw)), int(i), flags, err1 == nil && err2 == nil
}
