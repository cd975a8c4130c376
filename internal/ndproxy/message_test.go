package ndproxy

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
)

// solicitation is what a host at fe80::1 sends for 2001:db8:b::7, with its link-layer address.
func solicitation() []byte {
	return append([]byte{0x60, 0, 0, 0, 0, 32, 58, 255,
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
		0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 7,
		135, 0, 0, 0, 0, 0, 0, 0},
		0x20, 1, 0xd, 0xb8, 0, 0xb, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 1, 2, 0, 0, 0, 1, 1)
}

func TestMessagesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		bad    bool
	}{
		"a solicitation":              {func(b []byte) []byte { return b }, false},
		"padded by the link":          {func(b []byte) []byte { return append(b, 0, 0, 0) }, false},
		"an advertisement":            {func(b []byte) []byte { b[40] = 136; return b }, false},
		"no source":                   {func(b []byte) []byte { clear(b[8:24]); return b }, false},
		"no source, to one host":      {func(b []byte) []byte { clear(b[8:24]); b[39] = 8; return b }, true},
		"a multicast source":          {func(b []byte) []byte { b[8] = 0xff; return b }, true},
		"forwarded":                   {func(b []byte) []byte { b[7] = 254; return b }, true},
		"IPv4":                        {func(b []byte) []byte { b[0] = 0x45; return b }, true},
		"with an extension header":    {func(b []byte) []byte { b[6] = 0; return b }, true},
		"a router solicitation":       {func(b []byte) []byte { b[40] = 133; return b }, true},
		"of another code":             {func(b []byte) []byte { b[41] = 1; return b }, true},
		"for a group":                 {func(b []byte) []byte { b[48] = 0xff; return b }, true},
		"for nobody":                  {func(b []byte) []byte { clear(b[48:64]); return b }, true},
		"cut short":                   {func(b []byte) []byte { return b[:50] }, true},
		"cut short, as its header is": {func(b []byte) []byte { b[5] = 20; return b }, true},
		"half a header":               {func(b []byte) []byte { return b[:30] }, true},
		"nothing":                     {func(b []byte) []byte { return nil }, true},
	} {
		m, err := parse(Packet{c.change(solicitation()), from(1)})
		if (err != nil) != c.bad || err != nil && !errors.Is(err, errMessage) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if err == nil && m.target != at(7) {
			t.Errorf("%s is about %v", name, m.target)
		}
	}
}

// TestMessagesAreAsHostsWantThem reads what is sent, with its checksum.
func TestMessagesAreAsHostsWantThem(t *testing.T) {
	link := Link{netip.MustParseAddr("fe80::9"), ours[lan]}
	for name, c := range map[string]struct {
		make        func(Link) (Packet, error)
		source, to  netip.Addr
		hardware    net.HardwareAddr
		flags, size int
	}{
		"question":   {question{target: at(7)}.packet, link.Addr, netip.MustParseAddr("ff02::1:ff00:7"), net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 7}, 0, 32},
		"duplicates": {question{target: at(7), duplicates: true}.packet, unspecified, netip.MustParseAddr("ff02::1:ff00:7"), net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 7}, 0, 24},
		"answer":     {answer{at(7), message{source: provider, hardware: from(1)}}.packet, link.Addr, provider, from(1), 0x40, 32},
		"to all":     {answer{at(7), message{source: unspecified}}.packet, link.Addr, allNodes, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, 0, 32},
	} {
		p, err := c.make(link)
		if err != nil {
			t.Fatal(name, err)
		}
		m, err := parse(Packet{p.Data, link.Hardware})
		destination, _ := netip.AddrFromSlice(p.Data[24:40])
		if err != nil || m.source != c.source || m.target != at(7) || destination != c.to || !bytes.Equal(p.Hardware, c.hardware) {
			t.Errorf("%s: %+v to %v and %v, %v", name, m, destination, p.Hardware, err)
		}
		body := p.Data[40:]
		if len(body) != c.size || m.advertisement && int(body[4]) != c.flags {
			t.Errorf("%s is % x", name, body)
		}
		// The sum over all of it, that of the sender included, is nothing (RFC 4443 section 2.3).
		sum := 0
		whole := append(icmp.IPv6PseudoHeader(c.source.AsSlice(), c.to.AsSlice()), body...)
		whole[35] = byte(len(body))
		for i := 0; i < len(whole); i += 2 {
			sum += int(whole[i])<<8 | int(whole[i+1])
		}
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
		if sum != 0xffff {
			t.Errorf("%s: its checksum is wrong: %#x", name, sum)
		}
		if at := bytes.Index(body, ours[lan]); m.advertisement != (at > 0 && body[at-2] == 2) && name != "question" {
			t.Errorf("%s: its link-layer address is wrong: % x", name, body)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(solicitation())
	f.Add(append(solicitation()[:40], 136, 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(Packet{data, from(1)})
		if err != nil {
			return
		}
		s := newStage(Hosts{})
		s.receive(line, m, s.now)
		s.receive(lan, m, s.now)
		s.after(checkTime)
		for _, a := range append(s.present().LAN, s.present().Line...) {
			if !network.Contains(a) || a == own {
				t.Errorf("%v is a host", a)
			}
		}
	})
}
