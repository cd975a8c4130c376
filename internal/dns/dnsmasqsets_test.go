package dns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

func TestDnsmasqIsToldOfTheSetsThatSomebodyNames(t *testing.T) {
	c, err := config.Parse("x", []byte(`
[dns]
dnsmasq = "/run/uplinkd/dnsmasq"
[[uplink]]
name = "fiber"
device = "eth1"
[[set]]
name = "tv"
domains = ["example.net", "*.example.org"]
[[set]]
name = "unused"
domains = ["example.com"]
[[policy]]
name = "x"
to = "@tv"
uplinks = ["fiber"]
`))
	if err != nil {
		t.Fatal(err)
	}
	const want = mine + "sets that dnsmasq fills, for conf-file of dnsmasq.\n" +
		"nftset=/example.org/4#inet#uplinkd_policy#tv4,6#inet#uplinkd_policy#tv6\n" +
		"nftset=/example.net/4#inet#uplinkd_policy#tv4,6#inet#uplinkd_policy#tv6\n"
	content := dnsmasqSets(c)
	if string(content) != want {
		t.Errorf("got\n%swant\n%s", content, want)
	}
	file := filepath.Join(t.TempDir(), "sets.conf")
	if err := tellSets(file, content); !errors.Is(err, errNobodyReads) {
		t.Errorf("without dnsmasq: %v", err)
	}
	// The real program accepts it.
	if out, err := exec.Command("dnsmasq", "--test", "-C", file).CombinedOutput(); err != nil {
		t.Errorf("dnsmasq: %v\n%s", err, out)
	}
}

