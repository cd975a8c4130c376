package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// probeDNS sends one query and waits for the answer that belongs to it. A
// message with another id or question is somebody's late or forged one, and the
// window stays open for the real one.
func probeDNS(ctx context.Context, b Binding, t Target) (time.Duration, error) {
	query := new(dns.Msg)
	query.SetQuestion(t.name, dns.TypeA)
	if t.name == "." {
		query.Question[0].Qtype = dns.TypeNS
	} else if t.addr.Is6() {
		query.Question[0].Qtype = dns.TypeAAAA
	}
	packet, err := query.Pack()
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
	buffer := make([]byte, dns.MinMsgSize) // no EDNS: nobody may answer with more
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return 0, receiveError(ctx, t, err)
		}
		rtt := time.Since(began)
		code, ok := answerTo(query, buffer[:n])
		switch {
		case !ok:
			continue
		case code == dns.RcodeSuccess, code == dns.RcodeNameError:
			return rtt, nil
		default:
			return 0, &Error{Target: t.text, Class: ErrAnswer, Err: errors.New(dns.RcodeToString[code])}
		}
	}
}

// answerTo reports whether packet answers query, and its code. The question is
// compared without its case, which some resolvers do not keep; servers that
// refuse or fail may leave it out.
func answerTo(query *dns.Msg, packet []byte) (code int, ok bool) {
	var m dns.Msg
	if err := m.Unpack(packet); err != nil && !m.Truncated {
		return 0, false
	}
	if !m.Response || m.Id != query.Id || m.Opcode != dns.OpcodeQuery {
		return 0, false
	}
	failed := m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	if len(m.Question) == 0 {
		return m.Rcode, failed
	}
	got, want := m.Question[0], query.Question[0]
	same := len(m.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass &&
		dns.CanonicalName(got.Name) == dns.CanonicalName(want.Name)
	return m.Rcode, same
}
