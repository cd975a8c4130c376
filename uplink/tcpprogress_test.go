package uplink

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packetBytes are packets as they come in: headers alone, and data that is cut.
var packetBytes = map[string]string{
	"IPv4":                 "4500003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5018 ffff 0000 0000",
	"IPv4 with options":    "46000040 1234 4000 40 06 0000 c0000201 c6336402 94040000 01bb c350 00000064 000003e8 5018 ffff 0000 0000",
	"IPv4, TCP options":    "4500003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 8010 ffff 0000 0000 0101080a 00000001 00000002",
	"IPv6":                 "60000000 0014 06 40 20010db8000000000000000000000001 20010db8000000000000000000000002 01bb c350 00000064 000003e8 5010 ffff 0000 0000",
	"a fragment":           "4500003c 1234 2000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5018 ffff 0000 0000",
	"a SYN":                "4500003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5012 ffff 0000 0000",
	"a reset":              "4500003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5014 ffff 0000 0000",
	"UDP":                  "4500003c 1234 4000 40 11 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5018 ffff 0000 0000",
	"a header that is cut": "4500003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8",
	"a length that lies":   "45000001 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 f018 ffff 0000 0000",
	"a header of no words": "4000003c 1234 4000 40 06 0000 c0000201 c6336402 01bb c350 00000064 000003e8 5018 ffff 0000 0000",
	"nothing":              "",
	"neither":              "50",
}

func packetOf(name string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(packetBytes[name], " ", ""))
	if err != nil {
		panic(name + ": " + err.Error())
	}
	return b
}

func TestTCPSegmentsAreRead(t *testing.T) {
	v4 := TCPSegment{netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("198.51.100.2:50000"), 100, 1000, 20}
	options, v6, lying := v4, v4, v4
	options.Length = 8
	v6.Source, v6.Destination, v6.Length = netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("[2001:db8::2]:50000"), 0
	lying.Length = 0
	want := map[string]TCPSegment{"IPv4": v4, "IPv4 with options": v4, "IPv4, TCP options": options, "IPv6": v6, "a length that lies": lying}
	for name := range packetBytes {
		s, ok := ParseTCPSegment(packetOf(name))
		if _, expected := want[name]; ok != expected || !cmp.Equal(s, want[name], cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })) {
			t.Errorf("%s: %+v, %v", name, s, ok)
		}
	}
}

func FuzzParseTCPSegment(f *testing.F) {
	for name := range packetBytes {
		f.Add(packetOf(name))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		s, ok := ParseTCPSegment(packet)
		if ok && (!s.Source.IsValid() || !s.Destination.IsValid() || s.Length < 0 || s.Length > 1<<16+40 || len(packet) < 40) {
			t.Errorf("%x: %+v", packet, s)
		}
	})
}

func TestOnlyWhatIsAcknowledgedGetsOn(t *testing.T) {
	segment := func(port uint16, sequence, length, ack uint32) TCPSegment {
		return TCPSegment{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), netip.MustParseAddrPort("198.51.100.2:50000"), sequence, ack, int(length)}
	}
	for _, test := range []struct {
		name     string
		segments []TCPSegment
		want     []int // which of them show it
	}{
		{"a first segment", []TCPSegment{segment(1, 100, 10, 1000)}, nil},
		{"more is acknowledged", []TCPSegment{segment(1, 100, 0, 1000), segment(1, 100, 0, 1001)}, []int{1}},
		{"across the end of the numbers", []TCPSegment{segment(1, 100, 0, 0xfffffff0), segment(1, 100, 0, 5)}, []int{1}},
		{"the same is acknowledged again", []TCPSegment{segment(1, 100, 0, 1000), segment(1, 100, 0, 1000)}, nil},
		{"an old acknowledgment", []TCPSegment{segment(1, 100, 0, 1000), segment(1, 100, 0, 900)}, nil},
		{"another connection's", []TCPSegment{segment(1, 100, 0, 1000), segment(2, 100, 0, 2000)}, nil},
		{"the same data again and again", []TCPSegment{segment(1, 100, 10, 1000), segment(1, 100, 10, 1000), segment(1, 100, 10, 1000)}, nil},
		{"a probe for the tail, then what is lost from the beginning",
			[]TCPSegment{segment(1, 500, 10, 1000), segment(1, 100, 10, 1000), segment(1, 100, 10, 1000)}, nil},
		{"what is lost, then the end of what was sent", []TCPSegment{segment(1, 100, 10, 1000), segment(1, 500, 10, 1000)}, nil},
		{"new data twice", []TCPSegment{segment(1, 100, 10, 1000), segment(1, 110, 10, 1000), segment(1, 120, 10, 1000)}, []int{2}},
		{"new data twice, and the end again", []TCPSegment{segment(1, 100, 10, 1000), segment(1, 110, 10, 1000), segment(1, 120, 10, 1000), segment(1, 120, 10, 1000)}, []int{2}},
	} {
		p := NewTCPProgress()
		for i, s := range test.segments {
			if got, want := p.Observe(s), slices.Contains(test.want, i); got != want {
				t.Errorf("%s, segment %d: %v", test.name, i, got)
			}
		}
	}
}

func TestConnectionsThatAreFollowedAreBounded(t *testing.T) {
	p := NewTCPProgress()
	for port := range 10 * maxTCPFlows {
		p.Observe(TCPSegment{Source: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))})
	}
	if len(p.flows) != maxTCPFlows {
		t.Errorf("%d are followed", len(p.flows))
	}
}
