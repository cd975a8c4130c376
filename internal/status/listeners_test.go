package status

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestAProgramThatAForwardHidesIsNamed(t *testing.T) {
	at := netip.MustParseAddrPort
	for name, c := range map[string]struct {
		forward rules.Forward
		tcp     []netip.AddrPort
		udp     []netip.AddrPort
		want    string // in the message; "" for none
	}{
		"nobody listens":                   {rules.Forward{Protocols: []uint8{6, 17}, Ports: netcfg.Ports{First: 443, Last: 443}}, nil, nil, ""},
		"on all addresses":                 {rules.Forward{Protocols: []uint8{6}, Ports: netcfg.Ports{First: 20, Last: 30}}, []netip.AddrPort{at("0.0.0.0:25"), at("[::]:22"), at("0.0.0.0:80")}, nil, "tcp port 22"},
		"on an uplink's":                   {rules.Forward{Protocols: []uint8{6}, Ports: netcfg.Ports{First: 443, Last: 443}}, []netip.AddrPort{at("198.51.100.2:443")}, nil, "tcp port 443"},
		"on that of a LAN, or on loopback": {rules.Forward{Protocols: []uint8{6}, Ports: netcfg.Ports{First: 443, Last: 443}}, []netip.AddrPort{at("192.168.7.1:443"), at("127.0.0.1:443")}, nil, ""},
		"by the other protocol":            {rules.Forward{Protocols: []uint8{17}, Ports: netcfg.Ports{First: 443, Last: 443}}, []netip.AddrPort{at("0.0.0.0:443")}, nil, ""},
		"a socket that calls others":       {rules.Forward{Protocols: []uint8{17}, Ports: netcfg.Ports{First: 40000, Last: 50000}}, nil, []netip.AddrPort{at("0.0.0.0:45000")}, ""},
		"a service with a high port":       {rules.Forward{Protocols: []uint8{17}, Ports: netcfg.Ports{First: 51820, Last: 51820}}, nil, []netip.AddrPort{at("0.0.0.0:51820")}, "udp port 51820"},
	} {
		c.forward.Name, c.forward.Device = "web", "br-lan"
		report := rules.Report{Paths: map[rules.Path]rules.PathInfo{{Uplink: 1, Family: rules.IPv4}: {Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}}},
			Forwards: []rules.ForwardReport{{Forward: &c.forward, To: map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("192.168.7.10"), rules.IPv6: netip.MustParseAddr("fd00::10")}}}}
		problems := HiddenListeners(&report, func(_ rules.Family, protocol uint8) ([]netip.AddrPort, error) {
			return map[uint8][]netip.AddrPort{6: c.tcp, 17: c.udp}[protocol], nil
		})
		if (c.want == "") != (len(problems) == 0) || len(problems) > 1 || c.want != "" && !strings.Contains(problems[0].Message, c.want+", which forward web leads to br-lan") {
			t.Errorf("%s: %v", name, problems)
		}
	}
}
