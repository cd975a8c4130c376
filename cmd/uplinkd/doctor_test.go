package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// doctor runs the command and returns what it found, and how it ended.
func (r *router) doctor(args ...string) ([]doctor.Finding, int) {
	r.Helper()
	cmd := r.program(append([]string{"doctor", "-c", r.config, "--json"}, args...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.Fatal(err)
	}
	var findings []doctor.Finding
	if err := json.Unmarshal(out, &findings); err != nil {
		r.Fatalf("%v: %s", err, out)
	}
	return findings, cmd.ProcessState.ExitCode()
}

// wantFinding looks for a finding of a check whose cause has the words, and returns it.
func wantFinding(t *testing.T, findings []doctor.Finding, check, words string) doctor.Finding {
	t.Helper()
	for _, f := range findings {
		if f.Check == check && strings.Contains(f.Cause, words) {
			if f.Fix == "" {
				t.Errorf("%s has no fix", check)
			}
			return f
		}
	}
	t.Fatalf("no finding of %s with %q: %+v", check, words, findings)
	return doctor.Finding{}
}

// sendInvalid has the router's connection tracking see a segment that can begin nothing. Without it what drops such segments is a notice
// alone, unless a stray one came by: both happen on a router that is left to itself.
func (r *router) sendInvalid() {
	r.Helper()
	conn, err := r.Host("router").ListenPacket("ip4:tcp", "127.0.0.1")
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const synFIN = 3
	segment := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, synFIN, 16, 0, 0, 0, 0, 0}
	if _, err := conn.WriteTo(segment, &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		r.Fatal(err)
	}
}

