//go:build vm

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// campusPool is what the campus's provider delegates from.
var campusPool = netip.MustParsePrefix("2001:db8:d000::/48")

// dormitory is the usual world, whose router is the dormitory's, and behind its Internet a campus with the lab's router:
//
//	[router] wan1, wan2 ... [inet] ── [campus] down0 ── br-wan [lab]
type dormitory struct {
	*router
	campus, lab string // their namespaces
	labClient   *api.Client
	labProcess  *exec.Cmd
	labLog      *bytes.Buffer
	labConfig   string
}

func newDormitory(t *testing.T) *dormitory {
	t.Helper()
	r := newRouter(t, lab.Options{}, "")
	d := &dormitory{router: r, campus: "campus", lab: "labside", labClient: api.Dial(filepath.Join(r.dir, "lab", "s"))}
	t.Cleanup(func() {
		d.killLab()
		_, _ = d.try("ip netns delete campus; ip netns delete labside")
	})
	d.host(fmt.Sprintf(`
		for n in campus labside; do ip netns add $n; ip -n $n link set lo up; done
		ip link add tocampus netns %[1]s type veth peer name up0 netns campus
		ip -n %[1]s address add 192.0.2.225/30 dev tocampus; ip -n %[1]s link set tocampus up
		ip -n %[1]s route add 192.0.2.192/28 via 192.0.2.226
		ip -n campus address add 192.0.2.226/30 dev up0; ip -n campus link set up0 up
		ip -n campus route add default via 192.0.2.225
		ip link add down0 netns campus type veth peer name port0 netns labside
		ip -n campus address add 192.0.2.193/28 dev down0
		ip netns exec campus sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.down0.accept_dad=0
		ip -n campus -6 address add 2001:db8:c::1/64 dev down0 nodad
		ip -n campus -6 address add 2001:db8:cafe::1/128 dev lo nodad
		ip -n campus link set down0 up
		ip netns exec campus sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip -n labside link add br-wan type bridge; ip -n labside link set port0 master br-wan
		ip -n labside link set port0 up; ip -n labside link set br-wan up
		ip netns exec labside sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`, r.Host("inet").Namespace()))
	d.provide()
	d.configureBoth()
	return d
}

// try runs a script in the namespace of the test.
func (d *dormitory) try(script string) (string, error) {
	out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput()
	return string(out), err
}

func (d *dormitory) host(script string) string {
	d.Helper()
	out, err := d.try(script)
	if err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	return out
}

// serveCampus runs a program of the campus's provider until the test ends.
func (d *dormitory) serveCampus(name string, args ...string) {
	d.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", d.campus, name}, args...)...)
	log := new(safeBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if d.Failed() {
			d.Logf("%s:\n%s", name, log.String())
		}
	})
}

// provide starts router advertisements and prefix delegation on the campus's segment.
func (d *dormitory) provide() {
	d.Helper()
	dir := d.scratch("campus-")
	d.write(filepath.Join(dir, "radvd"), "interface down0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 5; prefix 2001:db8:c::/64 { }; };\n")
	d.serveCampus("radvd", "-n", "-C", filepath.Join(dir, "radvd"), "-p", filepath.Join(dir, "radvd.pid"), "-m", "stderr")
	d.write(filepath.Join(dir, "kea"), fmt.Sprintf(`{"Dhcp6": { "interfaces-config": {"interfaces": ["down0"]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0003", "persist": false},
		"renew-timer": 600, "rebind-timer": 1200, "preferred-lifetime": 1800, "valid-lifetime": 3600,
		"subnet6": [{"subnet": "2001:db8:c::/64", "interface": "down0",
			"pd-pools": [{"prefix": "%v", "prefix-len": %d, "delegated-len": 56}]}]}}`, campusPool.Addr(), campusPool.Bits()))
	d.serveCampus("env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp6", "-c", filepath.Join(dir, "kea"))
}

