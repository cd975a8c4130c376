//go:build vm

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// carrierPolicy keeps what carries the tunnel off the tunnel.
const carrierPolicy = `
[[policy]]
name = "carrier"
to = ["192.0.2.54"]
uplinks = ["fiber", "lte"]
fallback = "unreachable"
`

// A program of the router carries WireGuard in TCP, as udp2raw and wstunnel do: the endpoint is a loopback address, all traffic goes by
// the tunnel, and the program's own connection goes by the best of the providers, before and after the first one dies.
func TestVMAProgramOfTheRouterCarriesATunnel(t *testing.T) {
	r, _ := newVPS(t)
	_, uplinks, _ := strings.Cut(r.configured(), "[[uplink]]")
	r.configure("[[uplink]]" + strings.NewReplacer("vps.example.net:51820", "127.0.0.1:4096", "handshake://10.0.31.1", "192.0.2.1", `underlay = ["lte", "fiber"]`+"\n", "").Replace(uplinks) + carrierPolicy)
	r.sh("router", `nft 'table inet carrier { chain post { type filter hook postrouting priority 300; ip daddr 192.0.2.54 tcp dport 443 jump sent; };
		chain sent { oifname "wan1" counter; oifname "wan2" counter; oifname "wg0" counter; }; }'`)
	serveRelay(t, r.Host("inet"))
	carry(t, r.Host("router"))
	r.start()
	flows := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7"), Interval: 200 * time.Millisecond, Timeout: 3 * time.Second}
	defer r.probe(flows)()
	r.awaitState("vps", uplink.Up)
	r.appears(flows, "192.0.2.226")

	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	died := time.Now()
	r.appears(flows, "192.0.2.226")
	t.Logf("through the tunnel again %v after the verdict", time.Since(died).Round(time.Millisecond))
	sent := r.sh("router", "nft list chain inet carrier sent")
	for device, want := range map[string]bool{"wan1": true, "wan2": true, "wg0": false} {
		if used := !strings.Contains(sent, fmt.Sprintf("oifname %q counter packets 0 ", device)); used != want {
			t.Errorf("the carrier used %s: %v", device, used)
		}
	}
}

// serveRelay takes datagrams out of TCP connections, and sends them to the server of the tunnel.
func serveRelay(t *testing.T, h *lab.Host) {
	t.Helper()
	ln, err := h.Listen("tcp", "192.0.2.54:443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				to, err := h.Dial(context.Background(), "udp", "192.0.2.54", "192.0.2.226:51820")
				if err != nil {
					return
				}
				defer to.Close()
				go unwrap(conn, to)
				wrap(to, conn)
			}()
		}
	}()
}

// carry takes datagrams at 127.0.0.1:4096 and sends them in a TCP connection, in a new one when that ends.
func carry(t *testing.T, h *lab.Host) {
	t.Helper()
	socket, err := h.ListenPacket("udp", "127.0.0.1:4096")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { stop(); _ = socket.Close(); <-done })
	go func() {
		defer close(done)
		var conn net.Conn
		packet := make([]byte, 2+65535)
		for {
			n, from, err := socket.ReadFrom(packet[2:])
			if err != nil {
				return
			}
			if conn == nil {
				dialing, cancel := context.WithTimeout(ctx, 2*time.Second)
				if conn, err = h.Dial(dialing, "tcp", "", "192.0.2.54:443"); err == nil {
					go unwrap(conn, toAddr{socket, from})
				} else {
					conn = nil
				}
				cancel()
			}
			if conn == nil {
				continue
			}
			binary.BigEndian.PutUint16(packet, uint16(n))
			if _, err := conn.Write(packet[:2+n]); err != nil {
				_ = conn.Close()
				conn = nil
			}
		}
	}()
}

// toAddr writes to one address.
type toAddr struct {
	net.PacketConn
	to net.Addr
}

func (w toAddr) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

// unwrap reads datagrams with their lengths from a stream.
func unwrap(stream io.Reader, to io.Writer) {
	var size [2]byte
	for {
		if _, err := io.ReadFull(stream, size[:]); err != nil {
			return
		}
		packet := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(stream, packet); err != nil {
			return
		}
		_, _ = to.Write(packet)
	}
}

// wrap writes datagrams with their lengths to a stream.
func wrap(from io.Reader, stream io.Writer) {
	packet := make([]byte, 2+65535)
	for {
		n, err := from.Read(packet[2:])
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(packet, uint16(n))
		if _, err := stream.Write(packet[:2+n]); err != nil {
			return
		}
	}
}
