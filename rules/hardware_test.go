package rules_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var (
	burnedIn = netcfg.Hardware{2, 0, 0, 0, 0, 7}
	wanted   = netcfg.Hardware{2, 0, 0, 0, 0, 0x99}
)

// insisting is a box whose first provider wants a hardware address; its addresses are our own business, and none is another's.
func insisting() *world {
	w := dual()
	w.cfg.Uplinks[0].Hardware = wanted
	w.setHardware("wan1", burnedIn)
	return w
}

func (w *world) setHardware(device string, h netcfg.Hardware) {
	_ = w.changeLink(device, func(l *rules.Link) { l.Hardware = h })
}

func (w *world) hardwareOf(device string) netcfg.Hardware {
	link, _ := w.obs.Link(device)
	return link.Hardware
}

// about lists the changes of link-layer addresses among others.
func aboutHardware(ops []netcfg.Op) (list []string) {
	for _, op := range ops {
		if _, is := op.(netcfg.SetHardware); is {
			list = append(list, op.Command())
		}
	}
	return list
}

func TestAHardwareAddressIsSetFirstAndGivenBackLast(t *testing.T) {
	w := insisting()
	ops, report := w.converge(t)
	if w.hardwareOf("wan1") != wanted || w.obs.Sysctls["net/ipv4/conf/wan1/arp_notify"] != "1" {
		t.Errorf("%v, arp_notify %s", w.hardwareOf("wan1"), w.obs.Sysctls["net/ipv4/conf/wan1/arp_notify"])
	}
	if got := codes(report); len(got) > 0 {
		t.Errorf("problems: %q", got)
	}
	set := slices.IndexFunc(ops, func(op netcfg.Op) bool { _, is := op.(netcfg.SetHardware); return is })
	for _, op := range ops[:set] {
		switch op.(type) {
		case netcfg.SetSysctl, netcfg.SetGroup:
		default:
			t.Errorf("before it is set: %s", op.Command())
		}
	}
	if got := w.obs.Recorded.Hardware["wan1"]; got != (rules.FormerHardware{Former: burnedIn, Ours: wanted}) {
		t.Errorf("recorded: %+v", got)
	}

	w.cfg.Uplinks[0].Hardware = netcfg.Hardware{2, 0, 0, 0, 0, 0x98} // a reload
	w.converge(t)
	if got := w.obs.Recorded.Hardware["wan1"]; got.Former != burnedIn || got.Ours[5] != 0x98 {
		t.Errorf("recorded after another: %+v", got)
	}
	w.cfg.Uplinks = nil // clean
	ops, _ = w.converge(t)
	if w.hardwareOf("wan1") != burnedIn || len(w.obs.Recorded.Hardware) > 0 {
		t.Errorf("%v is left, and %+v", w.hardwareOf("wan1"), w.obs.Recorded.Hardware)
	}
	given := slices.IndexFunc(ops, func(op netcfg.Op) bool { _, is := op.(netcfg.SetHardware); return is })
	for _, op := range ops[given+1:] {
		if s, is := op.(netcfg.SetSysctl); !is || !s.Restore { // arp_notify still tells of it
			t.Errorf("after it is given back: %s", op.Command())
		}
	}
}

func TestWhatHasAnotherHardwareAddressByNowKeepsIt(t *testing.T) {
	theirs := netcfg.Hardware{2, 0, 0, 0, 0, 0x55}
	for name, happens := range map[string]func(w *world){
		"somebody set one":         func(w *world) { w.setHardware("wan1", theirs) },
		"the device was made anew": func(w *world) { _ = w.changeLink("wan1", func(l *rules.Link) { l.Index, l.Hardware = 99, theirs }) },
	} {
		t.Run(name, func(t *testing.T) {
			w := insisting()
			w.converge(t)
			happens(w)
			w.cfg.Uplinks[0].Hardware = netcfg.Hardware{}
			ops, _ := w.converge(t)
			if got := aboutHardware(ops); len(got) > 0 || w.hardwareOf("wan1") != theirs {
				t.Errorf("%q, %v", got, w.hardwareOf("wan1"))
			}
		})
	}
}

