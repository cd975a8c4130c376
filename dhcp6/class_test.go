package dhcp6

import (
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// What a client says of itself is in all that asks for something, and only there.
func TestClassesAreToldWithWhatIsAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(100, 200), func(c *Config) {
			c.Class = Class{Enterprise: 3561, Vendor: "dslforum.org", User: []string{"home", "phone"}}
		})
		sleep(110 * time.Second) // it renews
		go func() { _ = b.Release(t.Context()) }()
		sleep(time.Minute)
		told := make(map[dhcpv6.MessageType]bool)
		for _, m := range b.messages() {
			vendor, user := m.msg.GetOneOption(dhcpv6.OptionVendorClass), m.msg.GetOneOption(dhcpv6.OptionUserClass)
			told[m.msg.MessageType] = true
			if release := m.msg.MessageType == dhcpv6.MessageTypeRelease; release != (vendor == nil) || release != (user == nil) {
				t.Errorf("%v says %v and %v", m.msg.MessageType, vendor, user)
			}
			if vendor == nil || user == nil {
				continue
			}
			if got := string(vendor.ToBytes()); got != "\x00\x00\x0d\xe9\x00\x0cdslforum.org" {
				t.Errorf("vendor class %q", got)
			}
			if got := string(user.ToBytes()); got != "\x00\x04home\x00\x05phone" {
				t.Errorf("user class %q", got)
			}
		}
		for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease} {
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
