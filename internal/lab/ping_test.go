package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/uplinkd/uplinkd/internal/icmpecho"
)

// Ping sends one ICMP echo request from the host and waits for its reply until ctx ends. It uses a raw socket, whose
// right the lab has everywhere.
func (h *Host) Ping(ctx context.Context, target netip.Addr) (rtt time.Duration, err error) {
	network := "ip4:icmp"
	if target.Is6() {
		network = "ip6:ipv6-icmp"
	}
	to := &net.IPAddr{IP: target.AsSlice()}
	if zone := target.Zone(); zone != "" {
		err := h.Do(func() error {
			index, err := zoneIndex(zone)
			to.Zone = strconv.Itoa(index)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("pinging %s from %s: %w", target, h.name, err)
		}
	}
	pc, err := h.ListenPacket(network, "")
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = pc.Close() })
	defer func() {
		if stop() {
			_ = pc.Close()
		}
	}()
	request := icmpecho.Request{IPv6: target.Is6(), ID: uint16(rand.IntN(1 << 16)), Seq: uint16(rand.IntN(1 << 16))}
	packet, err := request.Message(8)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := pc.WriteTo(packet, to); err != nil {
		return 0, fmt.Errorf("pinging %s from %s: %w", target, h.name, err)
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, fmt.Errorf("pinging %s from %s: %w", target, h.name, err)
		}
		if request.Read(buf[:n]) == icmpecho.Reply && sameAddress(from, target) {
			return time.Since(start), nil
		}
	}
}

func sameAddress(from net.Addr, want netip.Addr) bool {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return false
	}
	got, ok := netip.AddrFromSlice(ip.IP)
	return ok && got.Unmap() == want.WithZone("")
}