func TestADeviceThatIsMadeAnewIsGivenItAgain(t *testing.T) {
	w := insisting()
	w.converge(t)
	fresh := netcfg.Hardware{2, 0, 0, 0, 0, 0x33}
	_ = w.changeLink("wan1", func(l *rules.Link) { l.Index, l.Hardware = 99, fresh })
	w.converge(t)
	if got := w.obs.Recorded.Hardware["wan1"]; w.hardwareOf("wan1") != wanted || got.Former != fresh {
		t.Errorf("%v, recorded %+v", w.hardwareOf("wan1"), got)
	}
}

func TestWhyADeviceHasNotTheHardwareAddress(t *testing.T) {
	refusal := func(err error, down bool) []*netcfg.Refusal {
		return []*netcfg.Refusal{{Op: netcfg.SetHardware{LinkHardware: netcfg.LinkHardware{Device: "wan1", Address: wanted, Down: down}}, Err: err}}
	}
	// What routers announce comes again when the device is up.
	alone := func(w *world) {
		w.dropRoutes(func(r netcfg.Route) bool {
			return len(r.Nexthops) > 0 && r.Nexthops[0].Device == "wan1" && r.Protocol != protoKernel
		})
		for i := range w.obs.Addrs {
			w.obs.Addrs[i].Dynamic = w.obs.Addrs[i].Dynamic || w.obs.Addrs[i].Device == "wan1"
		}
	}
	for _, c := range []struct {
		name    string
		happens func(w *world)
		problem string
		says    string
		command string // "": none
	}{
		{"it has none", func(w *world) { w.setHardware("wan1", netcfg.Hardware{}) }, "hardware-address-none", "PPPoE", ""},
		{"another program has it", func(w *world) { w.obs.HardwareContested = map[string]bool{"wan1": true} }, "hardware-address-contested", "02:00:00:00:00:07", ""},
		{"the kernel refuses it", func(w *world) { w.obs.RefusedDevices = refusal(syscall.EOPNOTSUPP, false) }, "hardware-address-refused", "operation not supported", ""},
		{"the driver refuses it while it is up, and nothing else would be lost", func(w *world) { alone(w); w.obs.RefusedDevices = refusal(syscall.EBUSY, false) }, "", "",
			"ip link set dev wan1 down\nip link set dev wan1 address 02:00:00:00:00:99\nip link set dev wan1 up"},
		{"the driver refuses it while it is up, and others' routes would be lost", func(w *world) { w.obs.RefusedDevices = refusal(syscall.EBUSY, false) }, "hardware-address-busy", "route 0.0.0.0/0", ""},
		{"the driver refuses it while it is up, and others' addresses would be lost", func(w *world) {
			alone(w)
			w.hold("wan1", "2001:db8:a::77/64")
			w.obs.RefusedDevices = refusal(syscall.EBUSY, false)
		}, "hardware-address-busy", "2001:db8:a::77/64", ""},
		{"it was up, and is down", func(w *world) { w.setDown("wan1"); w.obs.RefusedDevices = refusal(syscall.EBUSY, false) }, "", "", "ip link set dev wan1 address 02:00:00:00:00:99"},
		{"it is refused while it is down", func(w *world) { alone(w); w.obs.RefusedDevices = refusal(syscall.EBUSY, true) }, "hardware-address-refused", "busy", ""},
		{"another address was refused", func(w *world) {
			w.obs.RefusedDevices = []*netcfg.Refusal{{Op: netcfg.SetHardware{LinkHardware: netcfg.LinkHardware{Device: "wan1", Address: burnedIn}}, Err: errors.New("no")}}
		}, "", "", "ip link set dev wan1 address 02:00:00:00:00:99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := insisting()
			c.happens(w)
			want, report := w.plan()
			var command string
			if got := aboutHardware(netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)); len(got) > 0 {
				command = got[0]
			}
			if command != c.command {
				t.Errorf("%q, want %q", command, c.command)
			}
			at := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return strings.HasPrefix(p.Code, "hardware-address") })
			switch {
			case at < 0 && c.problem != "":
				t.Errorf("no problem: %v", report.Problems)
			case at >= 0 && (report.Problems[at].Code != c.problem || !strings.Contains(report.Problems[at].Message+report.Problems[at].Fix, c.says)):
				t.Errorf("%+v", report.Problems[at])
			}
		})
	}
}

