package linksession

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// InterfaceByName is [net.InterfaceByName], without Flags, by a question about one device. Package net has the kernel list all of them: on a router with
// a hundred, on each of which clients begin, ten thousand.
func InterfaceByName(device string) (*net.Interface, error) {
	name := append([]byte(device), 0)
	question := binary.NativeEndian.AppendUint16(make([]byte, unix.SizeofIfInfomsg), uint16(unix.SizeofRtAttr+len(name)))
	question = append(binary.NativeEndian.AppendUint16(question, unix.IFLA_IFNAME), name...)
	return askForLink(question, device)
}

// InterfaceByIndex is [net.InterfaceByIndex] likewise.
func InterfaceByIndex(index int) (*net.Interface, error) {
	question := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(question[4:], uint32(index)) // struct ifinfomsg: family, type, index, flags, change
	return askForLink(question, fmt.Sprint("device ", index))
}

// answerTimeout bounds the wait for an answer that the kernel has at once, in seconds.
const answerTimeout = 2

// askForLink sends RTM_GETLINK with a body, whose last attribute need not be padded.
func askForLink(body []byte, what string) (*net.Interface, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", what, err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout}); err != nil {
		return nil, fmt.Errorf("asking for %s: %w", what, err)
	}
	for len(body)%unix.NLMSG_ALIGNTO != 0 {
		body = append(body, 0)
	}
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, unix.RTM_GETLINK)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST)
	request = append(append(request, make([]byte, 8)...), body...) // number and sender are nobody's
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("asking for %s: %w", what, err)
	}
	answer := make([]byte, 32<<10) // of a device with many virtual functions
	n, err := unix.Read(fd, answer)
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", what, err)
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w", what, err)
	}
	for i := range messages {
		m := &messages[i]
		switch {
		case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
			return nil, fmt.Errorf("asking for %s: %w", what, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
		case m.Header.Type == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg:
			return interfaceOf(m)
		}
	}
	return nil, fmt.Errorf("asking for %s: %w", what, errors.New("no answer"))
}

func interfaceOf(m *syscall.NetlinkMessage) (*net.Interface, error) {
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return nil, err
	}
	i := &net.Interface{Index: int(int32(binary.NativeEndian.Uint32(m.Data[4:])))}
	for _, a := range attributes {
		switch {
		case a.Attr.Type == unix.IFLA_IFNAME && len(a.Value) > 0:
			i.Name = string(a.Value[:len(a.Value)-1])
		case a.Attr.Type == unix.IFLA_MTU && len(a.Value) >= 4:
			i.MTU = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.IFLA_ADDRESS && len(a.Value) != net.IPv4len && len(a.Value) != net.IPv6len: // the outer source address of a tunnel
			for _, b := range a.Value {
				if b != 0 {
					i.HardwareAddr = a.Value
				}
			}
		}
	}
	return i, nil
}
