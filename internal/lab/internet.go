package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// ServeInternet starts what the Internet offers, in both families: TCP and UDP echo (port 7) at the echo target and
// at the remote client's address, TCP 443, HTTP with /generate_204, and DNS, which answers every name. It returns when
// all sockets are open; ctx, or the world's end, ends them.
func (w *World) ServeInternet(ctx context.Context) error {
	h := w.hosts[Internet]
	var errs []error
	for _, a := range []string{Echo4, Echo6, Client4, Client6} {
		at := netip.AddrPortFrom(netip.MustParseAddr(a), EchoPort)
		errs = append(errs, h.ServeUDPEcho(ctx, at), h.ServeTCPEcho(ctx, at))
	}
	for _, a := range []string{TCP4, TCP6} {
		errs = append(errs, h.ServeTCPAccept(ctx, netip.AddrPortFrom(netip.MustParseAddr(a), 443)))
	}
	for _, a := range []string{HTTP4, HTTP6} {
		errs = append(errs, h.serveHTTP(ctx, netip.AddrPortFrom(netip.MustParseAddr(a), 80)))
	}
	for _, a := range []string{DNS4, DNS6} {
		errs = append(errs, h.serveDNS(ctx, netip.AddrPortFrom(netip.MustParseAddr(a), 53)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("serving the Internet: %w", err)
	}
	return nil
}

func (h *Host) serveHTTP(ctx context.Context, at netip.AddrPort) error {
	ln, err := h.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /generate_204", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "the Internet of the lab sees you as %s\n", r.RemoteAddr)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	_, stop := h.world.serve(ctx, srv.Close)
	h.world.servers.Go(func() {
		defer stop()
		_ = srv.Serve(ln) // always ErrServerClosed or the listener's end
	})
	return nil
}

// serveDNS answers A with the echo target's IPv4 address, AAAA with its IPv6 address, anything else with nothing.
func (h *Host) serveDNS(ctx context.Context, at netip.AddrPort) error {
	pc, err := h.ListenPacket("udp", at.String())
	if err != nil {
		return err
	}
	_, stop := h.world.serve(ctx, pc.Close)
	h.world.servers.Go(func() {
		defer stop()
		for buf := make([]byte, 512); ; {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer := answerDNS(buf[:n]); err == nil && answer != nil {
				_, _ = pc.WriteTo(answer, from) // the asker will ask again
			}
		}
	})
	return h.serveTCP(ctx, at, func(conn net.Conn) {
		for { // RFC 1035 section 4.2.2
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, query); err != nil {
				return
			}
			answer := answerDNS(query)
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil || answer == nil {
				return
			}
		}
	})
}

// answerDNS returns the answer to a query; nil to what is none.
func answerDNS(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || m.Response {
		return nil
	}
	m.Response, m.Authoritative, m.Answers, m.Authorities, m.Additionals = true, true, nil, nil, nil
	for _, q := range m.Questions {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: netip.MustParseAddr(Echo4).As4()}})
		case dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(Echo6).As16()}})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
