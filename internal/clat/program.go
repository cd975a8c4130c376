package clat

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// program is the translator.
const program = "tayga"

// dummy4 is what the translator calls itself in ICMP errors: the IPv4 dummy address (RFC 7600 section 6), which is no host's.
var dummy4 = netip.AddrFrom4([4]byte{192, 0, 0, 8})

// Missing says what this machine lacks for translators, nil for nothing.
func Missing() error {
	if _, err := exec.LookPath(program); err != nil {
		return err
	}
	_, err := os.Stat("/dev/net/tun")
	return err
}

// stopPatience is how long a translator has to end when it is asked to.
const stopPatience = 2 * time.Second

// translator is what a translator is told.
type translator struct {
	device       string
	addr4, addr6 netip.Addr
	nat64        netip.Prefix
}

// translatorOf returns nil where there is nothing to translate to.
func translatorOf(c *rules.CLAT) *translator {
	if !c.NAT64.IsValid() {
		return nil
	}
	return &translator{c.Device, c.Addr4, c.Addr6, c.NAT64}
}

// own6 is what the translator calls itself in ICMPv6 errors.
func (t *translator) own6() netip.Addr {
	b := t.addr6.As16()
	b[12] = 1 // ids end before it
	return netip.AddrFrom16(b)
}

// config is the file that the translator reads (tayga.conf(5)).
func (t *translator) config() []byte {
	return fmt.Appendf(nil, "# By uplinkd, which overwrites it.\ntun-device %s\nipv4-addr %v\nipv6-addr %v\nprefix %v\nmap %v %v\n", t.device, dummy4, t.own6(), t.nat64, t.addr4, t.addr6)
}

// process is a translator that runs, whoever has started it.
type process struct {
	pid    int
	fd     int           // pidfd
	ended  chan struct{} // closed when it is gone
	output string        // the file with what it has said
}

// start makes a translator run by a configuration file. One that another run has left is taken over if it has been told the same.
func start(path string, file string, want *translator) (*process, error) {
	content := want.config()
	told, _ := os.ReadFile(file) // what a former one was told, if any
	for _, pid := range leftover(file) {
		p, err := watch(pid, func() {}) // init reaps it
		if err != nil {
			continue // it has just ended
		}
		if bytes.Equal(told, content) {
			return p, nil
		}
		p.stop()
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, err
	}
	// A file: a translator that outlives us would be killed by its next word into a pipe.
	output, err := os.OpenFile(file+".log", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(path, arguments(file)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{}, output, output // our environment is not its business
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p, err := watch(cmd.Process.Pid, func() { _ = cmd.Wait() }) // how it ended says less than its last words
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	p.output = output.Name()
	return p, nil
}

func arguments(file string) []string { return []string{"--nodetach", "--config", file} }

// leftover lists the translators of this network namespace that read a configuration file.
func leftover(file string) (pids []int) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	processes, _ := os.ReadDir("/proc")
	for _, d := range processes {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline"))
		words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if len(words) < 2 || filepath.Base(words[0]) != program || strings.Join(words[1:], " ") != strings.Join(arguments(file), " ") {
			continue
		}
		if ns, _ := os.Readlink(filepath.Join("/proc", d.Name(), "ns/net")); ns == own {
			pids = append(pids, pid)
		}
	}
	return pids
}

// StopLeftovers ends the translators that a daemon which was killed has left, but for those of uplinks that are to be kept, and removes their files.
func StopLeftovers(dir string, keep func(uplink string) bool) {
	entries, _ := os.ReadDir(dir) // without it there are none
	for _, entry := range entries {
		name, before := strings.CutPrefix(entry.Name(), filePrefix)
		name, behind := strings.CutSuffix(name, fileSuffix)
		if !before || !behind || keep(name) {
			continue
		}
		file := configFile(dir, name)
		for _, pid := range leftover(file) {
			if p, err := watch(pid, func() {}); err == nil {
				p.stop()
			}
		}
		forget(file)
	}
}

const filePrefix, fileSuffix = "clat-", ".conf"

// configFile is what the translator of an uplink reads.
func configFile(dir, uplink string) string { return filepath.Join(dir, filePrefix+uplink+fileSuffix) }

// forget removes the files of a translator that has ended.
func forget(file string) {
	for _, f := range []string{file, file + ".log"} {
		_ = os.Remove(f) // it may be gone
	}
}

// watch waits for the end of a process, and has it reaped.
func watch(pid int, reap func()) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watching process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: fd, ended: make(chan struct{})}
	go func() {
		for {
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		reap()
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process and waits for that.
func (p *process) stop() {
	_ = unix.PidfdSendSignal(p.fd, unix.SIGTERM, nil, 0) // it has ended if that fails
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
		<-p.ended
	}
	p.close()
}

// close gives back what watching has taken. The process has ended.
func (p *process) close() { _ = unix.Close(p.fd) }

// lastWords is the last line that the process has said.
func (p *process) lastWords() error {
	text, _ := os.ReadFile(p.output)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return errors.New(last)
	}
	return errors.New("it said nothing")
}
