package kernel

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/counters"
)

// Traffic reads packet counters many times a second, so it has a socket of its own. It may be used beside a
// Kernel, by one goroutine.
type Traffic struct{ socket *rtnlConn }

// Layouts of linux/if_link.h, sizes in bytes.
const (
	sizeofStatsMsg = 12 // struct if_stats_msg: family, 3 bytes of padding, index, filter mask
	statsLink64    = 1  // IFLA_STATS_LINK_64, which begins with packets and then bytes, received and sent
)

// OpenTraffic connects to the kernel of the calling thread's network namespace.
func OpenTraffic() (*Traffic, error) {
	socket, err := openRTNL()
	if err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	return &Traffic{socket}, nil
}

// Close gives the socket back.
func (t *Traffic) Close() { _ = t.socket.close() }

// Read puts the counters of every device into out, by interface index.
func (t *Traffic) Read(out map[int]counters.Device) error {
	clear(out)
	err := t.socket.request(unix.RTM_GETSTATS, unix.NLM_F_DUMP, func(b []byte) []byte {
		b = append(b, make([]byte, 4+4)...) // family and padding, every index
		return binary.NativeEndian.AppendUint32(b, 1<<(statsLink64-1))
	}, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWSTATS || len(body) < sizeofStatsMsg {
			return
		}
		for attr, value := range attributes(body[sizeofStatsMsg:]) {
			if attr == statsLink64 && len(value) >= 32 {
				out[int(native32(body[4:]))] = counters.Device{
					Received: binary.NativeEndian.Uint64(value), Sent: binary.NativeEndian.Uint64(value[8:]),
					ReceivedBytes: binary.NativeEndian.Uint64(value[16:]), SentBytes: binary.NativeEndian.Uint64(value[24:]),
				}
			}
		}
	})
	if err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	return nil
}
