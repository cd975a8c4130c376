package kernel

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzEvents reads what no kernel sends, too: what cannot be read may have been anything.
func FuzzEvents(f *testing.F) {
	message := func(typ uint16, body ...byte) []byte {
		b := make([]byte, unix.NLMSG_HDRLEN, 64)
		binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
		binary.NativeEndian.PutUint16(b[4:], typ)
		return append(b, body...)
	}
	near := &nearChange{devices: map[int]bool{1: true}, protocol: 117}
	one := message(unix.RTM_NEWRULE, make([]byte, 12)...)
	two := append(one, message(unix.RTM_DELROUTE, make([]byte, unix.SizeofRtMsg)...)...)
	if list := events(nil, two); len(list) != 2 || list[0].typ != unix.RTM_NEWRULE || len(list[0].body) != 12 || near.in(list[0]) || !list[1].isRoute() {
		f.Fatalf("%+v", list)
	}
	for cut := 1; cut < len(two); cut++ {
		list := events(nil, two[:cut])
		if last := list[len(list)-1]; cut != len(one) && (last.isRoute() || !near.in(last)) {
			f.Errorf("%d bytes: %+v counts for nothing", cut, last)
		}
		f.Add(two[:cut])
	}
	f.Add(message(unix.RTM_NEWLINK, 1))
	f.Add(message(unix.RTM_DELADDR, make([]byte, 9)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range events(nil, b) {
			near.in(m)
			make(carriers).flipped(m, near.devices)
		}
	})
}
