package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv marks the re-executed child. Its value is the parent's process id: what the child starts inherits the
// variable but has another parent, and so does not take itself for the child.
const childEnv = "UPLINKD_LAB_CHILD"

// stopGrace is how long a child may take to end after SIGTERM.
const stopGrace = 15 * time.Second

// ErrNotChild is returned where private namespaces are needed and the process is not in them.
var ErrNotChild = errors.New("not inside the lab's private namespaces")

// Child is a run of this same executable in namespaces of its own: mount and network, and a user namespace too
// unless the process is a capable root already.
type Child struct {
	Args   []string   // without the program's name
	Env    []string   // added to the environment
	Files  []*os.File // inherited as descriptors 3, 4, ...: see Inherited
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Forward names signals to pass on to the child. Without it the child only hears SIGTERM, when ctx ends.
	Forward []os.Signal
}

// isChild reports whether this process was started by [Child.Run].
func isChild() bool {
	pid, err := strconv.Atoi(os.Getenv(childEnv))
	return err == nil && pid == os.Getppid()
}

// Run re-executes the program, waits for it and returns its exit code, 128 + n when signal n killed it. The child gets
// SIGTERM when ctx ends and SIGKILL when this process dies.
func (c *Child) Run(ctx context.Context) (int, error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("finding this program's file: %w", err)
	}
	// The parent-death signal is tied to the thread that forks, not to the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, exe, c.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.ExtraFiles = c.Files
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Env = append(cmd.Env, "PATH="+searchPath(), childEnv+"="+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = namespaceAttr()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("entering private namespaces: %w%s", err, userNamespaceHint(err))
	}
	stop := forwardSignals(cmd.Process, c.Forward)
	defer stop()
	return exitCode(cmd.Wait())
}

// namespaceAttr gives the child a process group of its own, so that a terminal's Ctrl-C reaches it once, through us.
func namespaceAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true,
	}
	if !capableRoot() {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// capableRoot tells a root that may make namespaces from one that may not, as in a container.
func capableRoot() bool {
	if os.Geteuid() != 0 {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&need == need
}

func forwardSignals(to *os.Process, signals []os.Signal) (stop func()) {
	if len(signals) == 0 {
		return func() {}
	}
	got := make(chan os.Signal, 8)
	done := make(chan struct{})
	signal.Notify(got, signals...)
	go func() {
		defer close(done)
		for s := range got {
			_ = to.Signal(s) // it may have ended already
		}
	}()
	return func() {
		signal.Stop(got)
		close(got)
		<-done
	}
}

// exitCode turns the result of a Wait into an exit code; an error remains only where there is none.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return 0, nil // ended well after our SIGTERM
	default:
		return 1, err
	}
}

// userNamespaceHint says what to do where the kernel refuses namespaces to ordinary users.
func userNamespaceHint(err error) string {
	if capableRoot() || !(errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC)) {
		return ""
	}
	return " (this kernel refuses user namespaces to ordinary users: run as root, or allow them with one of" +
		" sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0," +
		" user.max_user_namespaces=10000)"
}

// Inherited returns the i-th of [Child.Files] in the child. The descriptor is not passed on to what the child starts.
func Inherited(i int) *os.File {
	fd := uintptr(3 + i)
	unix.CloseOnExec(int(fd))
	return os.NewFile(fd, "inherited "+strconv.Itoa(i))
}

// isolateNamespaces makes the namespaces of the re-executed child private: it must be called once, before anything else. A tmpfs
// hides /run, so that named network namespaces and sockets of the world cannot meet those of the machine.
func isolateNamespaces() error {
	if !isChild() {
		return ErrNotChild
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w%s", err, userNamespaceHint(err))
	}
	if err := setUp("lo", true); err != nil { // for servers of tests on 127.0.0.1
		return err
	}
	return mountRun()
}

// mountRun mounts a tmpfs over /run.
func mountRun() error {
	old, err := unix.Open("/run", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening /run: %w", err)
	}
	defer func() { _ = unix.Close(old) }()
	names, err := os.ReadDir("/run")
	if err != nil {
		return fmt.Errorf("listing /run: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs on /run: %w%s", err, userNamespaceHint(err))
	}
	for _, entry := range names {
		if err := exposeInRun(old, entry); err != nil {
			return fmt.Errorf("keeping /run/%s visible: %w", entry.Name(), err)
		}
	}
	return nil
}

// exposeInRun shows again what programs are found through: NixOS has its whole PATH below /run, as symbolic links and
// wrappers; a temporary directory or this executable may lie there as well.
func exposeInRun(old int, entry os.DirEntry) error {
	source := fmt.Sprintf("/proc/self/fd/%d/%s", old, entry.Name())
	target := "/run/" + entry.Name()
	if entry.Type()&os.ModeSymlink != 0 {
		to, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	}
	if !entry.IsDir() || !neededInRun(target) {
		return nil
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
}

func neededInRun(dir string) bool {
	if dir == "/run/netns" || dir == "/run/uplinkd" {
		return false
	}
	exe, _ := os.Executable()
	cwd, _ := os.Getwd()
	for _, path := range append(strings.Split(searchPath(), ":"), exe, cwd, os.TempDir()) {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}
