package icmpecho

import (
	"testing"
)

// reply makes the answer to a request: the kernels of hosts copy all but the type.
func reply(t *testing.T, r Request, typ byte) []byte {
	t.Helper()
	b, err := r.Message(24)
	if err != nil {
		t.Fatal(err)
	}
	b[0] = typ
	return b
}

func TestARequestKnowsItsAnswer(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		r := Request{IPv6: ipv6, ID: 0x1234, Seq: 0x5678}
		answer, request, header, unreachable, code := byte(0), byte(8), []byte{0x46, 23: 0}, byte(3), byte(4)
		if ipv6 {
			answer, request, header, unreachable, code = 129, 128, make([]byte, 40), 2, 0
		}
		quote := func(r Request) []byte {
			return append(append([]byte{unreachable, code, 0, 0, 0, 0, 0, 0}, header...), reply(t, r, request)...)
		}
		otherCode := quote(r)
		otherCode[1] = 1
		otherID, otherSeq := Request{ipv6, r.ID + 1, r.Seq}, Request{ipv6, r.ID, r.Seq + 1}
		for name, c := range map[string]struct {
			message []byte
			want    Answer
		}{
			"the answer":               {reply(t, r, answer), Reply},
			"the request itself":       {reply(t, r, request), None},
			"an answer to others":      {reply(t, otherID, answer), None},
			"an answer to an earlier":  {reply(t, otherSeq, answer), None},
			"too big":                  {quote(r), TooBig},
			"another's was too big":    {quote(otherID), None},
			"cut short":                {quote(r)[:20], None},
			"nothing":                  {nil, None},
			"an answer of no payload":  {reply(t, r, answer)[:HeaderSize], Reply},
			"an error cut behind what": {quote(r)[:8+len(header)+HeaderSize], TooBig},
		} {
			if got := r.Read(c.message); got != c.want {
				t.Errorf("IPv6 %v, %s: %d, want %d", ipv6, name, got, c.want)
			}
		}
		if got := r.Read(otherCode); !ipv6 && got != None {
			t.Errorf("unreachable for another reason: %d", got)
		}
	}
}

func TestThePayloadMakesTheSize(t *testing.T) {
	for _, n := range []int{0, 1, 24, 1472} {
		if b, err := (Request{}).Message(n); err != nil || len(b) != HeaderSize+n {
			t.Errorf("%d bytes: %d, %v", n, len(b), err)
		}
	}
}

func TestTheHeaderOfAPacketIsTakenOff(t *testing.T) {
	for _, c := range []struct {
		packet []byte
		want   int // bytes left, -1 for nothing
	}{{append([]byte{0x45, 19: 0}, 1, 2), 2}, {append([]byte{0x46, 23: 0}, 1), 1}, {[]byte{0x46, 19: 0}, -1}, {[]byte{0x45}, -1}, {nil, -1}} {
		if got := WithoutHeader(c.packet); len(got) != max(c.want, 0) || (got == nil) != (c.want < 0) {
			t.Errorf("%v: %v", c.packet, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78}, false)
	f.Add(append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 48)...), true)
	f.Fuzz(func(t *testing.T, b []byte, ipv6 bool) {
		r := Request{IPv6: ipv6, ID: 0x1234, Seq: 0x5678}
		r.Read(b)
		r.Read(WithoutHeader(b))
	})
}
