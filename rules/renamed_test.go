package rules_test

import (
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// rename gives a device another name, with all that hangs on it.
func (w *world) rename(from, to string) {
	_ = w.changeLink(from, func(l *rules.Link) { l.Name = to })
	for i := range w.obs.Addrs {
		if w.obs.Addrs[i].Device == from {
			w.obs.Addrs[i].Device = to
		}
	}
	for i := range w.obs.Routes {
		for n := range w.obs.Routes[i].Nexthops {
			if hop := &w.obs.Routes[i].Nexthops[n]; hop.Device == from {
				hop.Device = to
			}
		}
	}
	for _, key := range sysctlKeys {
		w.obs.Sysctls["net/ipv4/conf/"+to+"/"+key] = w.obs.Sysctls["net/ipv4/conf/"+from+"/"+key]
		delete(w.obs.Sysctls, "net/ipv4/conf/"+from+"/"+key)
	}
}

func TestADeviceThatIsRenamedIsGivenBackAndNobodyIsAccused(t *testing.T) {
	w := staticAddresses()
	_ = w.changeLink("wan1", func(l *rules.Link) { l.Group = 9 })
	w.converge(t)
	w.rename("wan1", "wan9")
	if from, to, ok := w.snapshot().Renamed(numbers); !ok || from != "wan1" || to != "wan9" {
		t.Fatalf("renamed from %q to %q, %v", from, to, ok)
	}
	w.obs.Recorded.Follow("wan1", "wan9")
	_, report := w.converge(t)
	if v := w.obs.Sysctls["net/ipv4/conf/wan9/src_valid_mark"]; v != "0" {
		t.Errorf("src_valid_mark of the renamed device is left at %s", v)
	}
	if link, _ := w.obs.Link("wan9"); link.Group != 9 {
		t.Errorf("the device is left in link group %d", link.Group)
	}
	if len(report.Problems) != 0 {
		t.Errorf("problems: %v", report.Problems)
	}
	for _, r := range w.obs.Routes {
		if r.Protocol == numbers.Protocol && len(r.Nexthops) > 0 && r.Nexthops[0].Device == "wan9" {
			t.Errorf("a route of ours is left: %s", r)
		}
	}
	for _, a := range w.obs.Addrs {
		if a.Protocol == numbers.Protocol && a.Device == "wan9" {
			t.Errorf("an address of ours is left: %v", a.Prefix)
		}
	}
	w.rename("wan9", "wan1")
	_, report = w.converge(t)
	if link, _ := w.obs.Link("wan1"); link.Group != numbers.LinkGroup {
		t.Errorf("under its name again it is in link group %d", link.Group)
	}
	if facts := report.Facts[rules.Path{Uplink: 1, Family: rules.IPv4}]; !facts.HasDefault || !facts.HasAddress() {
		t.Errorf("under its name again: %+v", facts)
	}
}

func TestADeviceThatSomebodyElsePutIntoOurLinkGroupIsNamed(t *testing.T) {
	w := dual()
	w.plug(rules.Link{Name: "dmz0", Up: true, Carrier: true, Group: numbers.LinkGroup})
	_, report := w.converge(t)
	if len(report.Problems) != 1 || report.Problems[0].Code != "foreign-link-group" {
		t.Errorf("problems: %v", report.Problems)
	}
}
