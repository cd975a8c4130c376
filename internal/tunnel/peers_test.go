package tunnel_test

import (
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// far is a peer, and what passes between it and us, seen by one who looks every half second.
type far struct {
	t     *testing.T
	peers tunnel.Peers
	now   time.Time
	state rules.WireGuardPeerState
	asked int
	seek  bool
}

const pace = 500 * time.Millisecond

func newFar(t *testing.T) *far {
	f := &far{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	f.state.PublicKey = netcfg.Key{1}
	f.look()
	return f
}

func (f *far) look() {
	f.now = f.now.Add(pace)
	ask, _ := f.peers.Observe(f.now, &rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{f.state}}, func(netcfg.Key) bool { return f.seek })
	f.asked += len(ask)
	if len(ask) > 0 {
		f.state.Sent += 128
	}
}

// shakes has the peer make a handshake with us.
func (f *far) shakes() {
	f.state.Handshake = f.now
	f.state.Received, f.state.Sent = f.state.Received+148, f.state.Sent+92
	f.look()
}

// until looks until the peer is there or gone, and returns how long that took.
func (f *far) until(alive bool, limit time.Duration, meanwhile func()) time.Duration {
	f.t.Helper()
	for began := f.now; f.now.Sub(began) <= limit; {
		if f.peers.Alive(f.state.PublicKey) == alive {
			return f.now.Sub(began)
		}
		meanwhile()
		f.look()
	}
	f.t.Fatalf("after %v the peer is there: %v", limit, !alive)
	return 0
}

func (f *far) alive() bool { return f.peers.Alive(f.state.PublicKey) }

func TestAPeerIsThereFromItsHandshakeOnAndGoneWhenEchoesStayUnanswered(t *testing.T) {
	f := newFar(t)
	if f.alive() {
		t.Fatal("a peer that was never heard is there")
	}
	f.shakes()
	if !f.alive() || f.asked != 1 {
		t.Fatalf("there %v, asked %d times: it is to be asked once whether it answers", f.alive(), f.asked)
	}
	f.peers.Answered(f.state.PublicKey)
	f.state.Received += 128
	f.look()

	for range 1000 { // idle: keepalives, of both ends and not at the same time
		f.state.Sent += 32
		f.look()
	}
	if !f.alive() || f.asked != 1 {
		t.Errorf("an idle peer is there: %v; it was asked %d times", f.alive(), f.asked)
	}
	f.state.Sent += 1000
	if took := f.until(false, time.Minute, func() {}); took > 5*pace {
		t.Errorf("found after %v", took)
	}
	asked := f.asked
	for range 100 {
		f.look()
	}
	if f.asked != asked {
		t.Error("a peer that calls us was asked where it is not")
	}
	f.shakes()
	if !f.alive() {
		t.Error("it has come back unnoticed")
	}
}

func TestAPeerThatAnswersNoEchoIsJudgedByWhatWireGuardAnswers(t *testing.T) {
	f := newFar(t)
	f.shakes()
	for range 10 { // a stream to it, with an empty packet every ten seconds as its answer
		for range 20 {
			f.state.Sent += 1000
			f.look()
		}
		f.state.Received += 32
		f.look()
	}
	if !f.alive() {
		t.Fatal("it answered as WireGuard does, and is taken to be gone")
	}
	f.state.Sent += 1000
	if took := f.until(false, time.Minute, func() { f.state.Sent += 148 }); took < 15*time.Second || took > 19*time.Second {
		t.Errorf("gone after %v, before or long after a new handshake would have been answered", took)
	}
}

func TestAPeerThatSleptIsGivenMoreTimeTheNextTime(t *testing.T) {
	f := newFar(t)
	f.shakes()
	f.peers.Answered(f.state.PublicKey)
	var took []time.Duration
	for range 2 {
		f.state.Sent += 1000
		took = append(took, f.until(false, time.Minute, func() {}))
		f.state.Received += 128 // in the same session
		f.look()
		if !f.alive() {
			t.Fatal("it was heard, and is not there")
		}
	}
	if took[1] < 3*took[0]/2 {
		t.Errorf("given up after %v and %v", took[0], took[1])
	}
}

func TestAPeerWithAKnownPlaceIsSoughtThere(t *testing.T) {
	f := newFar(t)
	f.seek = true
	for range 60 {
		f.look()
	}
	if f.asked < 4 || f.asked > 7 {
		t.Errorf("asked %d times in half a minute", f.asked)
	}
}

func TestAGoodSessionCountsAtTheFirstLookAndNothingOfADeviceMadeAnew(t *testing.T) {
	f := newFar(t)
	for _, tt := range []struct {
		age   time.Duration
		alive bool
	}{{170 * time.Second, true}, {200 * time.Second, false}} {
		var peers tunnel.Peers
		s := rules.WireGuardPeerState{WireGuardPeer: netcfg.WireGuardPeer{PublicKey: netcfg.Key{1}}, Handshake: f.now.Add(-tt.age), Received: 500, Sent: 500}
		look := func() bool {
			_, changed := peers.Observe(f.now, &rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{s}}, func(netcfg.Key) bool { return false })
			return changed
		}
		if changed := look(); changed != tt.alive || peers.Alive(netcfg.Key{1}) != tt.alive {
			t.Errorf("a handshake %v ago: there %v", tt.age, peers.Alive(netcfg.Key{1}))
		}
		s.Handshake, s.Received, s.Sent = time.Time{}, 0, 0
		if look(); peers.Alive(netcfg.Key{1}) {
			t.Error("the device is a new one, and the peer is there")
		}
		if ask, changed := peers.Observe(f.now, &rules.WireGuardDevice{}, nil); len(ask) > 0 || changed || slices.Contains([]bool{peers.Asking(), peers.Alive(netcfg.Key{1})}, true) {
			t.Error("a peer that is no peer any more is there")
		}
	}
}
