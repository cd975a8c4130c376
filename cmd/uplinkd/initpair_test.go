package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestAPairOfRoutersIsProposed has init write the files of two routers, and the real programs read them and work by them.
func TestAPairOfRoutersIsProposed(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, pairUplinks)
	// What is there on a router that becomes one of a pair: a line with a fixed address, a leased one, its address in the LAN.
	for _, m := range []*pairMember{first, second} {
		m.on("ip address add 198.51.100.2/26 dev wan1; ip route add default via 198.51.100.1 dev wan1 metric 100")
		m.on("ip address add 203.0.113.2/26 dev wan2 valid_lft 600 preferred_lft 600; ip route add default via 203.0.113.1 dev wan2 proto dhcp metric 200")
	}
	dir := filepath.Join(first.dir, "proposed")
	arguments := []string{"init", "--pair", dir, "--virtual", virtual4, "--peer", ownOfSecond}
	said := first.command(arguments...)
	for m, name := range map[*pairMember]string{first: "first", second: "second"} {
		at := filepath.Join(dir, name)
		for _, file := range []string{"uplinkd.toml", "pair.key", "keepalived.conf", "conntrackd.conf", "pair-flows", "sysctl.conf"} {
			if !strings.Contains(said, filepath.Join(at, file)+"\n") {
				t.Errorf("init does not name %s of the %s", file, name)
			}
		}
		if info, err := os.Stat(filepath.Join(at, "pair.key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
		if out, err := m.program("check", "-c", filepath.Join(at, "uplinkd.toml")).CombinedOutput(); err != nil || !strings.Contains(string(out), "fine, 2 uplinks") {
			t.Errorf("check, %s: %v\n%s", name, err, out)
		}
		if out, err := m.onOr("keepalived -t -f " + at + "/keepalived.conf"); err != nil {
			t.Errorf("keepalived, %s: %v\n%s", name, err, out)
		}
		// It reads its configuration before it asks the one that runs, of which there is none.
		conf := filepath.Join(at, "conntrackd.conf")
		text, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(m.dir, "conntrackd.proposed")
		if err := os.WriteFile(own, []byte(strings.NewReplacer("/run/conntrackd.ctl", m.dir+"/none", "/var/lock/", m.dir+"/").Replace(string(text))), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := m.onOr("conntrackd -C " + own + " -s"); err == nil || strings.Contains(out, "parsing") || !strings.Contains(out, "is conntrackd running?") {
			t.Errorf("conntrackd, %s: %v\n%s", name, err, out)
		}
		m.on("sysctl -qp " + at + "/sysctl.conf; sh -n " + at + "/pair-flows")
	}
	out, err := first.program(arguments...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is there already, and nothing is overwritten") {
		t.Errorf("%v: %s", err, out)
	}
	for _, wrong := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"--pair", dir + "2"}, "--pair needs two IPv4 addresses of the LAN"},
		{[]string{"--virtual", virtual4}, "name a directory with --pair"},
		{[]string{"--pair", dir + "2", "--virtual", virtual4, "--peer", lab.LANRouter4}, "--peer " + lab.LANRouter4 + " must be the other router's own address"},
	} {
		out, err := first.program(append([]string{"init"}, wrong.arguments...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), wrong.want) {
			t.Errorf("%v: %v %s", wrong.arguments, err, out)
		}
		if _, err := os.Stat(dir + "2"); err == nil {
			t.Errorf("%v wrote something", wrong.arguments)
		}
	}
	// They work as they are, but for the places where things are, and for whom to ask whether a line works.
	first.serveLease("203.0.113.2")
	for m, name := range map[*pairMember]string{first: "first", second: "second"} {
		m.on("ip address flush dev wan1; ip address flush dev wan2")
		here := strings.NewReplacer("/etc/uplinkd/", m.dir+"/", "/var/lib/uplinkd/", m.dir+"/state/", "/etc/conntrackd/", m.dir+"/", "/var/lock/conntrack.lock", m.dir+"/lock",
			"/run/conntrackd.ctl", m.dir+"/ctl", "[daemon]\n", "")
		for _, file := range []string{"uplinkd.toml", "pair.key", "keepalived.conf", "conntrackd.conf", "pair-flows"} {
			from := filepath.Join(dir, name, file)
			info, err := os.Stat(from)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if file == "uplinkd.toml" {
				m.configure(regexp.MustCompile(`(?m)^  # \[uplink\.probe\]\n.*$`).ReplaceAllString(here.Replace(string(text)), targets))
			} else if err := os.WriteFile(filepath.Join(m.dir, file), []byte(here.Replace(string(text))), info.Mode()); err != nil {
				t.Fatal(err)
			}
		}
	}
	first.play()
	first.awaitRole("alone")
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	for _, m := range []*pairMember{first, second} {
		if s := m.status(); len(s.Problems) > 0 {
			t.Errorf("%s has the problems %+v", m.own, s.Problems)
		}
		if out, _ := m.program("doctor", "--quiet", "-c", m.config, "--socket", filepath.Join(m.dir, "s")).CombinedOutput(); strings.Contains(string(out), " [pair]\n") {
			t.Errorf("doctor says:\n%s", out)
		}
	}
	first.await("the first plan of a primary to be in force", first.planless)
	stream, stop := first.streamFrom("lan", "192.0.2.1:7")
	first.yield(second)
	first.awaitMore(stream)
	if st := stop(); st.Lost > 0 || len(st.Moves) != 1 {
		t.Errorf("%v, by %d sources", st, len(st.Moves))
	}
	// What is wrong is seen.
	if err := os.WriteFile(filepath.Join(first.dir, "wrong.conf"), []byte("Sync {\n\tMode NOTHING {\n\t}\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := first.onOr("conntrackd -C " + first.dir + "/wrong.conf -s"); strings.Contains(out, "is conntrackd running?") {
		t.Errorf("conntrackd does not read what it is given: %s", out)
	}
}
