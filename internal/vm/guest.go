package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The devices that host and guest agree on.
const (
	hostTag    = "host"       // mount tag of the host's files
	outputPort = "/dev/ttyS1" // where the program writes to
	exitPort   = 0xf4         // isa-debug-exit's default; the command line says it too
)

// started is the first thing that the guest writes: whatever comes behind it is the program's.
const started = "\x01vm\x01"

// InGuest reports whether this process is the guest's first.
func InGuest() bool { return os.Getpid() == 1 }

// Guest is the guest's init: it runs the job and ends the machine. It never returns.
func Guest() {
	code, err := guest()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm guest:", err) // on the console, which the host shows
		// What is still in the port's buffer would be lost with the machine.
		_ = drain(os.Stderr)
		code = guestFailed
	}
	end(code)
}

func guest() (int, error) {
	if err := mountAll([]mounting{
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
		{"proc", "/proc", "proc", 0, ""},
	}); err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/" + jobFile)
	if err != nil {
		return 0, err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return 0, err
	}
	if err := loadModules(); err != nil {
		return 0, err
	}
	if err := enterHostFiles(j); err != nil {
		return 0, err
	}
	return runJob(j)
}

type mounting struct {
	source, target, kind string
	flags                uintptr
	options              string
}

func mountAll(list []mounting) error {
	for _, m := range list {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

func loadModules() error {
	files, err := filepath.Glob("/" + modulesDir + "/*") // sorted
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// enterHostFiles makes the host's files the root, with changes kept in memory.
func enterHostFiles(j job) error {
	const root = "/root"
	if err := mountAll([]mounting{
		// Loose: nobody else writes, and mapping a program into memory needs a cache.
		{hostTag, "/host", "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=524288,cache=loose"},
		{"tmpfs", "/memory", "tmpfs", 0, "mode=0755"},
	}); err != nil {
		return err
	}
	for _, dir := range []string{"/memory/upper", "/memory/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	modules := root + "/lib/modules/" + j.Release
	if err := mountAll([]mounting{
		{"overlay", root, "overlay", 0, "lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work"},
		{root + j.Modules, modules, "", unix.MS_BIND, ""},
		{"devtmpfs", root + "/dev", "devtmpfs", 0, ""},
		{"devpts", root + "/dev/pts", "devpts", 0, "ptmxmode=0666"},
		{"tmpfs", root + "/dev/shm", "tmpfs", 0, ""},
		{"proc", root + "/proc", "proc", 0, ""},
		{"sysfs", root + "/sys", "sysfs", 0, ""},
		{"tmpfs", root + "/run", "tmpfs", 0, "mode=0755"},
	}); err != nil {
		return err
	}
	// As in switch_root(8). Kernel threads share our root, so modprobe is found by the kernel too.
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return loopbackUp()
}

// loopbackUp sets lo up, as every distribution's boot does.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// runJob runs the program, adopts what it leaves behind, and returns its exit code.
func runJob(j job) (int, error) {
	out, err := os.OpenFile(outputPort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	if err := rawOutput(out); err != nil {
		return 0, fmt.Errorf("setting up %s: %w", outputPort, err)
	}
	if _, err := out.WriteString(started); err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	for _, e := range j.Env { // ours too: the program is looked up by the PATH that it will have
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(j.Args[0], j.Args[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = j.Dir, null, out, out
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("waiting for the program: %w", err)
		case pid != cmd.Process.Pid || !status.Exited() && !status.Signaled():
			continue
		}
		if err := drain(out); err != nil {
			return 0, fmt.Errorf("draining %s: %w", outputPort, err)
		}
		if status.Signaled() {
			return 0, fmt.Errorf("the program was ended by signal %v", status.Signal())
		}
		return status.ExitStatus(), nil
	}
}

// drain waits until all that was written to a port is out. What the program leaves behind dies meanwhile, and each death
// interrupts the wait.
func drain(port *os.File) error {
	for {
		if err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// rawOutput has the port pass on bytes as they are.
func rawOutput(port *os.File) error {
	t, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Cflag = t.Cflag&^unix.CBAUD | unix.B115200
	return unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, t)
}

// end ends the machine with an exit code for the host.
func end(code int) {
	port, err := os.OpenFile("/dev/port", os.O_WRONLY, 0)
	if err == nil {
		_, err = port.WriteAt([]byte{byte(code)}, exitPort)
	}
	// Not reached unless that failed: the host hears no code, which it takes for a failure.
	fmt.Fprintln(os.Stderr, "vm guest: telling the exit code:", err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
