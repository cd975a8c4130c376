// Package hooks tells programs and web services of this router's owner what has happened.
//
//	events ──> Programs.Run ──> each executable of a directory, one after the other, bounded in time
//	       └─> Webhook.Run  ──> POST, tried again for a while
//
// Whoever makes events never waits for a hook: each of both reads a stream of its own, at its own pace, and a
// stream that has moved on tells of the gap.
package hooks

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// defaultTimeout is how long one program may take.
const defaultTimeout = 30 * time.Second

// outputLimit bounds what a program's words take of the log, in bytes.
const outputLimit = 1024

// Programs runs the executables of a directory.
type Programs struct {
	Dir     string
	Timeout time.Duration // defaultTimeout when 0
	Log     *slog.Logger
}

// Run runs every program for every event, until the events end. A program that fails or takes too long is
// logged, and the next one runs.
func (p *Programs) Run(ctx context.Context, events iter.Seq[Event]) error {
	warned := make(map[string]bool)
	for e := range events {
		programs, refused := Executables(p.Dir)
		for _, err := range refused {
			if text := err.Error(); !warned[text] { // once, and not with every event
				warned[text] = true
				p.Log.Warn("hook refused", "err", err)
			}
		}
		for _, program := range programs {
			if ctx.Err() != nil {
				return nil
			}
			if err := p.run(ctx, program, e); err != nil {
				p.Log.Warn("hook failed", "program", program, "event", e.ID, "err", err)
			}
		}
	}
	return nil
}

// Executables lists the programs of a directory by name, and says which files are none that may be run. Whoever
// could change one of them would be root, so only files that root, or we, alone may write to are run. A directory
// that does not exist holds none.
func Executables(dir string) (programs []string, refused []error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{err}
	}
	if err := trusted(dir); err != nil {
		return nil, []error{err}
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") || strings.HasSuffix(e.Name(), ".dpkg-new") {
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			refused = append(refused, err)
		case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		default:
			if err := trusted(path); err != nil {
				refused = append(refused, err)
				continue
			}
			programs = append(programs, path)
		}
	}
	slices.Sort(programs)
	return programs, refused
}

// trusted returns an error for what others than root and us may write to.
func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user", path)
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%s may be written to by others: chmod go-w %s", path, path)
	}
	return nil
}

// run runs one program for one event.
func (p *Programs) run(ctx context.Context, program string, e Event) error {
	return Command{Program: program, Timeout: cmp.Or(p.Timeout, defaultTimeout), Vars: e.Vars, Input: e.JSON}.run(ctx)
}

// Command is a program of the owner's and how it is run.
type Command struct {
	Program string // absolute path
	Args    []string
	Timeout time.Duration
	Vars    map[string]string // environment variables, without the prefix UPLINKD_
	Input   []byte            // what is on standard input
}

// Runnable returns why a program is not run, nil for one that is: it is not there, or others than root and us could change it.
func Runnable(program string) error {
	info, err := os.Stat(program)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program", program)
	}
	for _, path := range []string{program, filepath.Dir(program)} {
		if err := trusted(path); err != nil {
			return err
		}
	}
	return nil
}

// Run runs the command if it is Runnable. An error has the beginning of what the program said.
func (c Command) Run(ctx context.Context) error {
	if err := Runnable(c.Program); err != nil {
		return err
	}
	return c.run(ctx)
}

// run runs the command in a process group of its own, which is killed as a whole when time is up.
func (c Command) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("took longer than %v and was killed", c.Timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	cmd.Dir = "/"
	cmd.Env = environment(c.Vars)
	cmd.Stdin = bytes.NewReader(c.Input)
	var out clipped
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for a grandchild that has left the group and keeps the pipes
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay): // it went into the background, which is its own affair
		err = nil
	}
	if err != nil && len(out.text) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out.text)))
	}
	return err
}

// environment is all that a program gets: nothing of ours may leak into it.
func environment(vars map[string]string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for name, value := range vars {
		env = append(env, "UPLINKD_"+name+"="+strings.ReplaceAll(value, "\x00", ""))
	}
	slices.Sort(env)
	return env
}

// clipped keeps the beginning of what is written to it.
type clipped struct{ text []byte }

func (c *clipped) Write(b []byte) (int, error) {
	c.text = append(c.text, b[:min(len(b), outputLimit-len(c.text))]...)
	return len(b), nil
}
