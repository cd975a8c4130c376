package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// lookUpTimeout is how long one question to a DNS server may take, both transports together.
const lookUpTimeout = 3 * time.Second

// LookUp asks a DNS server for the addresses of a name, in both families, and returns how long each holds. A name that does not exist,
// or has none, is no error.
func LookUp(ctx context.Context, b Binding, server netip.Addr, name string) (map[netip.Addr]time.Duration, error) {
	found := make(map[netip.Addr]time.Duration)
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if err := lookUp(ctx, b, Target{addr: server, port: 53}, name, kind, found); err != nil {
			return nil, fmt.Errorf("asking %v: %w", server, err)
		}
	}
	return found, nil
}

func lookUp(ctx context.Context, b Binding, server Target, name string, kind dnsmessage.Type, found map[netip.Addr]time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	asked, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return err
	}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: asked, Type: kind, Class: dnsmessage.ClassINET}}}
	packed, err := query.Pack()
	if err != nil {
		return err
	}
	for _, network := range []string{"udp", "tcp"} { // the latter where the answer does not fit (RFC 1035 section 4.2.1)
		conn, err := b.dial(ctx, network, server)
		if err != nil {
			return err
		}
		truncated, err := exchange(ctx, conn, network == "tcp", packed, &query, found)
		conn.Close()
		if err != nil || !truncated {
			return err
		}
	}
	return errors.New("its answer does not fit anywhere")
}

// exchange sends a query and takes the answer that belongs to it.
func exchange(ctx context.Context, conn net.Conn, stream bool, packed []byte, query *dnsmessage.Message, found map[netip.Addr]time.Duration) (truncated bool, err error) {
	if deadline, is := ctx.Deadline(); is {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if stream {
		packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
	}
	if _, err := conn.Write(packed); err != nil {
		return false, err
	}
	buffer := make([]byte, 1<<16)
	for {
		n := 0
		if stream {
			if _, err = io.ReadFull(conn, buffer[:2]); err == nil {
				n = int(binary.BigEndian.Uint16(buffer))
				_, err = io.ReadFull(conn, buffer[:n])
			}
		} else {
			n, err = conn.Read(buffer)
		}
		if err != nil {
			return false, err
		}
		if mine, truncated, err := takeAnswer(buffer[:n], query, found); mine {
			return truncated && !stream, err
		}
	}
}

// takeAnswer adds what an answer has. One with another id or question is somebody's late or forged one.
func takeAnswer(b []byte, query *dnsmessage.Message, found map[netip.Addr]time.Duration) (mine, truncated bool, err error) {
	var p dnsmessage.Parser
	header, err := p.Start(b)
	if err != nil || !header.Response || header.ID != query.ID {
		return false, false, nil
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 || !strings.EqualFold(questions[0].Name.String(), query.Questions[0].Name.String()) || questions[0].Type != query.Questions[0].Type {
		return false, false, nil
	}
	switch {
	case header.Truncated:
		return true, true, nil
	case header.RCode == dnsmessage.RCodeNameError:
		return true, false, nil
	case header.RCode != dnsmessage.RCodeSuccess:
		return true, false, fmt.Errorf("it answers %s", header.RCode.GoString())
	}
	answers, err := p.AllAnswers()
	if err != nil {
		return true, false, err
	}
	least := ^uint32(0) // a name that leads on holds no longer than what it leads by
	for _, a := range answers {
		least = min(least, a.Header.TTL)
	}
	for _, a := range answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			found[netip.AddrFrom4(body.A)] = time.Duration(least) * time.Second
		case *dnsmessage.AAAAResource:
			if addr := netip.AddrFrom16(body.AAAA); !addr.Is4In6() {
				found[addr] = time.Duration(least) * time.Second
			}
		}
	}
	return true, false, nil
}
