package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// countedMessages is how much of a set is read to count what is in it, in answers of some KiB: an empty one is told from a list of a
	// hundred thousand prefixes by the first of them, and the table is read again whenever somebody changes anything in nftables.
	countedMessages = 3
	// countTimeout bounds the wait for an answer that the kernel has at once.
	countTimeout = 2
)

// Attributes of linux/netfilter/nf_tables.h.
const (
	nftaSetElemListTable    = 1
	nftaSetElemListSet      = 2
	nftaSetElemListElements = 3
)

// countElements counts what is in a set of one of our tables, unless it is too long to look through.
func countElements(table, set string) (n int, counted bool, err error) {
	n, counted, err = countFirst(table, set)
	if err != nil && !errors.Is(err, unix.ENOENT) { // it has just gone
		return 0, false, fmt.Errorf("counting the elements of nftables set %s: %w", set, err)
	}
	return n, counted, nil
}

func countFirst(table, set string) (n int, counted bool, err error) {
	// A socket of its own: closing it ends the answer.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, false, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: countTimeout}); err != nil {
		return 0, false, err
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_INET, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nftaSetElemListTable, nl.ZeroTerminated(table)))
	req.AddData(nl.NewRtAttr(nftaSetElemListSet, nl.ZeroTerminated(set)))
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false, err
	}
	buffer := make([]byte, 64<<10)
	for range countedMessages {
		length, err := unix.Read(fd, buffer)
		if err != nil {
			return 0, false, err
		}
		for rest := buffer[:length]; len(rest) >= unix.SizeofNlMsghdr; {
			size, kind, flags := int(native32(rest)), binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint16(rest[6:])
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				return 0, false, errors.New("a broken answer")
			}
			body := rest[unix.SizeofNlMsghdr:size]
			rest = rest[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(rest)):]
			switch {
			case flags&unix.NLM_F_DUMP_INTR != 0: // somebody changes it now, and it is looked at again after that
				return 0, false, nil
			case kind == unix.NLMSG_DONE:
				return n, true, nil
			case kind == unix.NLMSG_ERROR:
				if len(body) >= 4 {
					if code := -int32(native32(body)); code > 0 {
						return 0, false, unix.Errno(code)
					}
				}
				return n, true, nil
			}
			for typ, value := range attributes(body[min(len(body), nl.SizeofNfgenmsg):]) {
				if typ != nftaSetElemListElements {
					continue
				}
				for range attributes(value) {
					n++
				}
			}
		}
	}
	return 0, false, nil
}
