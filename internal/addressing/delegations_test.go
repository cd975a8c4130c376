package addressing

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
)

func TestWhyThereIsNoDelegation(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	for name, c := range map[string]struct {
		device string
		lack   *dhcp6.Lack
		says   string
	}{
		"a prefix is held":             {device: "wan1"},
		"a server may still answer":    {device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-5 * time.Second)}},
		"nobody answers":               {device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-25 * time.Second)}, says: "no DHCPv6 server answers on wan1, asked since 12:00:05"},
		"it is refused, just a moment": {device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-time.Second), Refusal: "server x says NoPrefixAvail"}, says: "server x says NoPrefixAvail"},
		"nobody answers on a tunnel":   {device: "gre-2.7", lack: &dhcp6.Lack{Since: now.Add(-time.Hour)}, says: "no DHCPv6 server answers on gre-2.7, asked since 11:00:30"},
	} {
		if why := lackReason(c.device, c.lack, now); why != c.says {
			t.Errorf("%s: %q, want %q", name, why, c.says)
		}
	}
}
