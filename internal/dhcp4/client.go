package dhcp4

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// Conn carries messages on one device.
type Conn interface {
	linksession.Conn[*dhcpv4.DHCPv4] // of well-formed messages
	HardwareAddr() net.HardwareAddr
	// Send sends a message: to and from are zero for a broadcast.
	Send(m *dhcpv4.DHCPv4, to, from netip.Addr) error
}

// Config is what a Client is made of.
type Config struct {
	Device string
	Last   *Lease // of an earlier run; nil for none
	// ClientID is the client identifier (option 61); nil is the hardware address.
	ClientID []byte
	// SixRD asks for what the provider says of IPv6 by 6rd (RFC 5969).
	SixRD bool
	Log   *slog.Logger
	// OnLease hears, from the client's goroutine, of a lease with new terms or times, and with nil of
	// its end.
	OnLease func(*Lease)
	// OnRefused, when set, hears from the same goroutine why a reply was of no use.
	OnRefused func(reason string)
	// Open makes the Conn; nil is a packet socket.
	Open func(device string) (Conn, error)
}

// Client keeps a lease on one device.
type Client struct {
	cfg     Config
	session *linksession.Session[*dhcpv4.DHCPv4, Conn]

	lastRefused string // the rest belongs to the goroutine of Run
	refusedAt   time.Time
}

// refusedPause is how long the same fault of a server is told once.
const refusedPause = time.Minute

// New makes a client that does nothing before Run and a link.
func New(cfg Config) *Client {
	if cfg.Open == nil {
		cfg.Open = openPacket
	}
	return &Client{cfg: cfg, session: linksession.New[*dhcpv4.DHCPv4](linksession.Config[Conn]{Device: cfg.Device, Protocol: "DHCP", Log: cfg.Log, Open: cfg.Open})}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (c *Client) SetLink(index int, up bool) { c.session.SetLink(index, up) }

// SetHardware tells the hardware address of the device.
func (c *Client) SetHardware(address [6]byte) { c.session.SetHardware(address) }

// Run asks for and keeps a lease until the context ends. The lease is not released.
func (c *Client) Run(ctx context.Context) error {
	m := newMachine(c.cfg.Last)
	m.clientID, m.sixRD = c.cfg.ClientID, c.cfg.SixRD
	reported := c.cfg.Last
	defer c.session.Close()
	var e linksession.Event[*dhcpv4.DHCPv4]
	for ; !e.Ended; e = c.session.Next(ctx, m.deadline) {
		now := time.Now()
		var out []outgoing
		opened, closed := c.session.Follow(now)
		if closed {
			m.linkDown()
		}
		if opened {
			out = m.linkUp(c.session.Conn().HardwareAddr(), now)
		}
		if e.Received {
			out = append(out, m.receive(e.Message, now)...)
		} else {
			out = append(out, m.tick(now)...)
		}
		if m.refused != "" {
			c.refused(m.refused, now)
			m.refused = ""
		}
		for _, o := range out {
			if conn := c.session.Conn(); conn != nil {
				c.session.Sent(conn.Send(o.message, o.to, o.from))
			}
		}
		if reported != m.lease {
			reported = m.lease
			c.cfg.OnLease(reported)
		}
	}
	return nil
}

// refused tells why a reply was not used: at once when that is news, and seldom while a server goes on with it.
func (c *Client) refused(reason string, now time.Time) {
	if reason == c.lastRefused && now.Sub(c.refusedAt) < refusedPause {
		return
	}
	c.lastRefused, c.refusedAt = reason, now
	c.cfg.Log.Warn("DHCP reply not used", "device", c.cfg.Device, "reason", reason)
	if c.cfg.OnRefused != nil {
		c.cfg.OnRefused(reason)
	}
}
