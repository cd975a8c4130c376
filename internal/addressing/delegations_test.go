package addressing

import (
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
)

func TestAnUplinkWithoutADelegationIsNamedWithTheReason(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	for name, c := range map[string]struct {
		name, device string
		lack         *dhcp6.Lack
		says         string // "" for no problem
	}{
		"a prefix is held":             {name: "fiber", device: "wan1"},
		"a server may still answer":    {name: "fiber", device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-5 * time.Second)}},
		"nobody answers":               {name: "fiber", device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-25 * time.Second)}, says: "no DHCPv6 server answers on wan1, asked since 12:00:05"},
		"it is refused, just a moment": {name: "fiber", device: "wan1", lack: &dhcp6.Lack{Since: now.Add(-time.Second), Refusal: "server x says NoPrefixAvail"}, says: "server x says NoPrefixAvail"},
		"nobody answers on a tunnel":   {name: "campus6", device: "gre-2.7", lack: &dhcp6.Lack{Since: now.Add(-time.Hour)}, says: "no DHCPv6 server answers on gre-2.7, asked since 11:00:30"},
	} {
		p, ok := lackProblem(c.name, c.device, c.lack, now)
		if ok != (c.says != "") || !strings.Contains(p.Message, c.says) || ok && (p.Code != "no-delegation" || !strings.Contains(p.Message, c.name+" has no delegated prefix") || p.Fix == "") {
			t.Errorf("%s: %v %+v", name, ok, p)
		}
	}
}
