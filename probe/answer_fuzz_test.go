package probe

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzDNSAnswer reads packets that anybody on the way may send. Only an answer to our question counts.
func FuzzDNSAnswer(f *testing.F) {
	query := &dnsmessage.Message{Header: dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("example.net."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	answer := func(change func(*dnsmessage.Message)) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true}, Questions: query.Questions}
		change(&m)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	good := answer(func(*dnsmessage.Message) {})
	for _, b := range [][]byte{nil, good, good[:12], append(bytes.Clone(good), 0xc0, 0x0c),
		answer(func(m *dnsmessage.Message) { m.ID++ }), answer(func(m *dnsmessage.Message) { m.Response = false }),
		answer(func(m *dnsmessage.Message) { m.Questions, m.RCode = nil, dnsmessage.RCodeServerFailure }),
		answer(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("EXAMPLE.net.") })} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if _, ok := answerTo(query, packet); !ok {
			return
		}
		if packet[0] != 0x12 || packet[1] != 0x34 || packet[2]&0x80 == 0 {
			t.Errorf("% x counts as an answer", packet)
		}
	})
}

// FuzzHTTPHead reads what stands where a web server's answer should be.
func FuzzHTTPHead(f *testing.F) {
	for _, text := range []string{"", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\n", "HTTP/1.1 103 x\r\nA: b\r\n c\r\n\r\nHTTP/1.1 200 OK\r\n",
		"HTTP/1.1  200 OK\r\n", "HTTP/9.9 099 x\r\n", "ICY 200 OK\r\n", "\x16\x03\x01", "HTTP/1.1 200 OK\rX", strings.Repeat("HTTP/1.1 100 x\r\n\r\n", 99), "HTTP/1.1 +20 OK\r\n"} {
		f.Add([]byte(text))
	}
	target, err := ParseTarget("http://192.0.2.3/generate_204")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go func() {
			defer theirs.Close()
			b := make([]byte, 1<<10)
			_, _ = theirs.Read(b)
			_, _ = theirs.Write(text)
		}()
		status, err := get(ours, target)
		if err == nil && (status != 101 && status < 200 || status > 999) {
			t.Errorf("status %d of %.80q", status, text)
		}
	})
}
