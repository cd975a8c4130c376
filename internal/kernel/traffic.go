package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Traffic reads packet counters. It has a socket of its own, so that it may be used beside a Kernel, by
// one goroutine.
type Traffic struct {
	sockets map[int]*nl.SocketHandle
}

// OpenTraffic connects to the kernel of the calling thread's network namespace.
func OpenTraffic() (*Traffic, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink socket: %w", err)
	}
	return &Traffic{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}}, nil
}

// Close gives the socket back.
func (t *Traffic) Close() {
	for _, s := range t.sockets {
		s.Close()
	}
}

// statsRequest is struct if_stats_msg of linux/if_link.h, asking for IFLA_STATS_LINK_64 only.
type statsRequest struct{ index int }

const (
	statsLink64        = 1 // IFLA_STATS_LINK_64
	sizeofStatsRequest = 12
)

func (r statsRequest) Len() int { return sizeofStatsRequest }

func (r statsRequest) Serialize() []byte {
	b := make([]byte, 4, sizeofStatsRequest)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.index))
	return binary.NativeEndian.AppendUint32(b, 1<<(statsLink64-1))
}

// Read returns how many packets the device with this index has received and sent.
func (t *Traffic) Read(index int) (received, sent uint64, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETSTATS, 0)
	req.Sockets = t.sockets
	req.AddData(statsRequest{index})
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWSTATS)
	if err != nil {
		return 0, 0, fmt.Errorf("reading counters of device %d: %w", index, err)
	}
	for _, m := range msgs {
		for typ, value := range attributes(m[min(len(m), sizeofStatsRequest):]) {
			if typ == statsLink64 && len(value) >= 16 {
				return binary.NativeEndian.Uint64(value), binary.NativeEndian.Uint64(value[8:]), nil
			}
		}
	}
	return 0, 0, fmt.Errorf("reading counters of device %d: no answer", index)
}