func TestOneHardwareAddressInOneNetworkIsNamed(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *world, a, b *rules.Link)
		twice  bool
	}{
		{"two networks", func(*world, *rules.Link, *rules.Link) {}, false},
		{"one bridge", func(_ *world, a, b *rules.Link) { a.Master, b.Master = 40, 40 }, true},
		{"two bridges", func(_ *world, a, b *rules.Link) { a.Master, b.Master = 40, 41 }, false},
		{"macvlan of one device", func(_ *world, a, b *rules.Link) { a.Kind, b.Kind, a.Parent, b.Parent = "macvlan", "macvlan", 40, 40 }, true},
		{"VLANs of one device", func(_ *world, a, b *rules.Link) { a.Kind, b.Kind, a.Parent, b.Parent = "vlan", "vlan", 40, 40 }, false},
		{"one subnet", func(w *world, _, _ *rules.Link) { w.hold("wan2", "198.51.100.3/26") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := insisting()
			w.setHardware("wan2", wanted)
			at := func(name string) *rules.Link {
				return &w.obs.Links[slices.IndexFunc(w.obs.Links, func(l rules.Link) bool { return l.Name == name })]
			}
			c.change(w, at("wan1"), at("wan2"))
			_, report := w.plan()
			if got := slices.Contains(codes(report), "hardware-address-twice"); got != c.twice {
				t.Errorf("%v: %v", got, report.Problems)
			}
		})
	}
}

func TestWhoeverGivesADeviceAnotherHardwareAddressTwiceHasIt(t *testing.T) {
	w := insisting()
	w.cfg.Uplinks[0].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.2/26")}}}
	var contest rules.HardwareContest
	now := time.Unix(1e9, 0)
	look := func(after time.Duration, h netcfg.Hardware, want bool) {
		t.Helper()
		now = now.Add(after)
		w.setHardware("wan1", h)
		if got := contest.Observe(w.cfg, &w.obs, now)["wan1"]; got != want {
			t.Errorf("after %v with %v: %v", after, h, got)
		}
	}
	look(0, burnedIn, false) // before ours
	look(time.Second, wanted, false)
	look(time.Second, burnedIn, false)
	look(time.Second, wanted, false)
	look(time.Second, burnedIn, true)
	look(9*time.Minute, burnedIn, true)
	look(2*time.Minute, burnedIn, false)
	look(time.Second, wanted, false)
	look(time.Hour, burnedIn, false) // once is no dispute
	look(time.Second, wanted, false)
	look(2*time.Minute, burnedIn, false) // that was too long ago to count
	look(time.Second, wanted, false)
	_ = w.changeLink("wan1", func(l *rules.Link) { l.Index = 77 })
	look(time.Second, burnedIn, false) // made anew
	w.cfg.Uplinks[0].Hardware = netcfg.Hardware{}
	if got := contest.Observe(w.cfg, &w.obs, now); got["wan1"] {
		t.Error("nobody wants one any more")
	}
}

func TestARenamedDeviceIsGivenBackWhatItHad(t *testing.T) {
	r := rules.Recorded{Hardware: map[string]rules.FormerHardware{"eth1": {Former: burnedIn, Ours: wanted}}}
	r.RenameDevice("eth1", "wan1")
	want := map[string]rules.FormerHardware{"wan1": {Former: burnedIn, Ours: wanted}}
	if diff := gocmp.Diff(want, r.Hardware); diff != "" {
		t.Error(diff)
	}
}
