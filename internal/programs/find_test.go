package programs_test

import (
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/programs"
)

func TestEachSignTellsItsProgram(t *testing.T) {
	for _, c := range []struct {
		name string
		seen programs.Seen
		want map[string]string // what is found, and by what
	}{
		{"nothing", programs.Seen{}, nil},
		{"a plain router", programs.Seen{Protocols: []uint8{2, 3, 4, 9, 16}, Tables: []string{"inet filter", "ip nat"}, Chains: []string{"forward", "POSTROUTING"}, Marks: []programs.Mark{{}, {1, 1}},
			Devices: []string{"lo", "eth0", "br-lan", "br-0", "wg0"}, Units: []string{"ssh.service"}, Processes: []string{"sshd", "cron"}}, nil},
		{"a process", programs.Seen{Processes: []string{"sshd", "keepalived"}}, map[string]string{"keepalived": "the process keepalived"}},
		{"a process of a longer name", programs.Seen{Processes: []string{"systemd-network"}}, map[string]string{"systemd-networkd": "the process systemd-network"}},
		{"a unit", programs.Seen{Units: []string{"wg-quick@wg0.service"}}, map[string]string{"wg-quick": "the unit wg-quick@wg0.service"}},
		{"a table", programs.Seen{Tables: []string{"inet firewalld"}}, map[string]string{"firewalld": "the nftables table inet firewalld"}},
		{"chains of iptables", programs.Seen{Chains: []string{"ufw-before-input", "LIBVIRT_FWI"}}, map[string]string{"ufw": "the chain ufw-before-input", "libvirt": "the chain LIBVIRT_FWI"}},
		{"a bridge of Docker", programs.Seen{Devices: []string{"br-0123456789ab"}}, map[string]string{"Docker": "the device br-0123456789ab"}},
		{"a tag of routes", programs.Seen{Protocols: []uint8{186}}, map[string]string{"FRR": "routes or rules of protocol 186"}},
		{"a mark", programs.Seen{Marks: []programs.Mark{{0x80000, 0xff0000}}}, map[string]string{"Tailscale": "a rule for the mark 0x80000/0xff0000"}},
		{"the same mark under another mask", programs.Seen{Marks: []programs.Mark{{0x80000, 0x80000}}}, nil},
		{"tables of old", programs.Seen{Legacy: true}, map[string]string{"iptables-legacy": "tables of iptables-legacy"}},
		{"who is known by sight alone", programs.Seen{Protocols: []uint8{99}, Devices: []string{"veth1", "lxcbr0"}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got map[string]string
			for _, f := range programs.Find(c.seen) {
				if got == nil {
					got = make(map[string]string)
				}
				got[f.Name] = f.By
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoTwoProgramsShareASign(t *testing.T) {
	names, protocols := make(map[string]bool), make(map[uint8]string)
	for _, p := range programs.Known() {
		if names[p.Name] {
			t.Errorf("%s stands there twice", p.Name)
		}
		names[p.Name] = true
		for protocol := range p.Protocols {
			if other := protocols[protocol]; other != "" {
				t.Errorf("%s and %s share protocol %d", p.Name, other, protocol)
			}
			protocols[protocol] = p.Name
		}
		for _, list := range [][]string{p.Tables, p.Chains, p.Devices, p.Units, p.Processes} {
			for _, pattern := range list {
				if _, err := path.Match(pattern, ""); err != nil {
					t.Errorf("%s: %q: %v", p.Name, pattern, err)
				}
			}
		}
		for _, process := range p.Processes {
			if len(process) > 15 { // TASK_COMM_LEN
				t.Errorf("%s: no process is called %q", p.Name, process)
			}
		}
		if p.Does == "" && (p.Answer != "" || p.Write != "") {
			t.Errorf("%s has an answer to nothing", p.Name)
		}
	}
}

func TestWhoTagsRoutes(t *testing.T) {
	for protocol, want := range map[uint8][2]string{ // who, and who of routing daemons
		2: {}, 16: {}, 117: {}, 11: {"FRR (zebra)", "FRR (zebra)"}, 12: {"BIRD", "BIRD"}, 18: {"keepalived", ""}, 84: {"OVN", ""}, 186: {"FRR (BGP)", "FRR (BGP)"},
	} {
		if got := [2]string{programs.Tagger(protocol), programs.RoutingDaemon(protocol)}; got != want {
			t.Errorf("protocol %d: %q, want %q", protocol, got, want)
		}
	}
}

func TestWhoseGuestsADeviceLeadsTo(t *testing.T) {
	for device, want := range map[string]string{
		"eth0": "", "br-lan": "", "tailscale0": "", "docker0": "Docker", "br-0123456789ab": "Docker", "br-0123456789abc": "", "virbr0": "libvirt", "vnet3": "libvirt",
		"podman1": "Podman", "lxdbr0": "LXC", "cali123": "Kubernetes", "fwbr100i0": "Proxmox VE", "fwbridge": "", "veth12": "any", "tap0": "any",
	} {
		if got := programs.OfGuests(device); got != want {
			t.Errorf("%s: %q, want %q", device, got, want)
		}
	}
}

func TestTheSettingsOfMetricsAreNamed(t *testing.T) {
	if got, want := programs.Metrics(), "systemd-networkd: RouteMetric= (netplan: route-metric); ifupdown: metric 100; dhcpcd: metric"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
