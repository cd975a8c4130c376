package dhcp6

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// Datagram is what a client has sent, and from where.
type Datagram struct {
	From netip.Addr // without zone
	Data []byte
}

// ServerConn carries datagrams between one device and the DHCPv6 clients on its link.
type ServerConn interface {
	// Send answers a client. ErrGone means that the ServerConn must be made anew.
	Send(b []byte, to netip.Addr) error
	// Receive returns the next datagram; it blocks until Close.
	Receive() (Datagram, error)
	Close() error
}

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	Device string
	Log    *slog.Logger
	// Answer returns what a client is told, nil for nothing. It is called from the server's goroutine, with whatever clients have sent.
	Answer func(d Datagram, now time.Time) ([]byte, error)

	// Open makes the ServerConn; nil is a UDP socket.
	Open func(device string) (ServerConn, error)
}

// Server answers clients on one device while its link is up. What it tells them a [Delegator] knows.
type Server struct {
	cfg     ServerConfig
	session *linksession.Session[Datagram, ServerConn]

	mu      sync.Mutex
	failure error // of the latest attempt to open a socket
}

// NewServer makes a server that does nothing before Run and a link.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Open == nil {
		cfg.Open = openServerUDP
	}
	s := &Server{cfg: cfg}
	s.session = linksession.New[Datagram](linksession.Config[ServerConn]{Device: cfg.Device, Protocol: "DHCPv6 server", Log: cfg.Log, Open: s.open, MaxWait: maxWait})
	return s
}

func (s *Server) open(device string) (ServerConn, error) {
	conn, err := s.cfg.Open(device)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure = err; errors.Is(err, ErrNotReady) {
		s.failure = nil
	}
	return conn, err
}

func mayBind(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch dhcpv6.MessageType(b[0]) {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeRelease:
		return true
	}
	return false
}

// Failure says why nobody is answered though the link is up; nil: somebody is, or will be in a moment.
func (s *Server) Failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (s *Server) SetLink(index int, up bool) { s.session.SetLink(index, up) }

// What may bind something costs a write to the disk and a plan: no more of these are answered. 256 routers need four a second.
const (
	bindAtOnce = 100
	bindPause  = 100 * time.Millisecond
)

// Run answers until the context ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.session.Close()
	allowed := linksession.NewBudget(bindAtOnce, bindPause)
	var e linksession.Event[Datagram]
	for ; !e.Ended; e = s.session.Next(ctx, time.Time{}) {
		now := time.Now()
		s.session.Follow(now)
		if !e.Received || mayBind(e.Message.Data) && allowed.Spend(now) > 0 {
			continue
		}
		answer, err := s.cfg.Answer(e.Message, now)
		if err != nil {
			s.cfg.Log.Debug("DHCPv6 message not used", "device", s.cfg.Device, "from", e.Message.From, "reason", err)
		}
		if conn := s.session.Conn(); answer != nil && conn != nil {
			s.session.Sent(conn.Send(answer, e.Message.From)) // a client that hears nothing asks again
		}
	}
	return nil
}
