package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/uplink"
)

const examples = "../../examples"

// hereDocument finds the nftables table in a plan.
var hereDocument = regexp.MustCompile(`(?s)nft -f - <<'EOF'\n(.*?)\nEOF\n`)

// TestEveryExampleIsPlannedAndThePlanIsWhatTheToolsAccept makes the devices of an example on a router,
// plans for them, and gives the printed plan to a shell.
func TestEveryExampleIsPlannedAndThePlanIsWhatTheToolsAccept(t *testing.T) {
	t.Parallel()
	checkExamples(t, false)
}

// checkExamples checks the examples. WireGuard and GRE are in the kernel of the virtual machine only, where the examples
// that have them are carried out.
func checkExamples(t *testing.T, inVM bool) {
	files, err := filepath.Glob(filepath.Join(examples, "*.toml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		c, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if inVM && !hasTunnels(c.Config) {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			r := newRouter(t, lab.Options{}, "")
			r.sh("router", "ip address flush dev wan1; ip address flush dev wan2") // examples have the same addresses
			for i := range c.Uplinks {
				if c.Uplinks[i].Kind == config.KindISP { // the daemon makes tunnels itself
					if slices.ContainsFunc(c.Tunnels, func(t config.Tunnel) bool { return t.Bridge == c.Uplinks[i].Device }) {
						r.sh("router", fmt.Sprintf("ip link add %s type bridge", c.Uplinks[i].Device))
					}
					r.sh("router", deviceOf(&c.Uplinks[i], i))
				}
			}
			if c.Pair.On() { // the example is planned for the primary
				r.sh("router", fmt.Sprintf("ip link add %[1]s type bridge; ip link set %[1]s up; ip address add %[2]v/24 dev %[1]s", c.Pair.Device, c.Pair.Virtual[0]))
			}
			plan := r.command("plan", "-c", r.example(file))
			for _, u := range c.Uplinks {
				// A DHCP client that does not run has no lease, and a translator that does not run no device.
				if u.Kind == config.KindISP && u.IPv4.Method != config.MethodDHCP && u.IPv4.Method != config.MethodCLAT && !regexp.MustCompile(`(?m)^ip -4 route replace default .*dev `+u.Device+` table 117`).MatchString(plan) {
					t.Errorf("no default route of %s", u.Name)
				}
			}
			if strings.Contains(plan, "# error") {
				t.Error("the plan shows a problem")
			}
			table := hereDocument.FindStringSubmatch(plan)
			if table == nil {
				t.Fatalf("no nftables table in\n%s", plan)
			}
			check := r.Host("router").Command(t.Context(), "nft", "-c", "-f", "-")
			check.Stdin = strings.NewReader(table[1])
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("nft -c: %v\n%s\n%s", err, out, table[1])
			}
			if hasTunnels(c.Config) && !inVM {
				return
			}
			r.sh("router", "exec >/dev/null\n"+plan)
			// Addresses that a shell has set are not ours, for they do not carry our number.
			for _, line := range strings.Split(strings.TrimSpace(r.command("plan", "-c", r.example(file))), "\n") {
				if !strings.HasPrefix(line, "#") && !strings.Contains(line, " address add ") {
					t.Errorf("after all of the plan was carried out, another one wants: %s", line)
				}
			}
			if t.Failed() {
				t.Logf("the plan:\n%s", plan)
			}
		})
	}
}

// hasTunnels reports whether a configuration needs a kind of device that not every kernel of a test has: VXLAN they have.
func hasTunnels(c *config.Config) bool {
	return len(c.Tunnels) > 0 || slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.Kind != config.KindISP && u.Kind != encap.VXLAN })
}

// keyFiles finds the files of keys in a configuration.
var keyFiles = regexp.MustCompile(`(private|preshared)_key_file = "[^"]*"`)

// example is a copy of an example that keeps its state in the test's directory.
func (r *router) example(file string) string {
	r.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		r.Fatal(err)
	}
	key := filepath.Join(r.dir, "key")
	if err := os.WriteFile(key, []byte("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="), 0o600); err != nil {
		r.Fatal(err)
	}
	text = keyFiles.ReplaceAll(text, fmt.Appendf(nil, "${1}_key_file = %q", key))
	section := fmt.Sprintf("[daemon]\nstate_dir = %q\nhooks = \"\"\n", filepath.Join(r.dir, "state"))
	before, after, has := strings.Cut(string(text), "[daemon]\n")
	if !has {
		before, after = "", string(text)
	}
	if err := os.WriteFile(r.config, []byte(before+section+after), 0o600); err != nil {
		r.Fatal(err)
	}
	return r.config
}

