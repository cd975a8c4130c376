package dns

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

func serversOf(words ...string) (list []server) {
	for _, w := range words {
		addr, device, _ := strings.Cut(w, "@")
		list = append(list, server{uplink: device, Resolver: rules.Resolver{Addr: netip.MustParseAddr(addr), Device: device}})
	}
	return list
}

func TestWhatOutputsAreTold(t *testing.T) {
	servers := serversOf("192.168.8.1@wwan0", "192.168.8.1@wwan1", "fe80::1%wan1@wan1", "2001:db8::53@wan1", "192.0.2.53@wan1")
	if got := string(resolvConfOf(servers)); !strings.HasPrefix(got, "# Written by uplinkd") ||
		!strings.HasSuffix(got, ".\nnameserver 192.168.8.1\nnameserver fe80::1%wan1\nnameserver 2001:db8::53\n") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	if got := string(dnsmasqServers(servers)); !strings.HasSuffix(got,
		".\nserver=192.168.8.1@wwan0\nserver=192.168.8.1@wwan1\nserver=fe80::1%wan1\nserver=2001:db8::53@wan1\nserver=192.0.2.53@wan1\n") {
		t.Errorf("dnsmasq:\n%s", got)
	}
}

// What somebody else has put there comes back: a link as a link, a file with its mode. What was not there stays ours.
func TestAResolvConfOfOthersIsGivenBack(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		before func(path string) error
		after  func(path string) error
	}{
		"a file": {func(path string) error { return os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o640) }, func(path string) error {
			content, err := os.ReadFile(path)
			if info, _ := os.Stat(path); string(content) != "nameserver 192.0.2.1\n" || info.Mode().Perm() != 0o640 {
				return errors.New(string(content) + info.Mode().String())
			}
			return err
		}},
		"a link": {func(path string) error { return os.Symlink("elsewhere", path) }, func(path string) error {
			if link, err := os.Readlink(path); err != nil || link != "elsewhere" {
				return errors.New("no link")
			}
			return nil
		}},
		"nothing": {func(string) error { return nil }, func(path string) error {
			if content, err := os.ReadFile(path); err != nil || !strings.Contains(string(content), "nameserver 10.53.2.1\n") {
				return errors.New(string(content))
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "new", "resolv.conf")
			if name != "nothing" {
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.before(path); err != nil {
				t.Fatal(err)
			}
			saves := 0
			var kept formers
			r := &resolvConf{path, &kept, func() { saves++ }}
			for _, s := range []string{"10.53.1.1@wan1", "10.53.2.1@wan2"} {
				if err := r.tell(ctx, serversOf(s), nil); err != nil {
					t.Fatal(err)
				}
				r = &resolvConf{path, &kept, func() { saves++ }} // after a crash
			}
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.tell(ctx, serversOf("10.53.2.1@wan2"), nil); err != nil {
				t.Fatal(err)
			}
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("a file that says so already was written: %v", err)
			}
			if err := r.giveBack(ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.after(path); err != nil {
				t.Errorf("given back: %v", err)
			}
			if len(kept.kept.ResolvConf) != 0 || (saves > 0) != (name != "nothing") {
				t.Errorf("%+v, saved %d times", kept.kept, saves)
			}
		})
	}
}

