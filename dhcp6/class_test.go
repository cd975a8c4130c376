package dhcp6

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// What a client is, and the number of its association, are in all that it ever says: servers that know their customers by it know them
// throughout.
func TestAClientIsTheSameThroughout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const id = 0xfedcba98
		told := make(map[dhcpv6.MessageType]bool)
		look := func(b *bench) {
			for _, s := range b.messages() {
				m := s.msg
				told[m.MessageType] = true
				if got := m.GetOneOption(dhcpv6.OptionClientID).ToBytes(); string(got) != string(ours) {
					t.Errorf("%v: DUID %x", m.MessageType, got)
				}
				for code, want := range map[dhcpv6.OptionCode]string{dhcpv6.OptionVendorClass: "\x00\x00\x0d\xe9\x00\x0cdslforum.org", dhcpv6.OptionUserClass: "\x00\x04home\x00\x05phone"} {
					if o := m.GetOneOption(code); o == nil || string(o.ToBytes()) != want {
						t.Errorf("%v: %v is %v", m.MessageType, code, o)
					}
				}
				iana := len(m.Options.IANA()) == 1 && m.Options.IANA()[0].IaId == [4]byte{0xfe, 0xdc, 0xba, 0x98}
				if pdOf(m, id) == nil && !iana {
					t.Errorf("%v: associations %v", m.MessageType, m.Options)
				}
			}
		}
		said := func(c *Config) {
			c.Class = Class{Enterprise: 3561, Vendor: "dslforum.org", User: []string{"home", "phone"}}
			c.IAPD = []IAPD{{ID: id}}
		}
		grant := gives(alpha, iaPD(id, 50, 80, iaPrefix("2001:db8:a::/56", 100, 200)))
		b := start(t, grant, said)
		sleep(60 * time.Second) // it renews
		b.script(nil)
		sleep(100 * time.Second) // it rebinds, in vain
		b.script(grant)
		sleep(30 * time.Second)
		b.SetLink(2, false) // and after a flap
		b.SetLink(2, true)
		sleep(10 * time.Second)
		if err := b.Release(t.Context()); err != nil {
			t.Error(err)
		}
		look(b)
		alone := start(t, gives(alpha, iaNA(id, 0, 0, iaAddr("2001:db8::5", 1000, 2000))), func(c *Config) { said(c); c.IAPD, c.IANA = nil, []uint32{id} })
		sleep(3 * time.Second)
		alone.SetLink(2, false)
		synctest.Wait()
		alone.SetLink(2, true)
		sleep(10 * time.Second)
		look(alone)
		for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRelease} {
			if !told[kind] {
				t.Errorf("there was no %v: %v", kind, told)
			}
		}
	})
}

func TestClassesLeaveRoomForTheRest(t *testing.T) {
	cfg := Config{Device: "wan1", DUID: ours, IAPD: alwaysPD, Class: Class{Vendor: "v", User: []string{strings.Repeat("u", 510)}}}
	if err := New(cfg).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "513 octets, want 512") {
		t.Error(err)
	}
}
