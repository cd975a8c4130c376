package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/miekg/dns"
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
	ln, err := h.Listen("tcp", at.String())
	if err != nil {
		return errors.Join(err, pc.Close())
	}
	for _, srv := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(answerDNS)},
		{Listener: ln, Handler: dns.HandlerFunc(answerDNS)},
	} {
		_, stop := h.world.serve(ctx, srv.Shutdown, pc.Close, ln.Close)
		h.world.servers.Go(func() {
			defer stop()
			_ = srv.ActivateAndServe() // ends with its socket
		})
	}
	return nil
}

func answerDNS(rw dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative = true
	for _, q := range r.Question {
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch q.Qtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.ParseIP(Echo4)})
		case dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: net.ParseIP(Echo6)})
		}
	}
	_ = rw.WriteMsg(m) // the asker will ask again
}
