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
	for i, device := range []string{"wan1", "wan2"} {
		for _, name := range []string{"wan9", "enp3s0.7"} {
			t.Run(device+" to "+name, func(t *testing.T) { renamed(t, i+1, device, name) })
		}
	}
}

func renamed(t *testing.T, uplink int, device, name string) {
	w := staticAddresses()
	_ = w.changeLink(device, func(l *rules.Link) { l.Group = 9 })
	w.converge(t)
	w.rename(device, name)
	if from, to, ok := w.snapshot().Renamed(numbers); !ok || from != device || to != name {
		t.Fatalf("renamed from %q to %q, %v", from, to, ok)
	}
	w.obs.Recorded.RenameDevice(device, name)
	_, report := w.converge(t)
	if v := w.obs.Sysctls["net/ipv4/conf/"+name+"/src_valid_mark"]; v != "0" {
		t.Errorf("src_valid_mark of the renamed device is left at %s", v)
	}
	if link, _ := w.obs.Link(name); link.Group != 9 {
		t.Errorf("the device is left in link group %d", link.Group)
	}
	if len(report.Problems) != 0 {
		t.Errorf("problems: %v", report.Problems)
	}
	for _, r := range w.obs.Routes {
		if r.Protocol == numbers.Protocol && len(r.Nexthops) > 0 && r.Nexthops[0].Device == name {
			t.Errorf("a route of ours is left: %s", r)
		}
	}
	for _, a := range w.obs.Addrs {
		if a.Protocol == numbers.Protocol && a.Device == name {
			t.Errorf("an address of ours is left: %v", a.Prefix)
		}
	}
	w.rename(name, device)
	_, report = w.converge(t)
	if link, _ := w.obs.Link(device); link.Group != numbers.LinkGroup {
		t.Errorf("under its name again it is in link group %d", link.Group)
	}
	if info := report.Paths[rules.Path{Uplink: uplink, Family: rules.IPv4}]; !info.HasDefault || !info.HasAddress() {
		t.Errorf("under its name again: %+v", info)
	}
}
