package dhcp6

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestABrokenSocketIsOpenedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(1000, 2000), nil)
		sleep(3 * time.Second)
		b.kinds()
		b.end.broken <- errors.New("network is down")
		sleep(3 * time.Second)
		b.wantKinds("REBIND")
		b.wantLog("network is down")
		b.mu.Lock()
		b.wire.mu.Lock()
		b.openErr = ErrNotReady
		b.wire.mu.Unlock()
		b.mu.Unlock()
		b.end.broken <- errors.New("gone")
		sleep(time.Minute)
		b.wantKinds("")
		b.wantLog("no usable link-local address")
		if n := strings.Count(b.log.String(), "cannot be opened"); n != 1 {
			t.Errorf("a device without an address is logged %d times a minute", n)
		}
		b.wire.mu.Lock()
		b.openErr = nil
		b.wire.mu.Unlock()
		sleep(3 * time.Second)
		b.wantKinds("REBIND")
	})
}

// The client may be kept from running for longer than a flap lasts.
func TestAFlapThatIsOverBeforeAnybodyLookedIsAnsweredToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(1000, 2000), nil)
		sleep(3 * time.Second)
		b.kinds()
		b.SetLink(2, false)
		b.SetLink(2, true)
		sleep(3 * time.Second)
		b.wantKinds("REBIND")
	})
}

func TestWhatServersSayIsLoggedOnceUntilSomethingChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refuse := gives(alpha, stat(noPrefix, "come \x1b[31magain\n"))
		b := start(t, refuse, nil)
		count := func() int { return strings.Count(b.log.String(), "not used: NoPrefixAvail: come [31magain") }
		sleep(10 * time.Minute)
		if count() != 1 {
			t.Errorf("logged %d times:\n%s", count(), b.log.String())
		}
		b.script(generous(100, 200))
		sleep(20 * time.Minute)
		b.script(refuse)
		sleep(10 * time.Minute)
		if count() != 2 {
			t.Errorf("logged %d times after a change:\n%s", count(), b.log.String())
		}
	})
}

func TestADeviceThatIsReadySoonIsNoNews(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, nil, func(cfg *Config) {
			open, began := cfg.Open, time.Now()
			cfg.Open = func(device string) (Conn, error) {
				if time.Since(began) < 2*time.Second {
					return nil, ErrNotReady
				}
				return open(device)
			}
		})
		sleep(5 * time.Second)
		b.wantKinds("SOLICIT")
		if b.log.String() != "" {
			t.Errorf("logged:\n%s", b.log.String())
		}
	})
}

func TestASendErrorWaitsForTheRetransmissionAndAStaleSocketIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, nil, nil)
		sleep(time.Minute)
		b.messages()
		set := func(err error) {
			b.wire.mu.Lock()
			defer b.wire.mu.Unlock()
			b.sendErr = err
		}
		set(errors.New("operation not permitted"))
		sleep(10 * time.Minute)
		if b.openings.Load() != 1 {
			t.Errorf("opened %d times", b.openings.Load())
		}
		if n := strings.Count(b.log.String(), "operation not permitted"); n != 1 {
			t.Errorf("the error was logged %d times", n)
		}
		set(ErrGone)
		sleep(20 * time.Minute)
		set(nil)
		if b.openings.Load() < 2 {
			t.Errorf("the stale socket was kept:\n%s", b.log.String())
		}
		b.script(generous(1000, 2000))
		sleep(5 * time.Minute)
		b.wantHeard("granted 2001:db8:a::/56 added")
	})
}

func TestAskingForNothingOrAsNobodyIsAnError(t *testing.T) {
	for want, cfg := range map[string]Config{
		"DHCPv6 on wan1: the DUID has 0 octets, want 3 to 130":         {IAPD: alwaysPD},
		"DHCPv6 on wan1: neither a prefix nor an address is asked for": {DUID: ours},
		"DHCPv6 on wan1: IA_PD 1 is asked for twice":                   {DUID: ours, IAPD: []IAPD{{ID: 1}, {ID: 1}}},
		"DHCPv6 on wan1: the hint 192.0.2.0/24 is no IPv6 prefix":      {DUID: ours, IAPD: []IAPD{{ID: 1, Hint: mustPrefix("192.0.2.0/24")}}},
	} {
		cfg.Device = "wan1"
		if err := New(cfg).Run(t.Context()); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
