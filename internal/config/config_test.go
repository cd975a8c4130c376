package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/uplinkd/uplinkd/probe"
)

var update = flag.Bool("update", false, "write the messages of testdata/mistakes anew; read them before committing")

var byValue = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b probe.Target) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
var byPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// mistakes are what testdata/mistakes holds: each NAME.toml is followed by the message that it gets, NAME.err.
func mistakes(t testing.TB) map[string]*txtar.Archive {
	t.Helper()
	files, err := filepath.Glob("testdata/mistakes/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no mistakes found: %v", err)
	}
	archives := make(map[string]*txtar.Archive)
	for _, file := range files {
		if archives[file], err = txtar.ParseFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return archives
}

func TestEveryMistakeHasItsExactMessage(t *testing.T) {
	for file, archive := range mistakes(t) {
		list := archive.Files
		if len(list)%2 != 0 {
			t.Fatalf("%s: a mistake or a message is missing", file)
		}
		for i := 0; i < len(list); i += 2 {
			mistake, message := &list[i], &list[i+1]
			name, isTOML := strings.CutSuffix(mistake.Name, ".toml")
			if !isTOML || message.Name != name+".err" {
				t.Fatalf("%s: %s is followed by %s", file, mistake.Name, message.Name)
			}
			t.Run(name, func(t *testing.T) {
				got := messageFor(t, mistake.Name, mistake.Data)
				if diff := cmp.Diff(string(message.Data), got); diff != "" && !*update {
					t.Errorf("message (-want +got):\n%s", diff)
				}
				message.Data = []byte(got)
			})
		}
		if *update {
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestMistakesThatFillFiles(t *testing.T) {
	uplinks := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "[[uplink]]\nname = \"u%d\"\ndevice = \"wan%d\"\n", i, i)
		}
		return b.String()
	}
	policies := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "[[policy]]\nname = \"p%d\"\nuplinks = [\"u%d\"]\nto = \"10.%d.%d.1\"\n", i, i%2, i/256, i%256)
		}
		return b.String()
	}
	for text, want := range map[string]string{
		uplinks(64):                     "x.toml:187:1: this is uplink number 63: there can be at most 62\n",
		uplinks(60) + policies(2):       "x.toml:181:1: the policies need 2 routing tables, one for each choice of uplinks, fallback and except, and beside 60 uplinks there is room for 1: let policies have these in common\n",
		uplinks(2) + policies(501):      "x.toml:7:1: the policies change from one choice of uplinks to another 501 times, and 500 times is the most: put those with the same uplinks, fallback and except next to each other\n",
		"[daemon]\nlisten = \"\xff\"\n": "x.toml:2:11: invalid UTF-8 character in basic string\n",
	} {
		if got := messageFor(t, "x.toml", []byte(text)); got != want {
			t.Errorf("%.40q...: %s", text, cmp.Diff(want, got))
		}
	}
}

// messageFor returns the message for a file with a mistake, with a line break behind it.
func messageFor(t *testing.T, file string, data []byte) string {
	t.Helper()
	c, err := Parse(file, data)
	if err == nil {
		t.Fatal("no mistake was found")
	}
	if c != nil {
		t.Error("a configuration was returned beside the error")
	}
	checkErrors(t, file, err)
	return err.Error() + "\n"
}

func targets(texts ...string) []probe.Target {
	list := make([]probe.Target, len(texts))
	for i, text := range texts {
		if err := list[i].UnmarshalText([]byte(text)); err != nil {
			panic(err)
		}
	}
	return list
}

// checkErrors checks what every error of Parse promises.
func checkErrors(t *testing.T, file string, err error) {
	t.Helper()
	var all Errors
	if !errors.As(err, &all) || len(all) == 0 {
		t.Fatalf("%T is no Errors with a mistake in it: %v", err, err)
	}
	prev := Error{}
	for _, e := range all {
		if e.File != file || e.Line < 1 || e.Col < 1 || e.Msg == "" || strings.ContainsAny(e.Msg, "\n\r\x1b\x00") {
			t.Errorf("malformed error %#v", e)
		}
		if e.Line < prev.Line || e.Line == prev.Line && e.Col < prev.Col {
			t.Errorf("%v stands behind %v", e, prev)
		}
		prev = e
	}
	var first Error
	if !errors.As(err, &first) || first != all[0] {
		t.Errorf("the first mistake is %v, want %v", first, all[0])
	}
}