// deviceOf makes the device of an uplink, and with method "auto" what other programs would have set up.
func deviceOf(u *config.Uplink, i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "if [ -e /sys/class/net/%[1]s ]; then ip link add near%[2]d type veth peer name far%[2]d; ip link set near%[2]d master %[1]s up\n"+
		"else ip link add %[1]s type veth peer name far%[2]d; fi; ip link set %[1]s up; ip link set far%[2]d up\n", u.Device, i)
	if u.IPv4.Method == config.MethodAuto {
		fmt.Fprintf(&b, "ip address add 198.51.100.%d/30 dev %s\n", 194+4*i, u.Device)
		fmt.Fprintf(&b, "ip route add default via 198.51.100.%d dev %s metric %d\n", 193+4*i, u.Device, 1000+i)
	}
	if u.IPv6.Method == config.MethodAuto {
		fmt.Fprintf(&b, "ip address add 2001:db8:e%d::2/64 dev %s nodad\n", i, u.Device)
		fmt.Fprintf(&b, "ip -6 route add default via fe80::1 dev %s metric %d\n", u.Device, 1000+i)
	}
	return b.String()
}

// TestTheServicesOfSystemdAreSome lets systemd itself read the units, which it does tolerantly: what it
// does not know is a warning, and an error here.
func TestTheServicesOfSystemdAreSome(t *testing.T) {
	for _, service := range []struct{ unit, command string }{{"uplinkd.service", "run $UPLINKD_OPTIONS"}, {"uplinkd-guard.service", "guard"}} {
		t.Run(service.unit, func(t *testing.T) { isService(t, service.unit, service.command) })
	}
}

func isService(t *testing.T, unit, command string) {
	text, err := os.ReadFile(filepath.Join(examples, unit))
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/sbin/uplinkd"
	if !strings.Contains(string(text), "ExecStart="+program+" "+command+"\n") {
		t.Fatalf("it does not start %s, where make install puts it", program)
	}
	verify := func(text string) (string, error) {
		unit := filepath.Join(t.TempDir(), "uplinkd.service")
		if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
		return string(out), err
	}
	installed := strings.ReplaceAll(string(text), program, "/bin/true") // it has to exist
	if out, err := verify(installed); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := verify(strings.Replace(installed, "Type=", "Tpye=", 1)); err == nil {
		t.Errorf("this check would not find a mistake: %s", out)
	}
}

// launchConfined starts the daemon with the capabilities of its unit, and waits for nothing.
func (r *router) launchConfined() {
	r.Helper()
	unit, err := os.ReadFile(filepath.Join(examples, "uplinkd.service"))
	if err != nil {
		r.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)
	if found == nil {
		r.Fatal("the unit has no CapabilityBoundingSet")
	}
	bounding := "-all"
	for _, word := range strings.Fields(string(found[1])) {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(word, "CAP_"))
	}
	program := r.program("run", "-c", r.config)
	confined := r.Host("router").Command(context.Background(), "setpriv", append([]string{"--bounding-set", bounding, "--inh-caps", "-all"},
		program.Args[len(program.Args)-4:]...)...)
	confined.Env = program.Env
	r.launchCommand(confined)
}

// TestTheCapabilitiesOfTheServiceAreEnough runs the daemon with no more of root's rights than the unit
// gives it: for everything that it does in the kernel, and for a lease that is renewed from port 68.
func TestTheCapabilitiesOfTheServiceAreEnough(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dhcpFiber)
	r.amend("socket_group = \"nogroup\"\nhooks = \"\"\n")
	r.serve()
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	r.sh("isp1", `nft 'table inet watch { counter renewed { }; chain input { type filter hook input priority 0;
		ip daddr 198.51.100.1 udp dport 67 counter name renewed; }; }'`)
	server := r.serveDHCP("198.51.100.2", 10)

	r.launchConfined()
	r.await("the daemon to converge", r.converged)
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if s := r.status(); len(s.Problems) != 0 {
		t.Errorf("%+v", s.Problems)
	}
	if info, err := os.Stat(filepath.Join(r.dir, "s")); err != nil || info.Sys().(*syscall.Stat_t).Gid != 65534 {
		t.Errorf("the socket is not of its group: %+v, %v", info, err)
	}
	stream, _ := r.streamFrom("lan", "192.0.2.1:7")
	r.awaitCount(server, "DHCPACK", 2)
	if out := r.sh("isp1", "nft list counter inet watch renewed"); strings.Contains(out, "packets 0 ") {
		t.Errorf("the renewal was not sent to the server alone:\n%s", out)
	}
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.await("the stream to be moved", func() error {
		if over := stream.Over(); over[len(over)-1] != "lte" {
			return fmt.Errorf("over %v", over)
		}
		return nil
	})
	r.stop()
	if log := r.log.String(); strings.Contains(log, "permission") || strings.Contains(log, "not permitted") || strings.Contains(log, "level=WARN") {
		t.Errorf("the daemon missed something:\n%s", log)
	}
}