// configureBoth gives both routers their examples, with keys of this test.
func (d *dormitory) configureBoth() {
	d.Helper()
	if err := os.Mkdir(filepath.Join(d.dir, "lab"), 0o700); err != nil { // of two daemons that start in one directory, one is refused
		d.Fatal(err)
	}
	keys := make(map[string]string)
	for _, side := range []string{"lab", "dormitory"} { // the file of the one who is spoken to by it
		file := filepath.Join(d.dir, side+".key")
		keys[side] = strings.TrimSpace(d.host("umask 077; wg genkey | tee " + file + " | wg pubkey"))
	}
	for _, e := range []struct{ example, key, peer, config, socket, state string }{
		{"dormitory.toml", "lab", keys["dormitory"], d.config, "s", "state"},
		{"lab-side.toml", "dormitory", keys["lab"], filepath.Join(d.dir, "lab.toml"), "lab/s", "lab-state"},
	} {
		text, err := os.ReadFile(filepath.Join(examples, e.example))
		if err != nil {
			d.Fatal(err)
		}
		s := strings.ReplaceAll(string(text), "/etc/uplinkd/"+e.key+".key", filepath.Join(d.dir, e.key+".key"))
		s = strings.NewReplacer(`"eth1"`, `"wan1"`, `"wwan0"`, `"wan2"`, `"br-lan"`, `"lan0"`).Replace(s)
		// An emulated machine stands still for longer than any line is silent.
		s = strings.ReplaceAll(s, "[uplink.probe]\n", "[uplink.probe]\n  timeout = \"5s\"\n  fast_interval = \"200ms\"\n  fall = 12\n  rise = 2\n")
		for _, placeholder := range []string{"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "VLQKDhBUvRtDtDgiUfKx8bMuQTJWa0UKG0m2vw0vB3E="} {
			s = strings.ReplaceAll(s, placeholder, e.peer)
		}
		d.write(e.config, fmt.Sprintf("[daemon]\nstate_dir = %q\nsocket = %q\nlisten = \"\"\n[kernel]\ntable_names = \"\"\n%s",
			filepath.Join(d.dir, e.state), filepath.Join(d.dir, e.socket), s))
	}
	d.labConfig = filepath.Join(d.dir, "lab.toml")
}

func (d *dormitory) launchLab() {
	d.Helper()
	self, err := os.Executable()
	if err != nil {
		d.Fatal(err)
	}
	d.labLog = new(bytes.Buffer)
	d.labProcess = exec.Command("ip", "netns", "exec", d.lab, self, "run", "--log", "debug", "-c", d.labConfig)
	d.labProcess.Env = append(os.Environ(), actAsProgram+"=1")
	d.labProcess.Stdout, d.labProcess.Stderr = d.labLog, d.labLog
	d.labProcess.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.labProcess.Start(); err != nil {
		d.Fatal(err)
	}
}

func (d *dormitory) killLab() {
	if d.labProcess == nil {
		return
	}
	_ = d.labProcess.Process.Kill()
	_ = d.labProcess.Wait()
	d.labProcess = nil
	if d.Failed() {
		d.Logf("the lab side's log:\n%s", d.labLog)
	}
}

// awaitUplink waits until an uplink's state is one of those.
func (d *dormitory) awaitUplink(name string, states ...uplink.State) {
	d.Helper()
	d.awaitState(name, states...)
}

// hostAddress waits for the LAN host to have an address of the campus's delegation, and routes the delegation to the
// dormitory's end of the tunnel, as the provider's own server would.
func (d *dormitory) awaitPrefix() netip.Addr {
	d.Helper()
	var address netip.Addr
	d.await("the LAN host to have an address of the delegation", func() error {
		for _, a := range d.holds(campusPool) {
			if !a.Deprecated {
				address = a.Local
				return nil
			}
		}
		return errors.New("it has none")
	})
	fields := strings.Fields(d.sh("router", "ip -6 -o address show dev gre1 scope link"))
	at := slices.Index(fields, "inet6")
	if at < 0 {
		d.Fatalf("the tap has no link-local address: %q", fields)
	}
	next, _, _ := strings.Cut(fields[at+1], "/")
	d.host(fmt.Sprintf("ip -n campus -6 route replace %v via %s dev down0", campusPool, next))
	return address
}