func TestAnEmptyFileMeansTheDefaults(t *testing.T) {
	want := &Config{
		Daemon: Daemon{
			StateDir: "/var/lib/uplinkd", Socket: "/run/uplinkd/uplinkd.sock", Listen: "127.0.0.1:9275", Hooks: "/etc/uplinkd/hooks.d",
		},
		Kernel: Kernel{
			Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117, MainDefault: Automatic,
			TableNames: "/etc/iproute2/rt_tables.d/uplinkd.conf",
		},
	}
	for _, text := range []string{"", "\ufeff", "# nothing\r\n", "[daemon]\n[kernel]\n"} {
		got, err := Parse("x.toml", []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got, byValue, byPrefix); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if diff := cmp.Diff(want, Default(), byValue, byPrefix); diff != "" {
		t.Errorf("Default (-want +got):\n%s", diff)
	}
}

func TestAnUplinkNeedsOnlyANameAndADevice(t *testing.T) {
	got, err := Parse("x.toml", []byte("[[uplink]]\nname = 'fiber'\ndevice = 'eth1'\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Uplink{{
		Name: "fiber", Kind: "isp", Device: "eth1", Tier: 1, Weight: 1, Enabled: true, Default: true, Failback: FailbackAfterStable,
		IPv4: IP{Method: MethodAuto, Masquerade: Automatic},
		IPv6: IP{Method: MethodAuto},
		Probe: Probe{
			Targets: targets("1.1.1.1", "8.8.8.8", "9.9.9.9",
				"2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe"),
			Interval: time.Second, FastInterval: 100 * time.Millisecond, Timeout: time.Second,
			Fall: 4, Rise: 10, MinTargetsUp: 1,
		},
		Quality: Quality{Good: Limits{150 * time.Millisecond, 30 * time.Millisecond, 0.01}, Fair: Limits{300 * time.Millisecond, 60 * time.Millisecond, 0.03}},
		DNS:     Servers{Auto: true},
		Recover: Recover{After: 5 * time.Minute, MaxPerDay: 6},
	}}
	if diff := cmp.Diff(want, got.Uplinks, byValue, byPrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[0], DefaultUplink("fiber", "eth1"), byValue, byPrefix); diff != "" {
		t.Errorf("DefaultUplink (-want +got):\n%s", diff)
	}
}

func TestALANNeedsOnlyADevice(t *testing.T) {
	const uplinks = "[[uplink]]\nname = \"fiber\"\ndevice = \"eth1\"\n[uplink.ipv6]\ndelegation = true\n" +
		"[[uplink]]\nname = \"dsl\"\ndevice = \"eth2\"\n" +
		"[[uplink]]\nname = \"lte\"\ndevice = \"eth3\"\n[uplink.ipv6]\ndelegation = true\n"
	want := []LAN{{Device: "br-lan", Advertise: true, PrefixesFrom: []string{"fiber", "lte"}, DNS: DNS{Uplinks: true}}}
	for _, text := range []string{uplinks + "[[lan]]\ndevice = \"br-lan\"\n", "[[lan]]\ndevice = \"br-lan\"\n" + uplinks} {
		got, err := Parse("x.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.LANs, byValue, byPrefix); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// A prefix that is routed by contract is as good for LANs, and for translation, as a delegated one.
func TestAPrefixThatIsRoutedCountsAsADelegation(t *testing.T) {
	got, err := Parse("x.toml", []byte("[[uplink]]\nname = \"fiber\"\ndevice = \"eth1\"\n[uplink.ipv6]\nprefix = \"2001:db8:4000::/48\"\ntranslate = true\n"+
		"[[lan]]\ndevice = \"br-lan\"\n[[lan]]\ndevice = \"br-dmz\"\nsubnet_id = 1\nprefixes_from = [\"fiber\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lan := range got.LANs {
		if !slices.Equal(lan.PrefixesFrom, []string{"fiber"}) {
			t.Errorf("%s draws on %v", lan.Device, lan.PrefixesFrom)
		}
	}
}

func TestEveryKeyIsHonoured(t *testing.T) {
	got, err := Parse("x.toml", []byte(everyKey))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&everyValue, got, byValue, byPrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Were a field at its default in the text, the comparison would prove nothing of its key.
	plain := Default()
	plain.Uplinks = []Uplink{DefaultUplink("", "")}
	same := make(map[string]bool)
	sameFields(same, "", reflect.ValueOf(*plain), reflect.ValueOf(*got))
	for field, always := range same {
		otherWord := field == ".Uplinks.Kind" || field == ".Uplinks.Enabled" || field == ".Daemon.ULA.Off" || field == ".Backup" || field == ".Waiting"
		otherFamily := strings.HasPrefix(field, ".Uplinks.IPv4.") && slices.Contains([]string{"Delegation", "PrefixHint", "Prefix", "RequestAddress", "Translate", "Share", "SixRD", "DUID", "IAID", "VendorClass", "UserClass"}, field[len(".Uplinks.IPv4."):])
		otherFamily = otherFamily || field == ".Uplinks.IPv6.NAT64"
		if always && !otherWord && !otherFamily {
			t.Errorf("%s has its default value in everyKey", field)
		}
	}
	for _, s := range sections() {
		for _, f := range s.fields {
			if !strings.Contains(everyKey, "\n"+f.name+" = ") && !strings.Contains(everyKey, "."+f.name+"]") {
				t.Errorf("%s in %s is not tried here", f.name, s.title)
			}
		}
	}
}

// sameFields notes of each field whether b has what a has; of the uplinks, whether all have.
func sameFields(same map[string]bool, path string, a, b reflect.Value) {
	for i := range a.NumField() {
		f := path + "." + a.Type().Field(i).Name
		x, y := a.Field(i), b.Field(i)
		switch {
		case f == ".Uplinks":
			for n := range y.Len() {
				sameFields(same, f, x.Index(0), y.Index(n))
			}
		case x.Kind() == reflect.Struct && x.Type().PkgPath() == reflect.TypeFor[Config]().PkgPath():
			sameFields(same, f, x, y)
		default:
			before, seen := same[f]
			same[f] = reflect.DeepEqual(x.Interface(), y.Interface()) && (before || !seen)
		}
	}
}

func TestWhatIsAllowed(t *testing.T) {
	const head = "[[uplink]]\nname = \"a\"\ndevice = \"eth1\"\n"
	for name, text := range map[string]string{
		"a listener that is off":                 "[daemon]\nlisten = \"\"\n",
		"a listener on localhost":                "[daemon]\nlisten = \"localhost:1\"\n",
		"a listener on a link-local address":     "[daemon]\nlisten = \"[fe80::1%eth0]:65535\"\n",
		"no table names":                         "[kernel]\ntable_names = \"\"\n",
		"the widest mask":                        "[kernel]\nmark_mask = \"0xffffffff\"\n",
		"the lowest mask":                        "[kernel]\nmark_mask = \"0x3f\"\n",
		"the last priority":                      "[kernel]\nrule_priority = 31766\n",
		"tables just below the system's":         "[kernel]\ntable_base = 190\n",
		"tables just above the system's":         "[kernel]\ntable_base = 256\n",
		"the last tables":                        "[kernel]\ntable_base = 2147483585\n",
		"uplinks written in line":                "uplink = [{ name = 'a', device = 'eth1', ipv4 = { method = 'dhcp' } }]\n",
		"dotted keys":                            head + "ipv4.method = \"dhcp\"\nipv4.masquerade = false\n",
		"two sticks with one address":            head + stick + strings.ReplaceAll(head+stick, "a\"\ndevice = \"eth1", "b\"\ndevice = \"eth2"),
		"static without a gateway":               head + "[uplink.ipv4]\nmethod = \"static\"\naddress = \"198.51.100.2/32\"\n",
		"static with an empty gateway":           head + "[uplink.ipv4]\nmethod = \"static\"\naddress = \"198.51.100.2/32\"\ngateway = \"\"\n",
		"a /31":                                  head + "[uplink.ipv4]\nmethod = \"static\"\naddress = \"198.51.100.0/31\"\ngateway = \"198.51.100.1\"\n",
		"a /127":                                 head + "[uplink.ipv6]\nmethod = \"static\"\naddress = \"2001:db8::/127\"\ngateway = \"2001:db8::1\"\n",
		"an IPv6 gateway that is the network":    head + "[uplink.ipv6]\nmethod = \"static\"\naddress = \"2001:db8::2/64\"\ngateway = \"2001:db8::\"\n",
		"a family that is off without targets":   head + "[uplink.ipv6]\nmethod = \"off\"\n[uplink.probe]\ntargets = [\"192.0.2.1\"]\n",
		"more targets needed than an off family": head + "[uplink.ipv6]\nmethod = \"off\"\n[uplink.probe]\ntargets = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]\nmin_targets_up = 2\n",
		"one address asked in two ways":          head + "[uplink.ipv6]\nmethod = \"off\"\n[uplink.probe]\ntargets = [\"192.0.2.1\", \"tcp://192.0.2.1:443\", \"http://192.0.2.1/a\", \"http://192.0.2.1/b\"]\n",
		"both paces the same":                    head + "[uplink.probe]\ninterval = \"100ms\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := Parse("x.toml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			checkPromises(t, cfg)
		})
	}
}

const stick = "[uplink.ipv4]\nmethod = \"static\"\naddress = \"192.0.2.100/24\"\ngateway = \"192.0.2.1\"\n"

// checkPromises checks what the doc comments of the types say of every Config that Parse returns.
func checkPromises(t *testing.T, c *Config) {
	t.Helper()
	k := c.Kernel
	ok := k.Protocol >= 5 && k.Protocol <= 255 && k.RulePriority >= 1 && k.RulePriority <= 31766 &&
		k.TableBase >= 1 && (k.TableBase+62 < 253 || k.TableBase > 255) && k.MarkMask != 0 && k.LinkGroup != 0 &&
		strings.HasPrefix(c.Daemon.Socket, "/") && strings.HasPrefix(c.Daemon.StateDir, "/") &&
		len(c.Uplinks) <= MaxUplinks
	names, devices := map[string]bool{}, map[string]bool{}
	for _, u := range c.Uplinks {
		p := u.Probe
		ok = ok && u.Name != "" && !names[u.Name] && u.Device != "" && len(u.Device) <= 15 && !devices[u.Device] &&
			keepsTunnelPromises(c, &u) && u.Tier >= 1 && u.Tier <= 255 && u.Weight >= 1 && u.Weight <= 256 &&
			(u.IPv4.Method != MethodOff || u.IPv6.Method != MethodOff) && u.IPv6.Method != MethodDHCP &&
			p.Interval >= 100*time.Millisecond && p.FastInterval >= 20*time.Millisecond &&
			p.FastInterval <= p.Interval && p.Timeout >= 150*time.Millisecond &&
			p.Fall >= 1 && p.Rise >= 1 && p.MinTargetsUp >= 1 && len(p.Targets) >= p.MinTargetsUp
		names[u.Name], devices[u.Device] = true, true
		for _, ip := range []IP{u.IPv4, u.IPv6} {
			ok = ok && ip.Address.IsValid() == (ip.Method == MethodStatic) &&
				(!ip.Gateway.IsValid() || ip.Method == MethodStatic && ip.Gateway != ip.Address.Addr() && ip.Gateway.Zone() == "")
		}
	}
	for i := range c.Policies {
		p := &c.Policies[i]
		ok = ok && p.Name != "" && (p.LeftTo == LeftToNobody || len(p.Uplinks) == 0) && (p.Fallback == FallbackDefault || p.Fallback == FallbackUnreachable) &&
			(p.Sticky == StickyFlow || p.Sticky == StickySource) && matchHolds(c, &p.Match)
		for _, tier := range p.Uplinks {
			ok = ok && len(tier) > 0 && !slices.ContainsFunc(tier, func(name string) bool { return !names[name] })
		}
	}
	for i := range c.TProxies {
		p := &c.TProxies[i]
		ok = ok && p.Name != "" && p.Port >= 1 && p.Port <= 65535 && len(p.Match.IIF) > 0 && len(p.Match.Protocols) > 0 && matchHolds(c, &p.Match)
	}
	if !ok {
		t.Errorf("a promise of the types is broken: %+v", c)
	}
}

// matchHolds checks what every condition promises.
func matchHolds(c *Config, m *Match) bool {
	ok := m.MarkMask&c.Kernel.MarkMask == 0 && m.Mark&^m.MarkMask == 0 && (len(m.UIDs) == 0 || len(m.IIF) == 0)
	for _, r := range slices.Concat(m.SPorts, m.DPorts) {
		ok = ok && r.First >= 1 && r.First <= r.Last && r.Last <= 65535 && len(m.Protocols) > 0
	}
	for _, p := range slices.Concat(m.From.Prefixes, m.To.Prefixes) {
		ok = ok && p.IsValid() && p.Bits() > 0 && p.Masked() == p
	}
	return ok
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("a file that is right", func(t *testing.T) {
		got, err := Load(write("good.toml", []byte(everyKey)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&everyValue, got.Config, byValue, byPrefix); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("a file that is wrong is named in full", func(t *testing.T) {
		path := write("bad.toml", []byte("x = 1\n"))
		_, err := Load(path)
		if err == nil || err.Error() != path+":1:1: unknown key x" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a missing file is named", func(t *testing.T) {
		path := filepath.Join(dir, "missing.toml")
		_, err := Load(path)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory is no file", func(t *testing.T) {
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a file of the largest size", func(t *testing.T) {
		if _, err := Load(write("large.toml", []byte(strings.Repeat("#", MaxSize)))); err != nil {
			t.Error(err)
		}
	})
	t.Run("a file that a power cut has emptied", func(t *testing.T) {
		for _, text := range []string{"", "\n \n"} {
			path := write("empty.toml", []byte(text))
			_, err := Load(path)
			if err == nil || !strings.HasPrefix(err.Error(), path+":1:1: the file is empty") {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
	t.Run("a file that is too large", func(t *testing.T) {
		path := write("larger.toml", []byte(strings.Repeat("#", MaxSize+1)))
		_, err := Load(path)
		want := path + ":1:1: the file is larger than 1048576 bytes: this is not a configuration of uplinkd"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestEveryExampleIsRight(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples found: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(cfg.Uplinks) == 0 {
				t.Error("an example without uplinks shows nothing")
			}
			checkPromises(t, cfg.Config)
		})
	}
}

func TestHostileTextIsReadInLinearTime(t *testing.T) {
	for name, text := range map[string]string{
		"nested lists":           "a = " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"lists nested too deep":  "a = " + strings.Repeat("[", MaxSize-4),
		"nested inline tables":   "a = " + strings.Repeat("{a=", 9000) + "1" + strings.Repeat("}", 9000),
		"a key of many parts":    strings.Repeat("a.", MaxSize/2-4) + "a = 1",
		"a header of many parts": "[" + strings.Repeat("a.", MaxSize/2-4) + "a]",
		"unknown keys on a line": "daemon = {" + strings.TrimSuffix(strings.Repeat("aaaaaaaa=1,", MaxSize/12), ",") + "}",
		"many broken lines":      strings.Repeat("=\n", MaxSize/2),
		"many sections":          strings.Repeat("[[uplink]]\n", MaxSize/11),
		"many other sections":    strings.Repeat("[[policy]]\n", MaxSize/11),
		"a section many times":   strings.Repeat("[daemon]\n", MaxSize/9),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.toml", []byte(text))
			if err == nil {
				t.Fatal("no mistake was found")
			}
			checkErrors(t, "x.toml", err)
		})
	}
}

func TestAMeteredUplinkIsAskedMoreSeldomUnlessItSaysOtherwise(t *testing.T) {
	const head = "[[uplink]]\nname = \"lte\"\ndevice = \"wwan0\"\nmetered = true\n"
	for text, want := range map[string]time.Duration{
		head:                                MeteredInterval,
		head + "[uplink.probe]\nfall = 3\n": MeteredInterval,
		head + "[uplink.probe]\ninterval = \"2s\"\n":      2 * time.Second,
		head + "[uplink.probe]\nfast_interval = \"6s\"\n": 6 * time.Second,
	} {
		c, err := Parse("test", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.Uplinks[0].Probe.Interval; got != want {
			t.Errorf("%s: interval %v, want %v", text, got, want)
		}
	}
}
