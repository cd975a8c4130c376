package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// execOn runs a command on a host of the running lab.
func execOn(ctx context.Context, args []string, s streams) (int, error) {
	if len(args) == 0 {
		return exitUsage, fmt.Errorf("%w: it takes a host and a command", errUsage)
	}
	host, command := args[0], args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		command = []string{shell()}
	}
	lab, err := ask(ctx, directoryPath(), request{Op: "status"})
	if err != nil {
		return exitFailed, err
	}
	if !slices.Contains(lab.Hosts, host) {
		return exitUsage, fmt.Errorf("%w: there is no host %q, only %s", errUsage, host, strings.Join(lab.Hosts, ", "))
	}
	argv, err := nsenterArgs(lab, host, command)
	if err != nil {
		return exitFailed, err
	}
	env := append(os.Environ(), "PATH="+searchPath(), directoryEnv+"="+directoryPath())
	if s.in == os.Stdin && s.out == os.Stdout && s.err == os.Stderr {
		// Nothing of us stays between the terminal and the command: job control, signals and exit code are its own.
		err := syscall.Exec(argv[0], argv, env)
		return exitFailed, fmt.Errorf("running %s: %w", argv[0], err)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	return exitCode(cmd.Run())
}

func shell() string {
	if sh := os.Getenv("SHELL"); sh != "" {
		return sh
	}
	return "/bin/sh"
}

// nsenterArgs returns the command line that enters the lab's namespaces and there the host's. A shell takes the command
// back to the current directory, which entering a mount namespace leaves.
func nsenterArgs(lab response, host string, command []string) ([]string, error) {
	nsenter, err := findTool("nsenter", "util-linux")
	if err != nil {
		return nil, err
	}
	t, err := findTools()
	if err != nil {
		return nil, err
	}
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	argv := []string{nsenter, "--target", strconv.Itoa(lab.PID), "--mount", "--net"}
	other, err := otherUserNamespace(lab.PID)
	if err != nil {
		return nil, err
	}
	if other {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	argv = append(argv, "--", "/bin/sh", "-c", `cd "$1" 2>/dev/null; shift; exec "$@"`, "sh", wd, t.ip, "netns", "exec", host)
	return append(argv, command...), nil
}

// otherUserNamespace reports whether a process lives in another user namespace: entering one's own is an error.
func otherUserNamespace(pid int) (bool, error) {
	its, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return false, fmt.Errorf("looking at the lab's process: %w", err)
	}
	ours, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false, fmt.Errorf("looking at this process: %w", err)
	}
	return !os.SameFile(its, ours), nil
}
