package kernel

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzEvents reads what no kernel sends, too.
func FuzzEvents(f *testing.F) {
	message := func(typ uint16, body ...byte) []byte {
		b := make([]byte, unix.NLMSG_HDRLEN, 64)
		binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
		binary.NativeEndian.PutUint16(b[4:], typ)
		return append(b, body...)
	}
	two := append(message(unix.RTM_NEWRULE, 1, 2, 3, 4), message(unix.RTM_NEWROUTE, make([]byte, unix.SizeofRtMsg)...)...)
	if list := events(nil, two); len(list) != 2 || list[0].typ != unix.RTM_NEWRULE || len(list[0].body) != 4 || !list[1].isRoute() {
		f.Fatalf("%+v", list)
	}
	for cut := range len(two) {
		f.Add(two[:cut])
	}
	f.Add(message(unix.RTM_NEWLINK, 1))
	f.Add(message(unix.RTM_DELADDR, make([]byte, 9)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		near := &nearChange{devices: map[int]bool{1: true}, protocol: 117}
		for _, m := range events(nil, b) {
			near.in(m)
			make(carriers).flipped(m, near.devices)
		}
	})
}