// TestTheDoctorFindsEachTrapAndIsSilentWithoutIt makes one trap after the other on a router where all is well,
// looks, takes it away, and looks again.
func TestTheDoctorFindsEachTrapAndIsSilentWithoutIt(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	root := t.TempDir()
	write := func(file, text string) {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	silent := func() {
		t.Helper()
		r.await("the router to be healthy", r.converged)
		if findings, code := r.doctor("--root", root); len(findings) != 0 || code != 0 {
			t.Fatalf("without a trap: exit code %d, %+v", code, findings)
		}
	}
	silent()
	r.sendInvalid()
	for _, trap := range []struct {
		name, host, make, unmake string
		check, cause, fix        string
		code                     int
	}{
		{"half of the Internet by a VPN", "router", "ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; ip link set vpn1 up; ip route add 0.0.0.0/1 dev vpn0; ip route add 128.0.0.0/1 dev vpn0", "ip link del vpn0",
			"vpn-bypassed", "vpn0 has routes for large parts of the Internet (0.0.0.0/1, 128.0.0.0/1)", "add an [[uplink]] with device = \"vpn0\"", 3},
		{"a VPN for what has a mark, filtered strictly", "router", "ip link add vpn0 type veth peer name vpn1; ip address add 10.9.0.1/24 dev vpn0; ip link set vpn0 up; ip link set vpn1 up; ip route add default via 10.9.0.2 dev vpn0 table 77; ip rule add pref 900 fwmark 0x77 lookup 77",
			"ip link del vpn0; ip rule del pref 900", "rp-filter", "on vpn0, which is not an uplink but the default route of table 77", "sysctl -w net.ipv4.conf.vpn0.rp_filter=2", 3},
		{"a rule among ours", "router", "ip rule add pref 10150 from 192.168.77.0/24 lookup main", "ip rule del pref 10150",
			"foreign-rules", "another program has a rule in our range of priorities (10000 to 10999): pref 10150 from 192.168.77.0/24", "ip -4 rule del pref 10150", 1},
		{"a rule before ours that takes everything", "router", "ip route add default via 198.51.100.1 dev wan1 table 77; ip rule add pref 9000 lookup 77", "ip rule del pref 9000; ip route flush table 77",
			"foreign-rules", "precedes ours and takes every packet: pref 9000", "ip -4 rule del pref 9000", 1},
		{"overlapping uplinks", "router", "ip address add 198.51.100.50/26 dev wan2", "ip address del 198.51.100.50/26 dev wan2",
			"overlapping-subnets", "two uplinks are in overlapping networks: wan1 (198.51.100.0/26) and wan2 (198.51.100.0/26)", "address range of one modem", 0},
		{"a LAN like the modem's", "router", "ip address add 203.0.113.20/28 dev lan0", "ip address del 203.0.113.20/28 dev lan0",
			"overlapping-subnets", "an uplink and a network behind this machine overlap", "renumber the LAN", 1},
		{"what is invalid is dropped", "router", "nft add table inet fw; nft 'add chain inet fw forward { type filter hook forward priority 0; }'; nft add rule inet fw forward ct state invalid drop", "nft delete table inet fw",
			"ct-invalid-drop", "nftables inet fw, chain forward", "nf_conntrack_tcp_be_liberal=1", 3},
		{"what is invalid is dropped by a map", "router", "nft add table inet fw; nft 'add chain inet fw forward { type filter hook forward priority 0; }'; nft 'add rule inet fw forward ct state vmap { established : accept, invalid : drop }'", "nft delete table inet fw",
			"ct-invalid-drop", "nftables inet fw, chain forward", "drop_invalid=0", 3},
		{"a line that loses large packets", "isp1", "nft add table ip hole; nft 'add chain ip hole f { type filter hook forward priority 0; }'; nft add rule ip hole f ip length gt 1400 drop", "nft delete table ip hole",
			"mtu-blackhole", "fiber (IPv4) silently loses packets above 1400 bytes", "ip link set dev wan1 mtu 1400", 1},
		{"probes that do not leave", "router", "nft add table inet fw; nft 'add chain inet fw output { type filter hook output priority 0; }'; nft add rule inet fw output meta mark and 0x3f000000 == 0x02000000 icmp type echo-request drop", "nft delete table inet fw",
			"probe-blocked", "blocks outgoing probes of lte (IPv4)", "meta mark and 0x3f000000 == 0x2000000 accept", 1},
		{"forwarding that is off", "router", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1",
			"forwarding", "does not forward IPv4", "net.ipv4.ip_forward=1", 3},
		{"a firewall that knows one provider", "router", "nft add table inet fw; nft 'add chain inet fw forward { type filter hook forward priority 0; policy drop; }'; nft add rule inet fw forward ct state established,related accept; nft add rule inet fw forward iifname lan0 oifname wan1 accept",
			"nft delete table inet fw", "lan-not-forwarded", "no new IPv4 connection from lan0 to lte (wan2): its hosts are offline while new traffic uses it (nftables inet fw, chain forward)",
			`nft insert rule inet fw forward iifname "lan0" oifname "wan2" accept`, 3},
	} {
		t.Run(trap.name, func(t *testing.T) {
			r.sh(trap.host, trap.make)
			unmake := sync.OnceFunc(func() { r.sh(trap.host, trap.unmake) })
			defer unmake() // the next ones have traps of their own
			r.awaitNoChange()
			findings, code := r.doctor("--root", root)
			f := wantFinding(t, findings, trap.check, trap.cause)
			if !strings.Contains(f.Fix, trap.fix) {
				t.Errorf("the fix is %q, want %q in it", f.Fix, trap.fix)
			}
			if code != trap.code {
				t.Errorf("exit code %d, want %d: %+v", code, trap.code, findings)
			}
			unmake()
			ctx := t.Context()
			if err := lab.Until(ctx, "silence", func() error {
				if findings, _ := r.doctor("--root", root); len(findings) != 0 {
					return errors.New(findings[0].Cause)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("networkd deletes foreign rules", func(t *testing.T) {
		write("run/systemd/netif/state", "")
		findings, code := r.doctor("--root", root)
		f := wantFinding(t, findings, "networkd-foreign-rules", "ManageForeignRoutingPolicyRules and ManageForeignRoutes are on")
		if code != 1 || !strings.Contains(f.Fix, `[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n`) {
			t.Errorf("%d, %q", code, f.Fix)
		}
		write("etc/systemd/networkd.conf.d/uplinkd.conf", "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n")
		silent()
	})
}

func TestTheDoctorSaysWhatAStrictFilterDropsWhereNoDaemonRuns(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN) // strict, and nothing but what a DHCP client left
	findings, code := r.doctor()
	f := wantFinding(t, findings, "rp-filter", "drops packets that arrive on lte (wan2) for 203.0.113.2")
	if code != 1 || !strings.Contains(f.Fix, "sysctl -w net.ipv4.conf.wan2.rp_filter=2") {
		t.Errorf("%d, %q", code, f.Fix)
	}
	if slices.ContainsFunc(findings, func(f doctor.Finding) bool { return strings.Contains(f.Cause, "fiber") }) {
		t.Errorf("the uplink of the default route is fine, and yet: %+v", findings)
	}
	r.sh("router", "sysctl -qw net.ipv4.conf.wan2.rp_filter=2")
	if findings, code := r.doctor(); len(findings) != 0 || code != 0 {
		t.Errorf("after the fix: %d, %+v", code, findings)
	}
	out, err := r.program("doctor", "-c", r.config, "--socket", filepath.Join(r.dir, "s"), "--quiet").Output()
	if err != nil || string(out) != fmt.Sprintf("no problems found by %d checks\n", len(doctor.Names())) {
		t.Errorf("%s, %v", out, err)
	}
}

// A device that a policy is about and a prefix that LANs wait for: who looks hears that they are not there, of the first before the start too.
func TestWhatIsNotThereIsNamed(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(dualWAN, "masquerade = true", "delegation = true", 1)+`
[[policy]]
name = "guests"
iif = ["lan0", "guest*"]
uplinks = ["lte"]
fallback = "unreachable"
`)
	const absent = "comes in on guest*, and there is no such device: its kill switch blocks nothing"
	if plan := r.command("plan", "-c", r.config); !strings.Contains(plan, "# error: policy guests selects what "+absent) {
		t.Errorf("the plan: %s", plan)
	}
	findings, _ := r.doctor("--quiet")
	if !slices.ContainsFunc(findings, func(f doctor.Finding) bool { return strings.Contains(f.Cause, absent) }) {
		t.Errorf("the doctor: %+v", findings)
	}
	r.start()
	r.awaitProblem("policy-device", absent)
	r.awaitProblem("no-delegation", "fiber has no delegated prefix, so LANs get no IPv6 from it: no DHCPv6 server answers on wan1")
}
