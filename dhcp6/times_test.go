package dhcp6

import (
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// ipv6.md 1.10: when the Renew and the Rebind are sent for what a server gives, in seconds after the Reply;
// 0 for not at all.
func TestT1AndT2(t *testing.T) {
	for _, c := range []struct {
		name          string
		ias           []byte
		renew, rebind float64
	}{
		{"as the server says", iaPD(1, 100, 160, iaPrefix(held, 200, 300)), 100, 160},
		{"0 is half and four fifths of the preferred lifetime", iaPD(1, 0, 0, iaPrefix(held, 200, 300)), 100, 160},
		{"of the shortest one", iaPD(1, 0, 0, iaPrefix(held, 200, 300), iaPrefix("2001:db8:b::/56", 100, 300)), 50, 80},
		{"a deprecated prefix does not hurry", iaPD(1, 0, 0, iaPrefix(held, 0, 300)), 150, 240},
		{"nor beside another", iaPD(1, 0, 0, iaPrefix(held, 200, 300), iaPrefix("2001:db8:b::/56", 0, 300)), 100, 160},
		{"T1 0 with a T2", iaPD(1, 0, 80, iaPrefix(held, 200, 300)), 0, 80},
		{"T2 0 with a T1", iaPD(1, 50, 0, iaPrefix(held, 200, 300)), 50, 160},
		{"T2 0 with a late T1", iaPD(1, 170, 0, iaPrefix(held, 200, 300)), 0, 170},
		{"the earliest of all associations", append(iaPD(1, 100, 160, iaPrefix(held, 200, 300)), iaPD(2, 60, 250, iaPrefix("2001:db8:b::/56", 300, 400))...), 60, 160},
		{"0 of a tiny lifetime is not at once", iaPD(1, 0, 0, iaPrefix(held, 1, 300)), 1, 1.6},
		{"behind the end of the lease they are ours", iaPD(1, 1000, 2000, iaPrefix(held, 200, 300)), 100, 160},
		{"infinity is never", iaPD(1, forever, forever, iaPrefix(held, forever, forever)), 0, 0},
		{"0 of an infinite lifetime is never", iaPD(1, 0, 0, iaPrefix(held, forever, forever)), 0, 0},
		{"never, although the lease ends", iaPD(1, forever, forever, iaPrefix(held, 200, 300)), 0, 0},
		{"T2 never, T1 not", iaPD(1, 100, forever, iaPrefix(held, 200, 300)), 100, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				two := append(c.ias, iaPD(2, forever, forever, iaPrefix("2001:db8:d::/56", forever, forever))...)
				if c.name == "the earliest of all associations" {
					two = c.ias
				}
				b := start(t, gives(alpha, two), func(cfg *Config) { cfg.IAPD = []IAPD{{ID: 1}, {ID: 2}} })
				sleep(3 * time.Second)
				var bound time.Time
				for _, s := range b.messages() {
					bound = s.at
				}
				b.script(nil)
				sleep(299 * time.Second)
				var renew, rebind float64
				for _, s := range b.messages() {
					after := s.at.Sub(bound).Seconds()
					switch {
					case s.msg.MessageType == dhcpv6.MessageTypeRenew && renew == 0:
						renew = after
					case s.msg.MessageType == dhcpv6.MessageTypeRebind && rebind == 0:
						rebind = after
					}
				}
				if renew != c.renew || rebind != c.rebind {
					t.Errorf("Renew after %v s, Rebind after %v s, want %v and %v", renew, rebind, c.renew, c.rebind)
				}
			})
		})
	}
}

func TestInfiniteLifetimesNeverEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(1, 0, 0, iaPrefix(held, forever, forever))), nil)
		sleep(3 * time.Second)
		l := b.lease()
		if d := l.Prefixes[0]; !d.Valid.Equal(Never()) || !d.Preferred.Equal(Never()) || !l.Renew.Equal(Never()) || !l.Rebind.Equal(Never()) {
			t.Errorf("%+v", l)
		}
		b.kinds()
		b.clear()
		sleep(365 * 24 * time.Hour)
		b.wantKinds("")
		b.wantHeard()
	})
}

// Each prefix has its own end.
func TestOnePrefixExpiresAndTheOtherStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(1, forever, forever, iaPrefix(held, 50, 100), iaPrefix("2001:db8:b::/56", 500, 1000))), nil)
		sleep(90 * time.Second)
		b.wantHeard("granted 2001:db8:a::/56 added 2001:db8:b::/56 added")
		sleep(20 * time.Second)
		if l := b.lease(); l == nil || len(l.Prefixes) != 1 || l.Prefixes[0].Prefix != mustPrefix("2001:db8:b::/56") {
			t.Errorf("%+v", l)
		}
		b.wantHeard("lapsed 2001:db8:a::/56 expired")
	})
}
