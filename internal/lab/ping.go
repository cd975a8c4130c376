package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ping sends one ICMP echo request from the host and waits for its reply until ctx ends. It uses a raw socket, whose
// right the lab has everywhere.
func (h *Host) Ping(ctx context.Context, target netip.Addr) (rtt time.Duration, err error) {
	network, proto, request := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho)
	reply := icmp.Type(ipv4.ICMPTypeEchoReply)
	if target.Is6() {
		network, proto, request = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest
		reply = ipv6.ICMPTypeEchoReply
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
	echo := &icmp.Echo{ID: rand.IntN(1 << 16), Seq: rand.IntN(1 << 16), Data: []byte("uplinkd lab")}
	packet, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil)
	if err != nil {
		return 0, fmt.Errorf("marshalling an echo request: %w", err)
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
		if isReply(buf[:n], proto, reply, echo) && sameAddress(from, target) {
			return time.Since(start), nil
		}
	}
}

func isReply(packet []byte, proto int, reply icmp.Type, want *icmp.Echo) bool {
	m, err := icmp.ParseMessage(proto, packet)
	if err != nil || m.Type != reply {
		return false
	}
	got, ok := m.Body.(*icmp.Echo)
	return ok && got.ID == want.ID && got.Seq == want.Seq
}

func sameAddress(from net.Addr, want netip.Addr) bool {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return false
	}
	got, ok := netip.AddrFromSlice(ip.IP)
	return ok && got.Unmap() == want.WithZone("")
}
