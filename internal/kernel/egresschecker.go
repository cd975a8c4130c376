package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// EgressChecker tells whether echo requests of this machine leave by the device that they are meant for. It may be used beside a Kernel and by
// many goroutines. The zero EgressChecker is ready to use, in the network namespace of whoever asks first.
type EgressChecker struct {
	// Changes counts what the kernel has told of since (see [Watcher.Changes]): while it stays the same a request leaves as before, and
	// the kernel is asked once a minute. Where it is nil, the kernel is asked each time. It is set before the first question.
	Changes func() uint64

	mu     sync.Mutex
	socket *rtnlConn                    // nil: to be opened
	leaves map[egressQuestion]time.Time // when the kernel said so, since the count below
	count  uint64
}

// egressQuestion is what LeavesBy is asked.
type egressQuestion struct {
	device         string
	mark           uint32
	source, target netip.Addr
}

// egressAnswerLife is how long an answer holds at most: a change that nobody was told of is noticed then.
const egressAnswerLife = time.Minute

// LeavesBy reports whether an echo request with a mark and a source address, which may be invalid, would leave
// by a device that it is not bound to. False also means that it is not known: the kernel refuses the packet,
// or does not answer.
func (c *EgressChecker) LeavesBy(device string, mark uint32, source, target netip.Addr) bool {
	source, target = source.Unmap(), target.Unmap()
	c.mu.Lock()
	defer c.mu.Unlock()
	question, now := egressQuestion{device, mark, source, target}, time.Now()
	if c.remembers(question, now) {
		return true
	}
	if c.socket == nil {
		var err error
		if c.socket, err = openRTNL(); err != nil {
			return false
		}
	}
	out, err := c.outputDevice(mark, source, target)
	if err == nil {
		leaves := out != 0 && out == c.deviceIndex(device)
		if leaves && c.leaves != nil {
			c.leaves[question] = now
		}
		return leaves
	}
	if no := (refusal{}); !errors.As(err, &no) {
		c.closeSocket() // the next one opens another
	}
	return false
}

// remembers reports whether the kernel has said so lately, and nothing has changed since. The lock is held. What changes while
// the kernel is asked counts as later.
func (c *EgressChecker) remembers(q egressQuestion, now time.Time) bool {
	if c.Changes == nil {
		return false
	}
	if count := c.Changes(); c.leaves == nil || count != c.count {
		c.leaves, c.count = make(map[egressQuestion]time.Time), count
	}
	asked, known := c.leaves[q]
	return known && now.Sub(asked) < egressAnswerLife
}

// Close closes the socket.
func (c *EgressChecker) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeSocket()
}

func (c *EgressChecker) closeSocket() {
	if c.socket != nil {
		_ = c.socket.close()
		c.socket = nil
	}
}

// outputDevice returns the index of the device of the kernel's answer, 0 for one that does not leave the machine.
func (c *EgressChecker) outputDevice(mark uint32, source, target netip.Addr) (out int, err error) {
	protocol := uint8(protocolICMP)
	if target.Is6() {
		protocol = protocolICMPv6
	}
	err = c.socket.request(unix.RTM_GETROUTE, 0, func(b []byte) []byte {
		b = append(b, familyNumber(rules.FamilyOf(target)), uint8(target.BitLen()), uint8(max(0, source.BitLen())))
		b = append(b, make([]byte, unix.SizeofRtMsg-3)...)
		b = appendAttribute(b, unix.RTA_DST, target.AsSlice()...)
		if source.IsValid() {
			b = appendAttribute(b, unix.RTA_SRC, source.AsSlice()...)
		}
		b = appendAttribute(b, unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, mark)...)
		return appendAttribute(b, rtaIPProto, protocol)
	}, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWROUTE || len(body) < unix.SizeofRtMsg || body[7] != unix.RTN_UNICAST { // rtm_type
			return
		}
		for attr, value := range attributes(body[unix.SizeofRtMsg:]) {
			if attr == unix.RTA_OIF {
				out = int(native32(value))
			}
		}
	})
	return out, err
}

// deviceIndex returns the index of a device, 0 where there is none of that name.
func (c *EgressChecker) deviceIndex(device string) int {
	request, err := unix.NewIfreq(device)
	if err != nil || unix.IoctlIfreq(c.socket.fd, unix.SIOCGIFINDEX, request) != nil {
		return 0
	}
	return int(request.Uint32())
}

// appendAttribute appends an attribute of netlink, padded to whole words.
func appendAttribute(b []byte, typ uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}
