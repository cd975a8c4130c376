package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestWhatNetworkManagerLearnsIsUsed has NetworkManager itself configure fiber by DHCP, which names a DNS server. It sees the /run that
// the daemon sees, which is not the machine's.
func TestWhatNetworkManagerLearnsIsUsed(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	resolvConf := filepath.Join(r.dir, "resolv.conf")
	r.configure(fmt.Sprintf("[dns]\nresolv_conf = %q\n", resolvConf) + dualWAN)
	newNameServer(r, "fiber", "10.53.1.1", "192.0.2.11")
	fiber := r.Uplink("fiber")
	r.background("isp1", "dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface=cust1", "--bind-interfaces", "--dhcp-authoritative",
		"--dhcp-leasefile="+r.dir+"/leases", fmt.Sprintf("--dhcp-range=%v,%[1]v,1h", fiber.Address4.Addr()), fmt.Sprintf("--dhcp-option=3,%v", fiber.Gateway4), "--dhcp-option=6,10.53.1.1")
	script := filepath.Join(r.dir, "nm.sh")
	text := fmt.Sprintf(`#!/bin/sh -e
mount -t tmpfs tmpfs /run
mkdir /run/NetworkManager
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/NetworkManager
mount -o remount,ro,bind /sys
exec %s
`, strings.Join(r.networkManager("wan1"), " "))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	r.sh("router", "ip addr flush dev wan1; ip link set wan1 down") // else it takes over what is there, as it is
	manager, _, _ := r.background("router", script)
	r.await("a lease", func() error {
		if out := r.sh("router", "ip -4 route show default dev wan1"); !strings.Contains(out, "proto dhcp") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	daemon := r.program("run", "--log", "debug", "-c", r.config)
	daemon.Args = append([]string{"nsenter", "-t", fmt.Sprint(manager.Process.Pid), "-m", "-n"}, daemon.Args[len(daemon.Args)-6:]...)
	var err error
	if daemon.Path, err = exec.LookPath("nsenter"); err != nil {
		t.Fatal(err)
	}
	r.launchCommand(daemon)
	r.await("the daemon to converge", r.converged)
	r.awaitState("fiber", uplink.Up)
	r.await("the server that NetworkManager has learned", func() error {
		for _, s := range r.status().DNS.Resolvers {
			if s.Uplink == "fiber" && s.Source == "NetworkManager" && s.Address == "10.53.1.1" && s.Used && s.State == "ok" {
				return nil
			}
		}
		return fmt.Errorf("%+v", r.status().DNS)
	})
	r.await("resolv.conf", func() error {
		content, err := os.ReadFile(resolvConf)
		if err == nil && !strings.Contains(string(content), "nameserver 10.53.1.1\n") {
			err = fmt.Errorf("it has %s", content)
		}
		return err
	})
}

// networkManager is the command line of NetworkManager, which is to configure some devices by itself, and starts the bus that it and the
// daemon use.
func (r *router) networkManager(devices ...string) []string {
	r.Helper()
	const program, libs = "/usr/local/lib/uplinkd-deps/NetworkManager", "/usr/local/lib/uplinkd-deps/nm/usr/lib/*-linux-gnu"
	if _, err := os.Stat(program); err != nil {
		r.Fatalf("make deps unpacks it: %v", err)
	}
	paths, err := filepath.Glob(libs)
	if err != nil || len(paths) == 0 {
		r.Fatalf("%s: %v", libs, err)
	}
	connections, unmanaged := filepath.Join(r.dir, "connections"), "*"
	err = errors.Join(os.Chmod(r.dir, 0o755), os.Mkdir(connections, 0o700))
	for _, device := range devices {
		unmanaged += ",except:interface-name:" + device
		text := "[connection]\nid=" + device + "\ntype=ethernet\ninterface-name=" + device + "\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\naddr-gen-mode=0\n"
		err = errors.Join(err, os.WriteFile(connections+"/"+device+".nmconnection", []byte(text), 0o600))
	}
	err = errors.Join(err, os.WriteFile(r.dir+"/nm.conf", []byte("[main]\nplugins=keyfile\ndhcp=internal\nno-auto-default=*\ndns=none\nrc-manager=unmanaged\n[keyfile]\npath="+connections+
		"\nunmanaged-devices="+unmanaged+"\n[connectivity]\nenabled=false\n"), 0o644))
	if err != nil {
		r.Fatal(err)
	}
	r.env = []string{"DBUS_SYSTEM_BUS_ADDRESS=" + r.startBus()}
	return []string{"env", r.env[0], "LD_LIBRARY_PATH=" + strings.Join(paths, ":"), program, "-n", "--config=" + r.dir + "/nm.conf", "--config-dir=" + r.dir + "/none",
		"--system-config-dir=" + r.dir + "/none", "--intern-config=" + r.dir + "/intern", "--state-file=" + r.dir + "/state"}
}
