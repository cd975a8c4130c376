//go:build vm

package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// setClock sets the time of day by as much.
func (r *router) setClock(by time.Duration) {
	r.Helper()
	now := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	if err := unix.Settimeofday(&now); err != nil {
		r.Fatalf("setting the clock: %v", err)
	}
}

// The clock of the machine is set by hours, forward and back: nothing moves, no lease ends, a failover takes as long as ever, and a start
// without a server goes on with the lease that it had.
func TestVMTheClockIsSetWhileItRuns(t *testing.T) {
	r := newRouter(t, lab.Options{}, dhcpFiber)
	r.pace = emulated
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	server := r.serveDHCP("198.51.100.2", 3600)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, by := range []time.Duration{-3 * time.Hour, 6 * time.Hour} {
		before := len(r.events(status.EventVerdict)) + len(r.events(status.EventLease)) + len(r.events(status.EventSwitch))
		r.setClock(by)
		rest(t.Context(), 10*time.Second)
		if n := len(r.events(status.EventVerdict)) + len(r.events(status.EventLease)) + len(r.events(status.EventSwitch)); n != before {
			t.Errorf("set by %v: %d things happened: %+v", by, n-before, r.events(status.EventVerdict))
		}
		r.sh("isp1", "ip link set cust1 down")
		r.awaitState("fiber", uplink.Down)
		r.sh("isp1", "ip link set cust1 up")
		r.awaitState("fiber", uplink.Up)
	}
	r.setClock(3 * time.Hour)
	rest(t.Context(), 5*time.Second) // no server says anything new meanwhile
	server.stop()
	r.kill()
	r.start()
	rest(t.Context(), 5*time.Second)
	r.awaitState("fiber", uplink.Up)
	if !r.hasAddress("198.51.100.2") {
		t.Error("the lease of an hour is over, because the clock was set")
	}
	r.setClock(-6 * time.Hour) // right again
}
