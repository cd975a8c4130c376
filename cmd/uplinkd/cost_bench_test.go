package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// farAway is how long the targets of the cost take to answer. It is no lab's 0.1 ms, because what waits for an answer
// may cost for as long as it waits.
const farAway = 15 * time.Millisecond

// BenchmarkCost measures what the daemon costs while nothing happens: three targets a family that answer pings after
// 15 ms, both families, all else by default. Each round is a minute (-benchtime 5x for five). The processor's time
// depends on what else the machine does; the switches between threads, one per wake-up, hardly do.
func BenchmarkCost(b *testing.B) {
	bin := buildProgram(b)
	for _, uplinks := range []int{2, 4} {
		b.Run(fmt.Sprintf("uplinks_%d", uplinks), func(b *testing.B) {
			r := newRouter(b, lab.Options{Uplinks: uplinks}, "")
			r.binary = bin
			var config strings.Builder
			for i, u := range r.Uplinks() {
				fmt.Fprintf(&config, "[[uplink]]\nname = %q\ndevice = %q\ntier = %d\n[uplink.probe]\ntargets = [\"192.0.2.1\", \"192.0.2.2\", "+
					"\"192.0.2.3\", \"2001:db8:ffff::1\", \"2001:db8:ffff::2\", \"2001:db8:ffff::3\"]\n", u.Name, u.Device, i+1)
			}
			r.configure(config.String())
			r.answerPings(farAway)
			r.start()
			for _, u := range r.Uplinks() {
				r.awaitState(u.Name, uplink.Up)
			}
			rest(b.Context(), 30*time.Second) // what follows a start is over by then
			began, before := time.Now(), r.spent()
			for b.Loop() {
				rest(b.Context(), time.Minute)
			}
			used, span := r.spent().minus(before), time.Since(began).Seconds()
			b.ReportMetric(100*used.cpu.Seconds()/span, "%-of-a-core")
			b.ReportMetric(float64(used.switches)/span, "switches/s")
			b.ReportMetric(float64(r.resident())/1024, "RSS-MiB")
			b.ReportMetric(0, "ns/op")
			r.kill()
		})
	}
}

// buildProgram builds the program as it is shipped: what a test brings along costs memory.
func buildProgram(b *testing.B) (bin string) {
	b.Helper()
	bin = filepath.Join(b.TempDir(), "uplinkd")
	if out, err := exec.Command("make", "-C", "../..", "build", "BIN="+bin).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// spent is what the daemon has cost since it began.
type spent struct {
	cpu      time.Duration
	switches int // between its threads and others
}

func (s spent) minus(before spent) spent {
	return spent{s.cpu - before.cpu, s.switches - before.switches}
}

func (r *router) spent() spent {
	r.Helper()
	var s spent
	var at unix.Timespec
	pid := r.process.Process.Pid
	if err := unix.ClockGettime(int32(^pid<<3|2), &at); err != nil { // the clock of a process: clock_getcpuclockid(3)
		r.Fatal(err)
	}
	s.cpu = time.Duration(at.Nano())
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		r.Fatalf("no threads: %v", err)
	}
	for _, file := range threads {
		s.switches += field(r, file, "voluntary_ctxt_switches:") + field(r, file, "nonvoluntary_ctxt_switches:")
	}
	return s
}

// resident returns the daemon's RSS in KiB.
func (r *router) resident() int {
	return field(r, fmt.Sprintf("/proc/%d/status", r.process.Process.Pid), "VmRSS:")
}

// field reads a number of a status file of proc(5).
func field(tb testing.TB, file, name string) int {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(line, name); is {
			if _, err := fmt.Sscan(value, &n); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return n
}

// answerPings answers those to the Internet's first targets after a while, in the kernel's place.
func (r *router) answerPings(after time.Duration) {
	r.Helper()
	r.sh("inet", "sysctl -qw net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1")
	for n := 1; n <= 3; n++ {
		r.answerEcho("ip4:icmp", fmt.Sprintf("192.0.2.%d", n), 8, 0, after)
		r.answerEcho("ip6:ipv6-icmp", fmt.Sprintf("2001:db8:ffff::%d", n), 128, 129, after)
	}
}

// answerEcho answers the requests to one address. The types of messages are ICMP's or ICMPv6's.
func (r *router) answerEcho(network, address string, request, reply byte, after time.Duration) {
	r.Helper()
	conn, err := r.Host("inet").ListenPacket(network, address)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if n < 8 || buffer[0] != request {
				continue
			}
			answer := append([]byte(nil), buffer[:n]...)
			answer[0] = reply
			// The kernel sums up ICMPv6; in ICMP the type, in the upper half of a word, went down by eight.
			if reply == 0 {
				sum := uint32(answer[2])<<8 + uint32(answer[3]) + uint32(request)<<8
				sum = sum>>16 + sum&0xffff
				answer[2], answer[3] = byte(sum>>8), byte(sum)
			}
			time.AfterFunc(after, func() { _, _ = conn.WriteTo(answer, from) })
		}
	}()
}
