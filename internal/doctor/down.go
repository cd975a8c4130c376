package doctor

import (
	"fmt"
	"strings"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// whatToTry says by why a family is down what an owner can do about it.
var whatToTry = map[uplink.Code]string{
	uplink.CodeNoPrefix:  `ask the provider whether it has NAT64; where it has, and says so to nobody, write its prefix: nat64_prefix = "64:ff9b::/96" in [uplink.ipv4]`,
	uplink.CodeNoDevice:  "plug the device in, or correct its name in the configuration",
	uplink.CodeNoCarrier: "check the cable, the modem's power and the port: ip link show %[1]s, ethtool %[1]s",
	uplink.CodeNoAddress: `check the DHCP client of %[1]s, or set method = "dhcp" and stop that client; restart the modem`,
	uplink.CodeNoGateway: `give %[1]s a default route with its own metric, or set method = "dhcp" or method = "static" with a gateway`,
	uplink.CodeNoRoute:   "see what changed the routes: ip rule, ip route show table all dev %[1]s",
	uplink.CodeSilence:   "ping the gateway and a target by it (ping -I %[1]s ADDRESS), restart the modem, ask the provider; if others can be pinged, choose other targets in [uplink.probe]",
}

// DownUplink finds the families of an uplink that are down by themselves: not those that wait for what carries the tunnel.
func DownUplink(u *status.Uplink) (problems []rules.Problem) {
	for _, f := range rules.Families {
		of := u.Family(f)
		if of.State != uplink.Down || of.Suspended {
			continue
		}
		try, known := whatToTry[of.Code]
		if !known {
			try = whatToTry[uplink.CodeSilence]
		}
		if strings.Contains(try, "%") {
			try = fmt.Sprintf(try, u.Device)
		}
		problems = append(problems, rules.Problem{Code: "uplink-down", Severity: string(Warning),
			Message: fmt.Sprintf("%s (%s) is down: %s", u.Name, f.Name(), of.Reason), Fix: try})
	}
	return problems
}
