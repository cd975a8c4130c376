package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/programs"
)

func TestWhatAPairRestsOnIsFound(t *testing.T) {
	const conf = "track_file up {\nfile /y\nweight -100\n}\nvrrp_instance house {\n\ttrack_file {\n\tup\n\t}\n\tnotify_master x\n\tvirtual_ipaddress {\n\t\t192.168.7.1/24 dev br-lan\n\t}\n\tvirtual_ipaddress_excluded { fe80::7:1/64 }\n}\n"
	all := []string{"keepalived", "conntrackd"}
	for name, c := range map[string]struct {
		key, conf string
		programs  []string
		shared    []string
		want      []string
	}{
		"all is there":                       {"", conf, all, []string{"fiber"}, nil},
		"its configuration is elsewhere":     {"", "", all, nil, nil},
		"no key":                             {"it is readable by others", conf, all, nil, []string{"cannot talk"}},
		"no keepalived":                      {"", "", all[1:], nil, []string{"keepalived is not here"}},
		"another address":                    {"", strings.Replace(conf, "192.168.7.1/", "192.168.7.11/", 1), all, nil, []string{"does not name 192.168.7.1"}},
		"no link-local address":              {"", strings.Replace(conf, "fe80::7:1", "fe80::7:2", 1), all, nil, []string{"does not name fe80::7:1"}},
		"perhaps in another file":            {"", "include other.conf\n", all, nil, nil},
		"no conntrackd":                      {"", conf, all[:1], []string{"fiber"}, []string{"conntrackd is not here"}},
		"no conntrackd, and nothing to keep": {"", conf, all[:1], nil, nil},
	} {
		o := healthy()
		o.Liberal = true
		o.Neighbours = programs.Find(programs.Seen{Processes: c.programs})
		o.Pair = &Pair{Virtual: []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fe80::7:1")}, Key: c.key, Keepalived: c.conf, Shared: c.shared, YieldFile: "/y"}
		var got []Finding
		for _, f := range Examine(o) {
			if f.Check == "pair" {
				got = append(got, f)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i].Cause, c.want[i]) || got[i].Fix == "" {
				t.Errorf("%s: %+v", name, got[i])
			}
		}
	}
}
