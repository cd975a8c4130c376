package tunnel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestAPeerIsAskedAtAnAddressOfItsOwn(t *testing.T) {
	w := chainedUplink(t)
	w.addresses = append(w.addresses, netip.MustParsePrefix("fd00:31::2/64"))
	for _, tt := range []struct{ allowed, target, source string }{
		{"10.8.0.0/16 10.0.31.10/32", "10.0.31.10", "10.0.31.2"},
		{"10.0.31.10/32 10.8.0.0/16", "10.0.31.10", "10.0.31.2"},
		{"0.0.0.0/0 10.8.0.0/16", "10.8.0.1", "10.0.31.2"},
		{"::/0 fd00:8::/64", "fd00:8::1", "fd00:31::2"},
		{"0.0.0.0/0", "invalid IP", "invalid IP"},
	} {
		var p netcfg.WireGuardPeer
		for _, s := range strings.Fields(tt.allowed) {
			p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(s))
		}
		target, source, ok := w.innerAddress(&p)
		if target.String() != tt.target || source.String() != tt.source || ok != target.IsValid() {
			t.Errorf("%s: asked at %v from %v (%v)", tt.allowed, target, source, ok)
		}
	}
}

func TestTheRoutesOfAPeerComeAndGoWithIt(t *testing.T) {
	n := New(Options{})
	w := chainedUplink(t)
	w.follows = true
	n.uplinks["vps"] = w
	alive := func() bool { return w.assignment(rules.IPv4).Peers[0].Alive }
	if alive() {
		t.Error("a peer that was never seen is there")
	}
	state := &rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{{WireGuardPeer: w.peers[0].WireGuardPeer}}}
	state.Peers[0].AllowedIPs = w.peers[0].AllowedIPs
	look := func() (questions, events int, asking bool) {
		q, e, a := n.observePeers("vps", state, time.Now())
		return len(q), len(e), a
	}
	if q, e, _ := look(); q != 1 || e != 0 || alive() {
		t.Errorf("%d questions, %d events: it has an endpoint, and is to be looked for there", q, e)
	}
	state.Peers[0].Handshake, state.Peers[0].Received, state.Peers[0].Sent = time.Now(), 92, 148
	if _, e, _ := look(); e != 1 || !alive() {
		t.Errorf("%d events after its handshake, there: %v", e, alive())
	}
	state.Peers[0].Sent += 1000
	if _, _, asking := look(); !asking {
		t.Error("something waits for an answer, and nobody looks")
	}
	*state = rules.WireGuardDevice{}
	if _, _, asking := look(); asking || alive() {
		t.Error("the device is gone, and its peer is there")
	}
	if q, e, asking := n.observePeers("other", state, time.Now()); len(q)+len(e) > 0 || asking {
		t.Error("an uplink that nobody knows has peers")
	}
}
