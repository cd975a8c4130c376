package ndisc

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// Link is our end of a link.
type Link struct {
	Addr     netip.Addr       // our link-local address, without a zone
	Hardware net.HardwareAddr // empty: the device has none
	MTU      int              // bytes
}

// Conn carries messages on one device.
type Conn interface {
	linksession.Conn[Packet]
	// Link is as it is now: a bridge takes the hardware address of another port when the one that lent it leaves.
	Link() Link
	// Send sends an ICMPv6 message, whose checksum it computes, with hop limit 255 from the link-local
	// address.
	Send(message []byte, to netip.Addr) error
}

// allNodes is where advertisements go, allRouters where solicitations go.
var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// maxWait is the longest pause between two looks at a device that has no link-local address.
const maxWait = 5 * time.Second

// linkSocket is a Conn that is open while its link is up.
type linkSocket struct {
	*linksession.Session[Packet, Conn]
}

func newLinkSocket(device string, log *slog.Logger, open func(string) (Conn, error)) linkSocket {
	return linkSocket{linksession.New[Packet](linksession.Config[Conn]{Device: device, Protocol: "neighbour discovery", Log: log, Open: open, MaxWait: maxWait})}
}

// send reports whether a message went out.
func (s linkSocket) send(message []byte, to netip.Addr) bool {
	conn := s.Conn()
	return conn != nil && s.Sent(conn.Send(message, to))
}
