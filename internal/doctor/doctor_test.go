package doctor

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func healthy() *Observation {
	u := rules.Uplink{ID: 1, Name: "fiber", Device: "wan1", Tier: 1, Weight: 1}
	v := rules.Uplink{ID: 2, Name: "lte", Device: "wan2", Tier: 2, Weight: 1}
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

func TestWhatIsMissingAndWhatTheDaemonSays(t *testing.T) {
	o := healthy()
	o.Missing = []MissingFeature{{"masquerading", "nft_masq", "no such file"}, {"policy rules of IPv6", "", "not supported"}}
	o.DaemonProblems = []rules.Problem{{Code: "dead-target", Severity: "warning", Message: "a target", Fix: "another"}, {Code: "kernel-feature", Severity: "error", Message: "known"}}
	want := []Finding{
		{"kernel-feature", Error, "the kernel cannot do masquerading: no such file", "modprobe nft_masq; echo nft_masq >> /etc/modules-load.d/uplinkd.conf (install the distribution's kernel module package where modprobe does not find it)"},
		{"kernel-feature", Error, "the kernel cannot do policy rules of IPv6: not supported", "use a kernel that has it"},
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
		want   int
	}{
		"a rule without a counter":            {func(o *Observation) { o.Drops = []InvalidDrop{drop} }, 1},
		"one that has dropped nothing":        {func(o *Observation) { o.Drops = []InvalidDrop{counted} }, 0},
		"one that has dropped packets":        {func(o *Observation) { o.Drops = []InvalidDrop{busy} }, 1},
		"connection tracking that is liberal": {func(o *Observation) { o.Drops, o.Liberal = []InvalidDrop{drop}, true }, 0},
		"one uplink":                          {func(o *Observation) { o.Drops, o.Config.Uplinks = []InvalidDrop{drop}, o.Config.Uplinks[:1] }, 0},
	} {
		o := healthy()
		c.change(o)
		if got := Examine(o); len(got) != c.want {
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
