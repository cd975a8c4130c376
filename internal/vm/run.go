package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say what runs in the guest, and in which one.
type Options struct {
	Cache  string    // directory of the kernel
	Args   []string  // the program, by an absolute path or relative to Dir, and its arguments
	Dir    string    // working directory, absolute
	Env    []string  // environment of the program
	Stdout io.Writer // what the program writes, to both of its streams
	Memory int       // of the guest, in MiB
	CPUs   int
	// Boot is how long the guest may take to start the program. Emulation on a busy machine is slow.
	Boot time.Duration
}

// isa-debug-exit turns a code c into qemu's exit status 2c+1.
const (
	guestFailed = 125 // the guest could not run the program, or a signal ended it
	maxCode     = 127
)

// consoleTail is how much of the guest's console an error shows, in bytes.
const consoleTail = 4096

// Run boots a guest, runs the program in it and returns its exit code. Any other end is an error, with the last that
// the guest's console said.
func Run(ctx context.Context, o Options) (int, error) {
	k, err := findKernel(ctx, o.Cache)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "uplinkd-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	initramfs, console := filepath.Join(dir, "initramfs"), filepath.Join(dir, "console")
	f, err := os.Create(initramfs)
	if err != nil {
		return 0, err
	}
	err = writeInitramfs(f, self, k, job{Args: o.Args, Dir: o.Dir, Env: o.Env, Modules: k.Modules, Release: k.Release})
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("writing the initramfs: %w", err)
	}
	code, err := boot(ctx, o, k.Image, initramfs, console)
	if err != nil {
		return 0, fmt.Errorf("%w; the guest's console ends with:\n%s", err, tail(console))
	}
	return code, nil
}

// boot runs qemu until the guest ends.
func boot(ctx context.Context, o Options, image, initramfs, console string) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bootTimer := time.AfterFunc(o.Boot, func() { cancel(fmt.Errorf("the guest did not start the program within %v", o.Boot)) })
	defer bootTimer.Stop()
	out := &guestOutput{to: o.Stdout, begun: func() { bootTimer.Stop() }}
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", arguments(o, image, initramfs, console)...)
	cmd.Stdout, cmd.Stderr = out, &errs
	// Killed with us, and spared the terminal's signals: go test sends its own, and ours end it by ctx.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, errors.New("the guest ended without an exit code: it crashed, or somebody turned it off")
	case errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode()&1 == 1 && out.found:
		code := exit.ExitCode() >> 1
		if code == guestFailed {
			return 0, errors.New("the guest could not run the program to its end")
		}
		return code, nil
	}
	return 0, fmt.Errorf("qemu-system-x86_64: %w: %s", err, strings.TrimSpace(errs.String()))
}

// arguments is qemu's command line. Emulation alone (tcg): nested acceleration is not to be had everywhere.
func arguments(o Options, image, initramfs, console string) []string {
	return []string{
		"-machine", "q35,accel=tcg", "-cpu", "max", "-m", strconv.Itoa(o.Memory), "-smp", strconv.Itoa(o.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", image, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 tsc=reliable random.trust_cpu=on",
		"-serial", "file:" + console, "-serial", "stdio",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=0x01", exitPort),
		"-device", "virtio-rng-pci",
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=" + hostTag,
	}
}

// guestOutput passes on what the guest writes once the program has started. Firmware writes to the same port.
type guestOutput struct {
	to    io.Writer
	begun func()
	found bool
	held  []byte
}

func (g *guestOutput) Write(p []byte) (int, error) {
	if g.found {
		return g.to.Write(p)
	}
	g.held = append(g.held, p...)
	if _, rest, ok := bytes.Cut(g.held, []byte(started)); ok {
		g.found, g.held = true, nil
		g.begun()
		if _, err := g.to.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-consoleTail):]))
}
