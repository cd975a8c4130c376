package probe

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"
)

// The kernel sends a lost SYN again after a second. The time of the probe is that of the SYN that was answered, and the
// Detector can tell that the first one was not.
func TestNetAnAnswerToARetransmittedSYNHasItsOwnTime(t *testing.T) {
	if !privately(t) {
		return
	}
	const rules = `add table inet first
add chain inet first input { type filter hook input priority 0; }
add rule inet first input tcp flags & (syn | ack) == syn limit rate 1/day burst 1 packets drop`
	for _, command := range [][]string{{"ip", "link", "set", "lo", "up"}, {"ip", "address", "add", "203.0.113.1/32", "dev", "lo"}, {"nft", rules}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	server, err := net.Listen("tcp", "203.0.113.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	target, err := ParseTarget("tcp://" + server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	prober := New()
	defer prober.Close()
	ctx, cancel := context.WithTimeout(t.Context(), Listen)
	defer cancel()
	began := time.Now()
	rtt, err := prober.Probe(ctx, Binding{}, target)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Fatalf("the first SYN was not lost: %v", took)
	} else if took-rtt < retransmitted {
		t.Errorf("a time of %v, of %v in all", rtt, took)
	}
}
