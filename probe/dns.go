package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var nameQuery = kind{name: DNS, ports: true, port: 53, example: "dns://192.0.2.53?name=example.net", rest: parseQuery, probe: probeDNS,
	size: func(t Target) (packets, payload int) { return 2, 2*(8+12+len(t.name)+5) + 48 }}

// parseQuery reads the name=... of a target, and the answer=none of one that is to have no addresses.
func parseQuery(t *Target, rest string) error {
	path, query, _ := strings.Cut(rest, "?")
	if path != "" {
		return fmt.Errorf("has a path, %s: write ?name= and a name right after the address", quote(path))
	}
	if query == "" {
		return fmt.Errorf("has no name to ask for: write one, as in %q", t.kind.example)
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		switch {
		case key == "answer" && value != "none":
			return fmt.Errorf("has answer=%s: it can be answer=none, for a name that does not exist", quote(value))
		case key == "answer":
			t.empty = true
			continue
		case key != "name":
			return fmt.Errorf("has an unknown parameter %s: a dns target has name and answer, as in %q", quote(key), t.kind.example)
		case t.name != "":
			return errors.New("has two names: write one target for each")
		case !validDomain(value):
			return fmt.Errorf("asks for %s, which is not a domain name", quote(value))
		}
		t.name = strings.ToLower(strings.TrimSuffix(value, ".")) + "."
	}
	if t.name == "" {
		return fmt.Errorf("has no name to ask for: write one, as in %q", t.kind.example)
	}
	return nil
}

// validDomain reports whether s is a domain name of letters, digits, hyphens and underscores (RFC 1035, section 2.3.4,
// for the lengths); "." is the root.
func validDomain(s string) bool {
	if s == "." {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(c rune) bool {
				return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
			}) {
			return false
		}
	}
	return true
}

// maxAnswer is the longest answer to a query without EDNS (RFC 1035 section 2.3.4).
const maxAnswer = 512

// probeDNS sends one query and waits for the answer that belongs to it. A
// message with another id or question is somebody's late or forged one, and the
// window stays open for the real one.
func probeDNS(ctx context.Context, _ *Net, b Binding, t Target) (time.Duration, error) {
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	question := &query.Questions[0]
	if t.name == "." {
		question.Type = dnsmessage.TypeNS
	} else if t.addr.Is6() {
		question.Type = dnsmessage.TypeAAAA
	}
	name, err := dnsmessage.NewName(t.name)
	question.Name = name
	var packet []byte
	if err == nil {
		packet, err = query.Pack()
	}
	if err != nil {
		return 0, &Error{Target: t.text, Class: ErrLocal, Err: fmt.Errorf("packing the query: %w", err)}
	}

	conn, err := b.dial(ctx, "udp", t)
	if err != nil {
		return 0, sendError(t, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return 0, receiveError(ctx, t, err)
		}
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	began := time.Now()
	if _, err := conn.Write(packet); err != nil {
		return 0, sendError(t, err)
	}
	buffer := make([]byte, maxAnswer)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return 0, receiveError(ctx, t, err)
		}
		rtt := time.Since(began)
		code, ok := answerTo(&query, buffer[:n])
		switch {
		case !ok:
			continue
		case t.empty && code == dnsmessage.RCodeSuccess && hasAddress(buffer[:n]):
			return 0, &Error{Target: t.text, Class: ErrPortal, Err: errors.New("an address for a name that does not exist")}
		case code == dnsmessage.RCodeSuccess, code == dnsmessage.RCodeNameError:
			return rtt, nil
		default:
			return 0, &Error{Target: t.text, Class: ErrAnswer, Err: errors.New(codeName(code))}
		}
	}
}

// answerTo reports whether packet answers query, and its code. The question is
// compared without its case, which some resolvers do not keep; servers that
// refuse or fail may leave it out.
func answerTo(query *dnsmessage.Message, packet []byte) (code dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	m, err := p.Start(packet)
	if err != nil || !m.Response || m.ID != query.ID || m.OpCode != 0 {
		return 0, false
	}
	questions, err := p.AllQuestions()
	if err != nil {
		return 0, false
	}
	if len(questions) == 0 {
		return m.RCode, m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError
	}
	got, want := questions[0], query.Questions[0]
	return m.RCode, len(questions) == 1 && got.Type == want.Type && got.Class == want.Class && strings.EqualFold(got.Name.String(), want.Name.String())
}

// hasAddress reports whether an answer names an address.
func hasAddress(packet []byte) bool {
	var p dnsmessage.Parser
	if _, err := p.Start(packet); err != nil || p.SkipAllQuestions() != nil {
		return false
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return false // the end, or a message that is cut
		}
		if h.Type == dnsmessage.TypeA || h.Type == dnsmessage.TypeAAAA {
			return true
		}
		if p.SkipAnswer() != nil {
			return false
		}
	}
}

// codeName is a code as it is known (IANA, DNS RCODEs).
func codeName(code dnsmessage.RCode) string {
	names := map[dnsmessage.RCode]string{dnsmessage.RCodeFormatError: "FORMERR", dnsmessage.RCodeServerFailure: "SERVFAIL",
		dnsmessage.RCodeNotImplemented: "NOTIMP", dnsmessage.RCodeRefused: "REFUSED"}
	if name := names[code]; name != "" {
		return name
	}
	return fmt.Sprintf("RCODE %d", code)
}
