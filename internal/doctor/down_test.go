package doctor

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestAnUplinkThatIsDownIsFoundWithWhatToTry(t *testing.T) {
	for _, code := range uplink.Codes {
		u := &status.Uplink{Name: "fiber", Device: "wan1", IPv4: status.FamilyStatus{State: uplink.Down, Code: code, Reason: "because"},
			IPv6: status.FamilyStatus{State: uplink.Up}}
		p := DownUplink(u)
		if len(p) != 1 || p[0].Message != "fiber (IPv4) is down: because" || p[0].Fix == "" || strings.Contains(p[0].Fix, "%") {
			t.Errorf("%s: %+v", code, p)
		}
	}
	for _, of := range []status.FamilyStatus{{State: uplink.Up}, {State: uplink.Disabled}, {State: uplink.Down, Suspended: true}, {State: uplink.Suspect}} {
		if p := DownUplink(&status.Uplink{IPv4: of, IPv6: of}); len(p) != 0 {
			t.Errorf("%+v", p)
		}
	}
}
