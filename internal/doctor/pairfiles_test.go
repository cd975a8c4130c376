package doctor

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
)

func exampleFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/pair/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheFilesOfAPairAreLookedInto(t *testing.T) {
	keepalived, conntrackd := exampleFile(t, "keepalived.conf"), exampleFile(t, "conntrackd.conf")
	replaced := func(text string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				t.Fatalf("the example has no %q", pairs[i])
			}
		}
		return strings.NewReplacer(pairs...).Replace(text)
	}
	tracked := "\ttrack_file {\n\t\tuplinkd\n\t}\n"
	for name, c := range map[string]struct {
		keepalived, conntrackd string
		strict                 bool // connection tracking is
		want                   []string
	}{
		"the examples":                    {},
		"nothing is tracked":              {keepalived: replaced(keepalived, tracked, ""), want: []string{"does not track /var/lib/uplinkd/yield"}},
		"another file is":                 {keepalived: replaced(keepalived, "/var/lib/uplinkd/yield", "/var/lib/other"), want: []string{"does not track /var/lib/uplinkd/yield"}},
		"the old word for it":             {keepalived: replaced(keepalived, "track_file uplinkd {", "vrrp_track_file uplinkd {")},
		"with the wrong weight":           {keepalived: replaced(keepalived, "weight -100", "weight 100"), want: []string{"with weight 100"}},
		"with no weight":                  {keepalived: replaced(keepalived, "\tweight -100\n", ""), want: []string{"with weight 1,"}},
		"the weight stands in the vrrp":   {keepalived: replaced(keepalived, "\tweight -100\n", "", tracked, "\ttrack_file {\n\t\tuplinkd weight -50\n\t}\n")},
		"nopreempt":                       {keepalived: replaced(keepalived, "advert_int 0.2", "advert_int 0.2\n\tnopreempt"), want: []string{"nopreempt"}},
		"nopreempt, in a remark":          {keepalived: replaced(keepalived, "advert_int 0.2", "advert_int 0.2\n\t# nopreempt\n\t! nopreempt")},
		"preempt_delay":                   {keepalived: replaced(keepalived, "advert_int 0.2", "advert_int 0.2\n\tpreempt_delay 20"), want: []string{"preempt_delay of 20 s"}},
		"slow announcements":              {keepalived: replaced(keepalived, "vrrp_garp_master_repeat 2", "vrrp_garp_interval 1.5"), want: []string{"vrrp_garp_interval of 1.5 s"}},
		"quick ones":                      {keepalived: replaced(keepalived, "vrrp_garp_master_repeat 2", "vrrp_garp_interval 0.001")},
		"strictness":                      {keepalived: replaced(keepalived, "vrrp_version 3", "vrrp_version 3\n\tvrrp_strict"), want: []string{"vrrp_strict"}},
		"nobody tells conntrackd":         {keepalived: replaced(keepalived, "notify_master", "notify_stop"), want: []string{"runs nothing"}},
		"a shared line has no address":    {keepalived: replaced(keepalived, "dev eth1", "dev eth3"), want: []string{"no address for eth1"}},
		"a part is elsewhere":             {keepalived: "include /etc/keepalived/conf.d/*\n" + replaced(keepalived, tracked, "")},
		"conditions":                      {keepalived: "@first x\n" + replaced(keepalived, tracked, "")},
		"definitions":                     {keepalived: "$ID=7\n" + replaced(keepalived, tracked, "")},
		"braces that do not match":        {keepalived: replaced(keepalived, tracked, "") + "}\n"},
		"UDP is not copied":               {conntrackd: replaced(conntrackd, "\t\t\tUDP\n\t\t}\n\t\tAddress", "\t\t}\n\t\tAddress"), want: []string{"keeps UDP"}},
		"TCP is ignored":                  {conntrackd: replaced(conntrackd, "Protocol Accept {\n\t\t\tTCP\n\t\t\tUDP", "Protocol Ignore {\n\t\t\tTCP"), want: []string{"keeps TCP"}},
		"hosts are ignored":               {conntrackd: replaced(conntrackd, "IPv4_address 192.168.7.2", "IPv4_address 192.168.0.0/16"), want: []string{"ignores 192.168.0.0/16"}},
		"other networks are":              {conntrackd: replaced(conntrackd, "IPv4_address 192.168.7.2", "IPv4_address 192.168.100.0/24")},
		"others alone are accepted":       {conntrackd: replaced(conntrackd, "Address Ignore", "Address Accept"), want: nil},
		"others' networks are accepted":   {conntrackd: replaced(conntrackd, "Address Ignore {\n\t\t\tIPv4_address 127.0.0.1\n\t\t\tIPv4_address 192.168.7.2\n\t\t\tIPv4_address 192.168.7.3", "Address Accept {\n\t\t\tIPv4_address 10.0.0.0/8"), want: []string{"accepts nothing of 192.168.7.0/24"}},
		"half-open connections alone are": {conntrackd: replaced(conntrackd, "Address Ignore", "State Accept {\n\t\t\tSYN_SENT for TCP\n\t\t}\n\t\tAddress Ignore"), want: []string{"no ESTABLISHED"}},
		"nothing is synchronised":         {conntrackd: "General {\n}\n", want: []string{"no Sync section"}},
		"no filter":                       {conntrackd: "Sync {\n}\nGeneral {\n}\n"},
		"strict connection tracking":      {strict: true, want: []string{"sent again"}},
	} {
		o := healthy()
		o.Liberal = !c.strict
		o.Neighbours = programs.Find(programs.Seen{Processes: []string{"keepalived", "conntrackd"}})
		o.Config.Uplinks[0].Device, o.Config.Uplinks[0].Shared = "eth1", true
		o.Routing.Links[0].Name = "eth1"
		o.Routing.Addrs = []rules.Addr{{Device: "br-lan", Prefix: netip.MustParsePrefix("192.168.7.2/24")}}
		o.Pair = &Pair{Virtual: []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fe80::7:1")}, Device: "br-lan", Shared: []string{"fiber"},
			Keepalived: keepalived, Conntrackd: conntrackd, YieldFile: "/var/lib/uplinkd/yield"}
		if c.keepalived != "" {
			o.Pair.Keepalived = c.keepalived
		}
		if c.conntrackd != "" {
			o.Pair.Conntrackd = c.conntrackd
		}
		var got []string
		for _, f := range Examine(o) {
			if f.Check == "other-program" {
				t.Errorf("%s: %s", name, f.Cause)
			}
			if f.Check == "pair" {
				got = append(got, f.Cause)
				if f.Fix == "" {
					t.Errorf("%s: no cure for %s", name, f.Cause)
				}
			}
		}
		if len(got) != len(c.want) || len(got) > 0 && !strings.Contains(got[0], c.want[0]) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzReadBlocks(f *testing.F) {
	f.Add(exampleFile(f, "keepalived.conf"))
	f.Add(exampleFile(f, "conntrackd.conf"))
	f.Add("a { b { \"c d\" } # e\n} !f")
	f.Fuzz(func(t *testing.T, text string) {
		list, ok := readBlocks(text, "#!")
		if !ok {
			return
		}
		var count func([]block) int
		count = func(list []block) (n int) {
			for _, b := range list {
				if len(b.words) == 0 {
					t.Fatalf("a line without words of %q", text)
				}
				n += 1 + count(b.body)
			}
			return n
		}
		if words := all(list); len(words) < count(list) || len(strings.Join(words, "")) > len(text) {
			t.Fatalf("%q of %q", words, text)
		}
	})
}
