// Vmexec runs a program, usually a test binary, on a Debian kernel in a virtual machine:
//
//	vmexec [flags] PROGRAM [ARGUMENT...]
//
// It ends with the program's exit code, or with 125 and a message when the guest could not run it to its end.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/uplinkd/uplinkd/internal/vm"
)

func main() {
	if vm.InGuest() {
		vm.Guest()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	code := vmexec(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func vmexec(ctx context.Context, args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("vmexec", flag.ContinueOnError)
	flags.SetOutput(errs)
	o := vm.Options{Stdout: out, Env: environment(os.Environ())}
	flags.StringVar(&o.Cache, "cache", "", "directory of the kernel (default: uplinkd-vm in the user's cache directory)")
	flags.IntVar(&o.Memory, "memory", 1536, "of the guest, in MiB")
	flags.IntVar(&o.CPUs, "cpus", 2, "of the guest")
	flags.DurationVar(&o.Boot, "boot", 3*time.Minute, "how long the guest may take to start the program")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(errs, "vmexec: no program to run")
		return 2
	}
	o.Args = flags.Args()
	code, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(errs, "vmexec:", err)
		return 125
	}
	return code
}

func run(ctx context.Context, o vm.Options) (int, error) {
	if o.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return 0, err
		}
		o.Cache = filepath.Join(base, "uplinkd-vm")
	}
	var err error
	if o.Dir, err = os.Getwd(); err != nil {
		return 0, err
	}
	return vm.Run(ctx, o)
}

// environment picks what a test may need: the guest is no place for whatever else the host's environment holds.
func environment(all []string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, e := range all {
		name, _, _ := strings.Cut(e, "=")
		if name == "HOME" || name == "LANG" || strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "UPLINKD_") {
			env = append(env, e)
		}
	}
	return env
}
