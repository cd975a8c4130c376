package kernel_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestAHardwareAddressIsSetAndGivenBack(t *testing.T) {
	namespace(t)
	sh(t, router+"ip link set dev wan1 address 02:00:00:00:00:01")
	k := open(t)
	cfg := config()
	cfg.Uplinks[0].Hardware = netcfg.Hardware{2, 5: 0x99}
	var recorded rules.Recorded
	good := verdicts(rules.Good, rules.Good)
	before := sh(t, "ip -6 -o address show dev wan1; ip -4 route show dev wan1")
	ops := converge(t, k, cfg, &recorded, good)
	if out := sh(t, "ip -o link show dev wan1 | grep -o \"link/ether [^ ]*\"; cat /proc/sys/net/ipv4/conf/wan1/arp_notify /proc/sys/net/ipv6/conf/wan1/ndisc_notify"); out != "link/ether 02:00:00:00:00:99\n1\n1\n" {
		t.Error(out)
	}
	if after := sh(t, "ip -6 -o address show dev wan1; ip -4 route show dev wan1"); after != before {
		t.Errorf("addresses and routes of others:\n%s, before:\n%s", after, before)
	}
	for _, op := range ops { // as somebody would who reads the plan
		if _, is := op.(netcfg.SetHardware); is {
			sh(t, op.Command())
		}
	}
	converge(t, k, rules.Config{Kernel: numbers}, &recorded, nil)
	if out := sh(t, "ip -o link show dev wan1 | grep -o \"link/ether [^ ]*\""); out != "link/ether 02:00:00:00:00:01\n" {
		t.Error(out)
	}
}

func TestADeviceIsSetDownForItsHardwareAddress(t *testing.T) {
	namespace(t)
	sh(t, "ip link add wan1 type veth peer name peer1; ip link set peer1 up; ip link set wan1 up; ip address add 198.51.100.2/26 dev wan1")
	k := open(t)
	change := func(address netcfg.Hardware) error {
		op := netcfg.SetHardware{LinkHardware: netcfg.LinkHardware{Device: "wan1", Address: address, Down: true}}
		if strings.Count(op.Command(), "\n") != 2 {
			t.Error(op.Command())
		}
		return k.Apply([]netcfg.Op{op})
	}
	if err := change(netcfg.Hardware{2, 5: 0x99}); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "ip -o link show dev wan1; ip -4 -o address show dev wan1"); !strings.Contains(out, "02:00:00:00:00:99") || !strings.Contains(out, ",UP") || !strings.Contains(out, "198.51.100.2/26") {
		t.Error(out)
	}
	if err := change(netcfg.Hardware{3}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("multicast: %v", err)
	}
	if out := sh(t, "ip -o link show dev wan1"); !strings.Contains(out, ",UP") {
		t.Errorf("it stays down: %s", out)
	}
}
