package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// BenchmarkStorm measures what the daemon costs while the kernel has much to tell, and how long new flows of a LAN host stand still when a
// cable is pulled meanwhile: 2000 changes of neighbours, addresses and devices a second, as of a host of containers; 100 000 routes in main
// that lead by a router on the LAN, or by a device that is no uplink, of which 1000 change each second; 50 000 connections. The bars are 15 % of a core, and 50 ms.
func BenchmarkStorm(b *testing.B) {
	bin := buildProgram(b)
	for _, c := range []struct {
		name  string
		begin func(r *router) (end func())
	}{
		{"nothing", func(*router) func() { return func() {} }},
		{"containers", (*router).containers},
		{"routes", func(r *router) func() { return r.manyRoutes("via " + lab.LANHost4 + " dev lan0") }},
		{"direct_routes", func(r *router) func() { return r.manyRoutes("dev lan0") }},
		{"connections", (*router).manyConnections},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				var stalls distribution
				var used spent
				var span time.Duration
				resident := 0
				for range tries / 2 {
					inNewWorld(b, dualWAN, func(r *router) {
						r.binary = bin
						r.start()
						defer c.begin(r)()
						stalls = append(stalls, r.stalledBy(lab.Carrier, func() {
							began, before := time.Now(), r.spent()
							rest(b.Context(), 5*time.Second)
							used.cpu += r.spent().minus(before).cpu
							span += time.Since(began)
							resident = max(resident, r.resident())
						}))
					})
				}
				stalls.report(b)
				b.ReportMetric(100*used.cpu.Seconds()/span.Seconds(), "%-of-a-core")
				b.ReportMetric(float64(resident)/1024, "RSS-MiB")
			}
		})
	}
}

// storm has ip(8) carry out commands on the router, so many a second.
func (r *router) storm(perSecond int, command func(n int) string) (end func()) {
	r.Helper()
	const interval = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ip := r.Host("router").Command(ctx, "ip", "-force", "-batch", "-")
	commands, err := ip.StdinPipe()
	if err != nil {
		r.Fatal(err)
	}
	if err := ip.Start(); err != nil {
		r.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for n := 0; ; {
			var lines strings.Builder
			for range perSecond / int(time.Second/interval) {
				lines.WriteString(command(n) + "\n")
				n++
			}
			if _, err := io.WriteString(commands, lines.String()); err != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
		_ = commands.Close()
		_ = ip.Wait()
	}
}

// containers has a hundred devices come and go, get addresses, lose them, and learn neighbours.
func (r *router) containers() (end func()) {
	r.Helper()
	var devices strings.Builder
	for n := range 100 {
		fmt.Fprintf(&devices, "link add c%d up type veth peer name p%[1]d\nlink set p%[1]d up\n", n)
	}
	r.batch(devices.String())
	return r.storm(2000, func(n int) string {
		device, at := fmt.Sprintf("c%d", n/8%100), n/8
		host := fmt.Sprintf("10.%d.%d.%d", 100+at/65536%100, at/256%256, at%256)
		switch n % 8 {
		case 0:
			return "address add " + host + "/32 dev " + device
		case 1, 2, 3:
			return fmt.Sprintf("neighbour replace %s lladdr 02:00:00:00:00:%02x dev %s nud reachable", host, n%8, device)
		case 4:
			return "link set " + device + " down"
		case 5:
			return "link set " + device + " up"
		case 6:
			return "neighbour replace " + host + " lladdr 02:00:00:00:00:09 dev " + device + " nud stale"
		}
		return "address del " + host + "/32 dev " + device
	})
}

// manyRoutes is a full table that another program keeps.
func (r *router) manyRoutes(by string) (end func()) {
	r.Helper()
	route := func(n int) string {
		return fmt.Sprintf("10.%d.%d.%d/30 %s proto bird", 64+n>>14, n>>6&255, n&63*4, by)
	}
	var all strings.Builder
	for n := range 100_000 {
		all.WriteString("route add " + route(n) + "\n")
	}
	r.batch(all.String())
	return r.storm(1000, func(n int) string {
		if n%2 == 0 {
			return "route del " + route(n/2%100_000)
		}
		return "route add " + route(n/2%100_000)
	})
}

// manyConnections has a LAN host begin 50 000 connections, and again before they are forgotten.
func (r *router) manyConnections() (end func()) {
	r.Helper()
	conn, err := r.Host("lan").ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		r.Fatal(err)
	}
	target := net.ParseIP("192.0.2.1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			for port := 10_000; port < 60_000; port++ {
				if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: target, Port: port}); err != nil {
					return
				}
				if port%100 == 0 { // 12 500 a second
					time.Sleep(8 * time.Millisecond)
				}
			}
			time.Sleep(10 * time.Second)
		}
	}()
	return func() { _ = conn.Close(); <-done }
}

// batch has ip(8) carry out lines on the router.
func (r *router) batch(lines string) {
	r.Helper()
	ip := r.Host("router").Command(context.Background(), "ip", "-batch", "-")
	ip.Stdin = strings.NewReader(lines)
	if out, err := ip.CombinedOutput(); err != nil {
		r.Fatalf("%v\n%s", err, out)
	}
}
