package dhcp4

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// state is a state of RFC 2131 figure 5. SELECTING and INIT-REBOOT last for no time of their own here:
// the first usable offer is taken, and rebooting covers the latter.
type state string

const (
	stopped    state = "stopped"    // no link
	selecting  state = "selecting"  // DISCOVER sent
	requesting state = "requesting" // REQUEST for an offer sent
	rebooting  state = "rebooting"  // REQUEST for the lease of before sent
	bound      state = "bound"
	renewing   state = "renewing"
	rebinding  state = "rebinding"
)

// Retransmission (RFC 2131 section 4.1): doubled from firstWait to maxWait, each time give or take a
// second. The first wait is shorter than the recommended 4 s, for a line that has just come up.
const (
	firstWait    = 2 * time.Second
	maxWait      = 64 * time.Second
	jitter       = time.Second
	requestTries = 4
	rebootTries  = 3
	// minRenewWait floors the waits of RENEWING and REBINDING, which are half of what remains (section
	// 4.4.5). The RFC's 60 s would leave short leases a single try.
	minRenewWait = time.Second
	// nakPause keeps a server that refuses everything from making us a flood.
	nakPause = 5 * time.Second
)

// outgoing is a message to send. To and from are zero for a broadcast.
type outgoing struct {
	message  *dhcpv4.DHCPv4
	to, from netip.Addr
}

// machine is the client's state machine. Its methods return what to send; lease is what holds now.
type machine struct {
	hardware net.HardwareAddr
	clientID []byte         // nil: the hardware address
	sixRD    bool           // option 212 is asked for
	rand     func() float64 // uniform in [0, 1)

	state    state
	lease    *Lease
	offer    *Lease
	xid      dhcpv4.TransactionID
	began    time.Time // of this exchange, for the secs field
	tries    int
	deadline time.Time // zero: nothing to wait for
	refused  string    // why the latest reply was not used
}

func newMachine(last *Lease) *machine {
	return &machine{state: stopped, lease: last, rand: rand.Float64}
}

// linkUp begins: with the lease of before if there is one that still lasts and was lent to us by the name that we have now, else from
// nothing.
func (m *machine) linkUp(hardware net.HardwareAddr, now time.Time) []outgoing {
	m.hardware = hardware
	if m.lease != nil && now.Before(m.lease.Expires) && (len(m.lease.Client) == 0 || bytes.Equal(m.lease.Client, m.identifier())) {
		return m.enter(rebooting, now)
	}
	m.lease = nil
	return m.enter(selecting, now)
}

// linkDown stops asking. The lease stays until it expires: a cable that is plugged in again shall find
// its address.
func (m *machine) linkDown() {
	m.state, m.deadline = stopped, time.Time{}
	if m.lease != nil {
		m.deadline = m.lease.Expires
	}
}

// tick does what is due.
func (m *machine) tick(now time.Time) []outgoing {
	if m.deadline.IsZero() || now.Before(m.deadline) {
		return nil
	}
	if m.lease != nil && !now.Before(m.lease.Expires) {
		m.lease = nil
		if m.state == stopped {
			m.deadline = time.Time{}
			return nil
		}
		return m.enter(selecting, now)
	}
	switch m.state {
	case requesting:
		if m.tries >= requestTries {
			return m.enter(selecting, now)
		}
	case rebooting:
		// Silence is no refusal: the lease may be used until it expires (section 3.2), while any server
		// is asked for it.
		if m.tries >= rebootTries {
			return m.enter(rebinding, now)
		}
	case bound:
		return m.enter(renewing, now)
	case renewing:
		if !now.Before(m.lease.Rebind) {
			return m.enter(rebinding, now)
		}
	case stopped:
		return nil
	}
	return m.send(now)
}

// enter begins a new exchange in the given state.
func (m *machine) enter(s state, now time.Time) []outgoing {
	m.state, m.tries, m.began = s, 0, now
	if s != requesting {
		m.offer = nil
		m.newTransaction()
	}
	return m.send(now)
}

func (m *machine) newTransaction() {
	for i := range m.xid {
		m.xid[i] = byte(m.rand() * 256)
	}
}

