package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
)

func TestAnUplinkWithoutADelegationIsNamedWithTheReason(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	for name, c := range map[string]struct {
		lack *dhcp6.Lack
		says string // "" for no problem
	}{
		"a prefix is held":             {},
		"a server may still answer":    {lack: &dhcp6.Lack{Since: now.Add(-5 * time.Second)}},
		"nobody answers":               {lack: &dhcp6.Lack{Since: now.Add(-25 * time.Second)}, says: "no DHCPv6 server answers on wan1, asked since 12:00:05"},
		"it is refused, just a moment": {lack: &dhcp6.Lack{Since: now.Add(-time.Second), Refusal: "server x says NoPrefixAvail"}, says: "NoPrefixAvail"},
	} {
		p, ok := lackProblem("fiber", "wan1", c.lack, now)
		if ok != (c.says != "") || !strings.Contains(p.Message, c.says) || ok && (p.Code != "no-delegation" || !strings.Contains(p.Message, "fiber") || p.Fix == "") {
			t.Errorf("%s: %v %+v", name, ok, p)
		}
	}
}
