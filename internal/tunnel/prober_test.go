package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// nudged counts the echoes that are sent; nobody answers them.
type nudged struct{ sent func() }

func (n nudged) Probe(ctx context.Context, _ probe.Binding, t probe.Target) (time.Duration, error) {
	n.sent()
	<-ctx.Done()
	return 0, &probe.Error{Target: t.String(), Class: probe.ErrTimeout}
}

// device is the one WireGuard device.
type device func() (*rules.WireGuardDevice, error)

func (d device) Device(string) (*rules.WireGuardDevice, error) { return d() }

func TestAPeerThatAnswersNothingButWireGuardIsJudgedByThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target, err := probe.ParseTarget("handshake://10.0.31.1")
		if err != nil {
			t.Fatal(err)
		}
		peer := rules.WireGuardPeerState{WireGuardPeer: netcfg.WireGuardPeer{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.31.0/24")}}}
		var dead bool
		nudges := 0
		var answer time.Time // when the peer answers data, by an empty packet
		h := &Prober{WireGuard: device(func() (*rules.WireGuardDevice, error) {
			if !answer.IsZero() && !time.Now().Before(answer) {
				peer.Received, answer = peer.Received+32, time.Time{}
			}
			return &rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{peer}}, nil
		})}
		h.Prober = nudged{func() {
			nudges++
			peer.Sent += 96
			if !dead && answer.IsZero() {
				answer = time.Now().Add(10 * time.Second)
			}
		}}
		ask := func() error {
			time.Sleep(time.Second)
			_, err := h.Probe(t.Context(), probe.Binding{Device: "wg0"}, target)
			return err
		}
		answers := 0
		for range 300 {
			switch err := ask(); {
			case err == nil:
				answers++
			case !errors.Is(err, context.Canceled):
				t.Fatalf("a peer that lives: %v", err)
			}
		}
		if answers < 100 || nudges > 20 {
			t.Errorf("in five minutes %d answers for %d packets", answers, nudges)
		}

		dead, answer = true, time.Time{}
		peer.Sent += 96
		died := time.Now()
		for err = nil; !errors.Is(err, probe.ErrTimeout); err = ask() {
			if time.Since(died) > time.Minute {
				t.Fatal("a dead peer is alive")
			}
		}
		// Not before a new handshake could have been answered; what was under way when it died counts for it.
		if took := time.Since(died); took < 17*time.Second || took > 45*time.Second {
			t.Errorf("found after %v", took)
		}
		before := nudges
		for range 60 {
			if err := ask(); !errors.Is(err, probe.ErrTimeout) {
				t.Fatalf("a dead peer: %v", err)
			}
		}
		if n := nudges - before; n < 8 || n > 13 {
			t.Errorf("sought %d times in a minute", n)
		}
		dead = false
		peer.Received += 92
		if err := ask(); err != nil {
			t.Errorf("it has answered a handshake: %v", err)
		}
	})
}

func TestAHandshakeIsLookedForAtThePeerThatHasTheAddress(t *testing.T) {
	target, err := probe.ParseTarget("handshake://10.0.31.1")
	if err != nil {
		t.Fatal(err)
	}
	h := &Prober{WireGuard: device(func() (*rules.WireGuardDevice, error) { return new(rules.WireGuardDevice), nil })}
	if _, err := h.Probe(t.Context(), probe.Binding{Device: "wg0"}, target); !errors.Is(err, probe.ErrLocal) || !errors.Is(err, errNoPeer) {
		t.Errorf("nobody has it: %v", err)
	}
}