// send makes the message of the present state and sets the time of the next.
func (m *machine) send(now time.Time) []outgoing {
	m.tries++
	m.deadline = now.Add(m.wait(now))
	kind := dhcpv4.MessageTypeRequest
	options := []dhcpv4.OptionCode{dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue}
	if m.sixRD {
		options = append(options, option6RD)
	}
	modifiers := []dhcpv4.Modifier{
		dhcpv4.WithTransactionID(m.xid), dhcpv4.WithHwAddr(m.hardware),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(m.identifier())),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500)),
		dhcpv4.WithRequestedOptions(options...),
	}
	out := outgoing{}
	switch m.state {
	case selecting:
		kind = dhcpv4.MessageTypeDiscover
	case requesting:
		modifiers = append(modifiers,
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(m.offer.Server.AsSlice())),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(m.offer.Address.Addr().AsSlice())))
	case rebooting:
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(m.lease.Address.Addr().AsSlice())))
	case renewing:
		out.to, out.from = m.lease.Server, m.lease.Address.Addr()
		fallthrough
	case rebinding:
		modifiers = append(modifiers, dhcpv4.WithClientIP(m.lease.Address.Addr().AsSlice()))
	}
	message, err := dhcpv4.New(append(modifiers, dhcpv4.WithMessageType(kind))...)
	if err != nil {
		return nil // only a lack of randomness, which the next try may have
	}
	message.NumSeconds = uint16(min(now.Sub(m.began)/time.Second, 0xffff))
	out.message = message
	return []outgoing{out}
}

// identifier is what servers know us by: unless we are told, what udhcpc and most ISP equipment expect, hardware type and address.
func (m *machine) identifier() []byte {
	if m.clientID != nil {
		return m.clientID
	}
	return append([]byte{1}, m.hardware...)
}

// wait is the time until the next message of this exchange.
func (m *machine) wait(now time.Time) time.Duration {
	switch m.state {
	case renewing:
		return min(max(m.lease.Rebind.Sub(now)/2, minRenewWait), max(m.lease.Rebind.Sub(now), 0))
	case rebinding:
		return min(max(m.lease.Expires.Sub(now)/2, minRenewWait), maxWait, max(m.lease.Expires.Sub(now), 0))
	}
	base := min(firstWait<<min(m.tries-1, 10), maxWait)
	return base + time.Duration((2*m.rand()-1)*float64(jitter))
}

// receive takes a reply in. What is not for us, or of no use, changes nothing.
func (m *machine) receive(reply *dhcpv4.DHCPv4, now time.Time) []outgoing {
	ours := reply.OpCode == dhcpv4.OpcodeBootReply && reply.TransactionID == m.xid && bytes.Equal(reply.ClientHWAddr, m.hardware)
	if !ours {
		return nil
	}
	switch kind := reply.MessageType(); {
	case kind == dhcpv4.MessageTypeOffer && m.state == selecting:
		offer, err := leaseOf(reply, now)
		if err != nil {
			m.refused = err.Error()
			return nil
		}
		m.offer = offer
		return m.enter(requesting, now)
	case kind == dhcpv4.MessageTypeAck && m.asking():
		lease, err := leaseOf(reply, now)
		if err != nil {
			m.refused = err.Error()
			return nil
		}
		m.refused, lease.Client = "", m.identifier()
		m.state, m.lease, m.deadline = bound, lease, lease.Renew
	case kind == dhcpv4.MessageTypeNak && m.asking() && m.fromOurServer(reply):
		m.refused = "the server refused it: " + reply.Message()
		m.lease = nil
		m.state, m.tries, m.offer, m.began = selecting, 0, nil, now
		m.newTransaction()
		m.deadline = now.Add(nakPause)
	}
	return nil
}

func (m *machine) asking() bool {
	switch m.state {
	case requesting, rebooting, renewing, rebinding:
		return true
	}
	return false
}

// fromOurServer tells the refusal of the server that we asked from that of any other which has no say.
func (m *machine) fromOurServer(reply *dhcpv4.DHCPv4) bool {
	server, ok := address(reply.ServerIdentifier())
	switch m.state {
	case requesting:
		return ok && server == m.offer.Server
	case renewing:
		return ok && server == m.lease.Server
	}
	return ok
}