func TestADnsmasqIsKnownByItsConfiguration(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755), os.WriteFile(filepath.Join(root, path), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("/etc/dnsmasq.conf", "# servers-file=/run/uplinkd/dnsmasq/servers\n")
	write("/etc/dnsmasq.d/uplinkd", " servers-file = /run/uplinkd//dnsmasq/servers \n")
	write("/etc/dnsmasq.d/README", "nothing\n")
	write("/etc/outer.conf", "conf-dir=/etc/dnsmasq.d,*.conf\n")
	write("/etc/loop.conf", "conf-file=/etc/loop.conf\n")
	write("/var/lib/libvirt/default.conf", "interface=virbr0\n")
	d := newDnsmasq("/run/uplinkd/dnsmasq")
	for line, want := range map[string]bool{
		"dnsmasq": false,
		"dnsmasq --servers-file=/run/uplinkd/dnsmasq/servers":                                                             true,
		"dnsmasq --servers-file /run/uplinkd/dnsmasq/servers":                                                             true,
		"dnsmasq --servers-file=/run/other/servers":                                                                       false,
		"dnsmasq -x /run/dnsmasq/dnsmasq.pid -u dnsmasq -7 /etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new --local-service": true,
		"dnsmasq -C /etc/outer.conf":                                                                                      true,
		"dnsmasq -C/etc/outer.conf":                                                                                       true,
		"dnsmasq --conf-file=/etc/outer.conf -k":                                                                          true,
		"dnsmasq --conf-file=/var/lib/libvirt/default.conf":                                                               false,
		"dnsmasq --conf-file=/etc/loop.conf":                                                                              false,
		"dnsmasq --conf-file=/etc/absent.conf":                                                                            false,
		"dnsmasq -C":                                                                                                      false,
	} {
		if got := d.namedBy(strings.Fields(line), root); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}

// A process that does not catch SIGHUP yet would be killed by it.
func TestOnlyAProcessThatCatchesSIGHUPIsToldByIt(t *testing.T) {
	for script, want := range map[string]bool{"trap : HUP; echo; read x": true, "trap - HUP; echo; read x": false} {
		cmd := exec.Command("env", "--default-signal=HUP", "sh", "-c", script) // nohup(1) would have it ignored for good
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		_, err := out.Read(make([]byte, 1)) // it has come so far
		if got := catchesHangup(cmd.Process.Pid); got != want || err != nil {
			t.Errorf("%s: %v, %v", script, got, err)
		}
		_ = in.Close()
		_ = cmd.Wait() // read ends it with a failure
	}
}

func TestTheForwardersOfUnboundAreRead(t *testing.T) {
	for listed, want := range map[string][]string{
		"": nil,
		"example.net. IN forward 192.0.2.9\n. IN forward 192.0.2.1 2001:db8::53\n": {"192.0.2.1", "2001:db8::53"},
		". IN forward +t 192.0.2.1@853\n":                                          {"192.0.2.1@853"},
		". IN\n. x":                                                                nil,
		"example.net. IN forward 192.0.2.9\n":                                      nil,
	} {
		if got := rootForwarders(listed); !slices.Equal(got, want) {
			t.Errorf("%q: %q", listed, got)
		}
	}
}

func TestWhatOtherProgramsHaveLearnedIsRead(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"sys/class/net/wan1/ifindex":              "7\n",
		"run/systemd/netif/links/7":               "ADMIN_STATE=configured\nDNS=192.0.2.1 2001:db8::1#dns.example.net 127.0.0.1:5353\nNTP=192.0.2.9\n",
		"run/resolvconf/interface/wan2.dhclient":  "domain example.net\nnameserver 192.0.2.2\nnameserver fe80::2%wan2\n",
		"run/resolvconf/interface/wan22.dhclient": "nameserver 192.0.2.22\n",
		"run/resolvconf/interface/tun.wg0":        "nameserver 192.0.2.3\n",
		"etc/ppp/resolv.conf":                     "nameserver 192.0.2.4\nnameserver 192.0.2.4\n",
		"var/lib/dhcp/dhclient.wan3.leases": `lease { # of a lab
  interface "wan3";
  option domain-name-servers 192.0.2.99;
  expire 4 2020/01/02 03:04:05;
}
lease {
  interface "wan3";
  option domain-name-servers 192.0.2.5,192.0.2.6;
  expire 4 2120/01/02 03:04:05;
}
`,
	} {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c := config.Default()
	for name, device := range map[string]string{"a": "wan1", "b": "wan2", "c": "wg0", "d": "ppp0", "e": "wan3", "own": "wan2", "named": "wan2"} {
		u := config.DefaultUplink(name, device)
		switch name {
		case "own":
			u.IPv4.Method, u.IPv6.Method = config.MethodDHCP, config.MethodAuto
		case "named":
			u.DNS = config.Servers{Named: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
		}
		c.Uplinks = append(c.Uplinks, u)
	}
	e := New(Options{Root: root})
	e.Configure(c)
	l := make(planinput.Learned)
	e.Learn(l)
	got := make(map[string]string)
	for name, u := range l {
		for _, r := range u.Resolvers {
			got[name] += r.Addr.String() + " of " + string(r.From) + "; "
		}
	}
	if diff := gocmp.Diff(map[string]string{
		"a": "192.0.2.1 of systemd-networkd; 2001:db8::1 of systemd-networkd; ", "b": "192.0.2.2 of resolvconf; fe80::2 of resolvconf; ", "c": "192.0.2.3 of resolvconf; ",
		"d": "192.0.2.4 of pppd; ", "e": "192.0.2.5 of dhclient; 192.0.2.6 of dhclient; ", "own": "fe80::2 of resolvconf; ",
	}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e.sources[key{"named", netip.MustParseAddr("192.0.2.7")}] != planinput.FromConfig {
		t.Errorf("%v", e.sources)
	}
	second := config.DefaultUplink("f", "ppp1")
	c2 := *c
	c2.Uplinks = append(slices.Clone(c.Uplinks), second)
	e.Configure(&c2)
	if got := e.foreign["d"]; got != nil {
		t.Errorf("of two point-to-point lines one has %v", got)
	}
}

func FuzzForeign(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\n. IN forward 192.0.2.1\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, a := range nameservers(content) {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Errorf("%v", a)
			}
		}
		for _, a := range rootForwarders(string(content)) {
			if strings.ContainsAny(a, " \n") {
				t.Errorf("%q", a)
			}
		}
	})
}