// dnsmasq reads the file at its start and never again, so that whoever is older than the file has not read it.
func TestADnsmasqThatIsOlderThanItsSetsIsToBeRestarted(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, conf := filepath.Join(dir, "sets.conf"), filepath.Join(dir, "dnsmasq.conf")
	content := []byte(mine + "x\nnftset=/example.net/4#inet#uplinkd_policy#tv4\n")
	if err := errors.Join(os.WriteFile(file, content, 0o644), os.WriteFile(conf, []byte("port=0\nconf-file="+file+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dnsmasq", "-k", "-C", conf, "--pid-file=", "--user=root")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	await := func(is func(error) bool) error {
		var err error
		for range 500 {
			if err = tellSets(file, content); is(err) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return err
	}
	if err := await(func(err error) bool { return err == nil }); err != nil {
		t.Fatalf("it has read the file: %v", err)
	}
	content = append(content, "nftset=/example.org/4#inet#uplinkd_policy#tv4\n"...)
	if err := await(func(err error) bool { return errors.Is(err, errBeforeSets) }); !errors.Is(err, errBeforeSets) || !strings.Contains(err.Error(), file) {
		t.Errorf("the file has changed since: %v", err)
	}
}

// services is a systemd that has one process, restarted as told.
type services struct {
	pid       uint32
	restarted chan string
}

func (s services) GetUnitByPID(pid uint32) (dbus.ObjectPath, *dbus.Error) {
	if pid != s.pid {
		return "", dbus.NewError("org.freedesktop.systemd1.NoUnitForPID", nil)
	}
	return "/org/freedesktop/systemd1/unit/it", nil
}

func (s services) RestartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	s.restarted <- unit + " " + mode
	return "/org/freedesktop/systemd1/job/1", nil
}

func TestADnsmasqOfAServiceIsRestartedOnceForEachChange(t *testing.T) {
	bus := systemBus(t)
	own(t, bus, systemd1)
	systemd := services{77, make(chan string, 9)}
	if err := bus.Export(systemd, systemd1Path, systemd1+".Manager"); err != nil {
		t.Fatal(err)
	}
	var told []string
	engine := New(Options{OnEvent: func(e status.Event) { told = append(told, e.Message) }})
	now := time.Now()
	for _, c := range []struct {
		name, id string
		main     uint32
		early    readsTooEarly
		restarts bool
	}{
		{"of a service", "dnsmasq.service", 77, readsTooEarly{"sets.conf", now, 77}, true},
		{"the same once more", "dnsmasq.service", 77, readsTooEarly{"sets.conf", now, 77}, false},
		{"after another change", "dnsmasq.service", 77, readsTooEarly{"sets.conf", now.Add(time.Second), 77}, true},
		{"a part of another service", "libvirtd.service", 50, readsTooEarly{"sets.conf", now.Add(2 * time.Second), 77}, false},
		{"started by hand", "session-1.scope", 77, readsTooEarly{"sets.conf", now.Add(3 * time.Second), 77}, false},
		{"not known to systemd", "dnsmasq.service", 77, readsTooEarly{"sets.conf", now.Add(4 * time.Second), 78}, false},
		{"after that", "dnsmasq.service", 77, readsTooEarly{"sets.conf", now.Add(5 * time.Second), 77}, true},
	} {
		properties{"Id": c.id, "MainPID": c.main}.export(t, bus, "/org/freedesktop/systemd1/unit/it")
		before := len(told)
		err := engine.restartReader(&c.early)
		if (err == nil) != c.restarts || (len(systemd.restarted) > 0) != c.restarts || (len(told) > before) != c.restarts {
			t.Errorf("%s: %v, %d restarts, told %q", c.name, err, len(systemd.restarted), told)
		}
		if c.restarts {
			if got := <-systemd.restarted; got != "dnsmasq.service replace" {
				t.Errorf("%s: %s", c.name, got)
			}
		}
	}
	if err := engine.restartReader(errNobodyReads); !errors.Is(err, errNobodyReads) || len(systemd.restarted) > 0 {
		t.Error(err)
	}
}

// service is a systemd whose one unit is a dnsmasq.
type service struct {
	mu    sync.Mutex
	cmd   *exec.Cmd
	start func() *exec.Cmd
}

func (s *service) GetUnitByPID(uint32) (dbus.ObjectPath, *dbus.Error) {
	return "/org/freedesktop/systemd1/unit/it", nil
}

func (s *service) Get(_, name string) (dbus.Variant, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return dbus.MakeVariant(map[string]any{"Id": "dnsmasq.service", "MainPID": uint32(s.cmd.Process.Pid)}[name]), nil
}

func (s *service) RestartUnit(string, string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.cmd = s.start()
	return "/org/freedesktop/systemd1/job/1", nil
}

func (s *service) stop() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() }

// dnsmasq itself: a domain more in the configuration is read a moment later, and nothing is restarted after that.
func TestANewDomainIsReadByTheDnsmasqOfAService(t *testing.T) {
	bus := systemBus(t)
	own(t, bus, systemd1)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	parse := func(domains string) *config.Config {
		c, err := config.Parse("x.toml", fmt.Appendf(nil, "[dns]\ndnsmasq = %q\n[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n[[set]]\nname = \"tv\"\ndomains = [%s]\n[[policy]]\nname = \"x\"\nto = \"@tv\"\nuplinks = [\"fiber\"]\n", dir, domains))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	conf := filepath.Join(t.TempDir(), "dnsmasq.conf")
	if err := errors.Join(os.Chmod(filepath.Dir(conf), 0o755), os.WriteFile(conf, []byte("port=0\nconf-file="+dir+"/sets.conf\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	restarts := 0
	var messages []string
	e := New(Options{OnEvent: func(e status.Event) { messages = append(messages, e.Message) }})
	e.Configure(parse(`"example.net"`))
	s := &service{start: func() *exec.Cmd {
		restarts++
		cmd := exec.Command("dnsmasq", "-k", "-C", conf, "--pid-file=", "--user=root")
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
		return cmd
	}}
	time.Sleep(20 * time.Millisecond) // systemd knows when a process began to a hundredth of a second
	s.cmd = s.start()
	defer func() { s.mu.Lock(); defer s.mu.Unlock(); s.stop() }()
	for face, path := range map[string]dbus.ObjectPath{systemd1 + ".Manager": systemd1Path, "org.freedesktop.DBus.Properties": "/org/freedesktop/systemd1/unit/it"} {
		if err := bus.Export(s, path, face); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			e.tellSets(true)
			e.mu.Lock()
			err := e.setsErr
			e.mu.Unlock()
			if err == nil && len((&dnsmasq{file: filepath.Join(dir, "sets.conf"), asConfig: true}).readers()) == 1 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	await("at first")
	counted := func() int { s.mu.Lock(); defer s.mu.Unlock(); return restarts }
	before := counted()
	time.Sleep(50 * time.Millisecond)
	e.Configure(parse(`"example.net", "example.org"`))
	await("after another domain")
	await("and after that")
	if now := counted(); now != before+1 || len(messages) != now-1 || !strings.Contains(messages[len(messages)-1], "dnsmasq.service is restarted") {
		t.Errorf("%d restarts, %d before; told %q", now, before, messages)
	}
}