// reach has the LAN host reach the IPv6 Internet by the delegation, in all the ways that matter.
func (d *dormitory) reach(address netip.Addr) {
	d.Helper()
	ping := func(host, from, to, size string) func() error {
		return func() error {
			script := fmt.Sprintf("ping -6 -n -c 1 -W 2 -s %s %s %s", size, from, to)
			var out string
			var err error
			if host == d.campus {
				out, err = d.try("ip netns exec campus " + script)
			} else {
				out, err = d.Host(host).Run("sh", "-c", script)
			}
			if err != nil {
				return fmt.Errorf("%s: %w: %s", script, err, out)
			}
			return nil
		}
	}
	from := "-I " + address.String()
	d.await("an answer from the IPv6 Internet", ping("lan", from, "2001:db8:cafe::1", "56"))
	d.await("an answer to 1500 bytes", ping("lan", from, "2001:db8:cafe::1", "1452"))
	d.await("an answer to 1500 bytes from outside", ping(d.campus, "", address.String(), "1452"))
	d.await("an answer by the provider's own address", ping("router", "-I 2001:db8:a::2", "2001:db8:ffff::1", "56"))
}

// gaps pings from the LAN host ten times a second, and returns the longest silence when the returned function is called.
func (d *dormitory) gaps(address netip.Addr) func() time.Duration {
	d.Helper()
	var out safeBuffer
	cmd := d.Host("lan").Command(context.Background(), "ping", "-6", "-n", "-D", "-i", "0.1", "-I", address.String(), "2001:db8:cafe::1")
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		d.Fatal(err)
	}
	return func() time.Duration {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		var longest, last float64
		for line := range strings.Lines(out.String()) {
			stamp, _, ok := strings.Cut(strings.TrimPrefix(line, "["), "]")
			at, err := strconv.ParseFloat(stamp, 64)
			if !ok || err != nil {
				continue
			}
			if last > 0 {
				longest = max(longest, at-last)
			}
			last = at
		}
		return time.Duration(longest * float64(time.Second))
	}
}

func (d *dormitory) awaitCarrier(name string) {
	d.Helper()
	d.await("the underlay to be "+name, func() error {
		for _, u := range d.status().Uplinks {
			if u.Name == "campus6" && !slices.Equal(u.CarriedBy, []string{"lab", name}) {
				return fmt.Errorf("campus6 is carried by %q", u.CarriedBy)
			}
		}
		return nil
	})
}

func TestVMADormitoryHasThePrefixOfALabElsewhere(t *testing.T) {
	d := newDormitory(t)
	d.listen()
	d.launchLab()
	d.start()
	d.awaitUplink("campus6", uplink.Init, uplink.Up, uplink.Degraded)
	address := d.awaitPrefix()
	d.reach(address)
	d.awaitCarrier("fiber")
	d.awaitUplink("campus6", uplink.Up, uplink.Degraded)

	longest := d.gaps(address)
	broken := time.Now()
	if err := d.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	d.awaitCarrier("lte")
	t.Logf("the underlay moved %v after its provider died", time.Since(broken).Round(time.Millisecond))
	d.await("answers again", func() error {
		_, err := d.Host("lan").Run("ping", "-6", "-n", "-c", "1", "-W", "1", "-I", address.String(), "2001:db8:cafe::1")
		return err
	})
	t.Logf("the longest silence over the tap was %v", longest().Round(time.Millisecond))
	if again := d.awaitPrefix(); again != address {
		t.Errorf("the host's address has changed from %v to %v", address, again)
	}
	longest = d.gaps(address)
	if err := d.Heal(); err != nil {
		t.Fatal(err)
	}
	d.awaitCarrier("fiber")
	d.reach(address)
	t.Logf("the longest silence while it returned was %v", longest().Round(time.Millisecond))
	for _, e := range d.decisions() {
		if e.Kind == api.EventLease && strings.Contains(e.Message, "lost") {
			t.Errorf("a lease was lost: %+v", e)
		}
	}

	// Both routers lose everything that lives in their kernels, in either order.
	for _, first := range []string{"lab", "dormitory"} {
		d.killLab()
		d.kill()
		d.host("ip -n labside link delete op2-gre1; ip -n labside link delete wg0")
		d.sh("router", "ip link delete gre1; ip link delete wg0; ip rule flush; ip -6 rule flush; ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main; nft delete table inet uplinkd")
		if first == "lab" {
			d.launchLab()
			d.start()
		} else {
			d.start()
			d.launchLab()
		}
		d.awaitUplink("campus6", uplink.Init, uplink.Up, uplink.Degraded)
		d.awaitPrefix()
		d.reach(address)
	}
}
