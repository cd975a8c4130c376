package doctor

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func healthy() *Observation {
	u := rules.Uplink{ID: 1, Name: "fiber", Device: "wan1", Tier: 1, Weight: 1}
	v := rules.Uplink{ID: 2, Name: "lte", Device: "wan2", Tier: 2, Weight: 1}
	for _, u := range []*rules.Uplink{&u, &v} {
		u.IPv4.Enabled, u.IPv6.Enabled = true, true
	}
	obs := &rules.Observed{Sysctls: map[string]string{}, Links: []rules.Link{{Index: 1, Name: "wan1", Up: true, Carrier: true}, {Index: 2, Name: "wan2", Up: true, Carrier: true}}}
	return &Observation{
		Config:  rules.Config{Kernel: rules.Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117}, Uplinks: []rules.Uplink{u, v}},
		Routing: &explain.Routing{Observed: obs}, State: &netcfg.State{},
	}
}

func TestWhatMTUProbesFind(t *testing.T) {
	for name, c := range map[string]struct {
		probe MTUProbe
		want  string
	}{
		"the whole size passes":                  {MTUProbe{Answers: true, MTU: 1500, Passes: 1500}, ""},
		"nobody answers":                         {MTUProbe{MTU: 1500}, ""},
		"larger ones vanish":                     {MTUProbe{Answers: true, MTU: 1500, Passes: 1412}, "mtu-blackhole"},
		"larger ones are refused as they should": {MTUProbe{Answers: true, MTU: 1500, Passes: 576, TooBig: true}, ""},
		"the firewall says no":                   {MTUProbe{MTU: 1500, Blocked: "operation not permitted"}, "probe-blocked"},
	} {
		o := healthy()
		c.probe.Uplink, c.probe.Family, c.probe.Device = "fiber", rules.IPv4, "wan1"
		o.MTUProbes = []MTUProbe{c.probe}
		got := ""
		for _, f := range Examine(o) {
			got += f.Check
		}
		if got != c.want {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
	}
}

func TestOtherProgramsAreNamedWhereSomethingMustBeKnown(t *testing.T) {
	o := healthy()
	o.Neighbours = programs.Find(programs.Seen{Processes: []string{"conntrackd", "keepalived", "systemd-network", "dockerd"}})
	if len(o.Neighbours) != 4 {
		t.Fatalf("%+v", o.Neighbours)
	}
	found := Examine(o) // keepalived needs nothing, and checks of their own look at the other two
	if len(found) != 1 || found[0].Check != "other-program" || found[0].Severity != Notice || !strings.HasPrefix(found[0].Cause, "conntrackd is here (the process conntrackd): it copies") || found[0].Fix == "" {
		t.Errorf("%+v", found)
	}
}

func TestNetworksThatTheFirewallDoesNotForward(t *testing.T) {
	lan := func(uplinks ...string) (list []Refused) {
		for _, u := range uplinks {
			list = append(list, Refused{"lan0", u, rules.IPv4, "ip fw, chain forward"})
		}
		return list
	}
	cameras := []Refused{{"cam0", "fiber", rules.IPv4, "ip fw, chain forward"}, {"cam0", "lte", rules.IPv4, "ip fw, chain forward"}}
	for name, c := range map[string]struct {
		refused []Refused
		change  func(*Observation)
		want    int
	}{
		"all is forwarded":            {nil, nil, 0},
		"one uplink is left out":      {lan("lte"), nil, 1},
		"a network for itself":        {cameras, nil, 0},
		"one that the file names":     {cameras, func(o *Observation) { o.Config.LANs = []rules.LAN{{Device: "cam0"}} }, 2},
		"nothing is forwarded":        {append(lan("fiber", "lte"), cameras...), nil, 4},
		"an uplink of policies alone": {lan("lte"), func(o *Observation) { o.Config.Uplinks[1].PoliciesOnly = true }, 0},
		"an uplink without default": {lan("lte"), func(o *Observation) {
			o.Report.Paths[rules.Path{Uplink: 2, Family: rules.IPv4}] = rules.PathInfo{Up: true}
		}, 0},
		"a network that is down":  {lan("lte"), func(o *Observation) { o.Routing.Links[2].Up = false }, 0},
		"forwarding is off there": {lan("lte"), func(o *Observation) { o.Routing.Sysctls["net/ipv4/conf/lan0/forwarding"] = "0" }, 0},
	} {
		o := healthy()
		for i, device := range []string{"lan0", "cam0"} {
			o.Routing.Links = append(o.Routing.Links, rules.Link{Index: 3 + i, Name: device, Up: true, Carrier: true})
			o.Routing.Addrs = append(o.Routing.Addrs, rules.Addr{Device: device, Prefix: netip.MustParsePrefix([]string{"192.168.7.1/24", "192.168.8.1/24"}[i])})
		}
		o.Report.Paths = map[rules.Path]rules.PathInfo{{Uplink: 1, Family: rules.IPv4}: {Up: true, HasDefault: true}, {Uplink: 2, Family: rules.IPv4}: {Up: true, HasDefault: true}}
		o.Refused = c.refused
		if c.change != nil {
			c.change(o)
		}
		n := 0
		for _, f := range Examine(o) {
			if f.Check == "lan-not-forwarded" && f.Severity == Warning {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%s: %d findings, want %d: %+v", name, n, c.want, Examine(o))
		}
	}
}

func TestATranslatorThatCannotWork(t *testing.T) {
	o := healthy()
	line, tun := o.Config.Uplinks[1].Translate(rules.CLAT{Device: "clat-lte", Addr4: netip.MustParseAddr("192.0.0.1"), Addr6: netip.MustParseAddr("fd75:706c:696e:6b::2")})
	o.Config.Uplinks = []rules.Uplink{o.Config.Uplinks[0], line, tun}
	o.NoTranslator = "there is no tayga"
	o.RefusedTranslations = []Refused{{"clat-lte", "lte", rules.IPv6, "inet fw, chain forward"}}
	want := []Finding{
		{"clat-program", Error, `an uplink has method = "clat" and carries no IPv4: there is no tayga`, "install tayga (Debian: apt install tayga, and leave its own service off) and load the kernel module tun"},
		{"clat-refused", Error, "the firewall forwards no IPv6 from clat-lte to wan2: lte carries no IPv4, which is translated to IPv6 there (nftables inet fw, chain forward)",
			`nft insert rule inet fw forward iifname "clat-lte" oifname "wan2" accept, and the same where your firewall keeps its rules`},
	}
	if diff := cmp.Diff(want, Examine(o)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsMissingAndWhatTheDaemonSays(t *testing.T) {
	o := healthy()
	o.Missing = []MissingFeature{{"masquerading", "nft_masq", "no such file"}, {"policy rules of IPv6", "", "not supported"}}
	o.DaemonProblems = []rules.Problem{{Code: "dead-target", Severity: "warning", Message: "a target", Fix: "another"}, {Code: "kernel-feature", Severity: "error", Message: "known"}}
	want := []Finding{
		{"kernel-feature", Error, "the kernel lacks masquerading: no such file", "modprobe nft_masq; echo nft_masq >> /etc/modules-load.d/uplinkd.conf (install the distribution's kernel module package where modprobe does not find it)"},
		{"kernel-feature", Error, "the kernel lacks policy rules of IPv6: not supported", "use a kernel with it"},
		{"dead-target", Warning, "a target", "another"},
	}
	got := Examine(o)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if Worst(got) != Error || Worst(got[2:]) != Warning || Worst(nil) != "" {
		t.Errorf("worst: %q %q %q", Worst(got), Worst(got[2:]), Worst(nil))
	}
	if got := Examine(healthy()); len(got) != 0 {
		t.Errorf("a healthy router: %+v", got)
	}
}

func TestDropsOfInvalidPacketsCountWhenTheyDoHarm(t *testing.T) {
	drop := InvalidDrop{Family: "inet", Table: "fw4", Chain: "accept_to_wan", Handle: 77}
	counted := drop
	counted.Counted = true
	busy := counted
	busy.Packets = 5
	for name, c := range map[string]struct {
		change func(*Observation)
		want   Severity // "": silent
	}{
		"a rule without a counter":            {func(o *Observation) { o.Drops = []InvalidDrop{drop} }, Warning},
		"one where nothing was invalid":       {func(o *Observation) { o.Drops, o.NoneInvalid = []InvalidDrop{drop}, true }, Notice},
		"one that has dropped nothing":        {func(o *Observation) { o.Drops = []InvalidDrop{counted} }, ""},
		"one that has dropped packets":        {func(o *Observation) { o.Drops = []InvalidDrop{busy} }, Warning},
		"connection tracking that is liberal": {func(o *Observation) { o.Drops, o.Liberal = []InvalidDrop{drop}, true }, ""},
		"one uplink":                          {func(o *Observation) { o.Drops, o.Config.Uplinks = []InvalidDrop{drop}, o.Config.Uplinks[:1] }, ""},
	} {
		o := healthy()
		c.change(o)
		if got := Examine(o); Worst(got) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestNetworkdIsReadAsItReadsItself(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	state := file("")
	const off = "[Network]\nManageForeignRoutingPolicyRules = off\n"
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  *Networkd
	}{
		"not in use":    {fstest.MapFS{"etc/systemd/networkd.conf": file(off)}, nil},
		"the defaults":  {fstest.MapFS{"run/systemd/netif/state": state}, &Networkd{true, true}},
		"the main file": {fstest.MapFS{"run/systemd/netif/state": state, "etc/systemd/networkd.conf": file("# x\n[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n")}, &Networkd{false, false}},
		"another section, a comment and nonsense": {fstest.MapFS{"run/systemd/netif/state": state,
			"etc/systemd/networkd.conf": file("[DHCPv4]\nManageForeignRoutes=no\n[Network]\n#ManageForeignRoutes=no\nManageForeignRoutes=perhaps\n")}, &Networkd{true, true}},
		"a drop-in counts after the main file": {fstest.MapFS{"run/systemd/netif/state": state, "etc/systemd/networkd.conf": file(off),
			"usr/lib/systemd/networkd.conf.d/10-x.conf": file("[Network]\nManageForeignRoutingPolicyRules=yes\n")}, &Networkd{true, true}},
		"of two names the later one": {fstest.MapFS{"run/systemd/netif/state": state, "etc/systemd/networkd.conf.d/20.conf": file(off),
			"run/systemd/networkd.conf.d/10.conf": file("[Network]\nManageForeignRoutingPolicyRules=yes\n")}, &Networkd{false, true}},
		"of one name that of etc": {fstest.MapFS{"run/systemd/netif/state": state, "etc/systemd/networkd.conf.d/10.conf": file(off),
			"usr/lib/systemd/networkd.conf.d/10.conf": file("[Network]\nManageForeignRoutes=no\n")}, &Networkd{false, true}},
	} {
		got, err := ReadNetworkd(c.files)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestEveryCheckHasANameOfItsOwn(t *testing.T) {
	seen := make(map[string]bool)
	for _, name := range Names() {
		if seen[name] || name == "" || strings.ToLower(name) != name {
			t.Errorf("%q", name)
		}
		seen[name] = true
	}
}

func TestAProbeThatIsCancelledHasNoOutcome(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ProbeMTU(ctx, Path{Device: "lo", Family: rules.IPv4, Target: netip.MustParseAddr("127.0.0.1"), MTU: 1500}); err == nil {
		t.Error("a probe that was cancelled has an outcome")
	}
}

func TestTheWorstFindingDecides(t *testing.T) {
	of := func(list ...Severity) (findings []Finding) {
		for _, s := range list {
			findings = append(findings, Finding{Severity: s})
		}
		return findings
	}
	for _, c := range []struct {
		found []Finding
		want  Severity
	}{
		{nil, ""}, {of(Notice), Notice}, {of(Notice, Warning, Notice), Warning},
		{of(Warning, Error, Notice), Error},
	} {
		if got := Worst(c.found); got != c.want {
			t.Errorf("%v: %q, want %q", c.found, got, c.want)
		}
	}
}
