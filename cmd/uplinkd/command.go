package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/lab"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

// defaultConfigFile is read when it exists and no other is named.
const defaultConfigFile = "/etc/uplinkd/uplinkd.toml"

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// command is a word after "uplinkd".
type command struct {
	name, args, does string
	run              func(ctx context.Context, args []string, s streams) error
}

func commands() []command {
	return []command{
		{"run", "[-c FILE]", "run the daemon; without a file, every device with a default route is an uplink", runDaemon},
		{"check", "[-c FILE]", "validate a configuration; touches nothing", runCheck},
		{"plan", "[-c FILE] [--json]", "show what run would change in the kernel; changes nothing", runPlan},
		{"status", "[--json] [--watch]", "show each uplink's verdict and why", runStatus},
		{"events", "[--follow]", "show the decision log", runEvents},
		{"drain", "NAME", "send new traffic elsewhere; old flows finish", drain(true)},
		{"undrain", "NAME", "take new traffic again", drain(false)},
		{"reload", "", "read the configuration again; a mistake in it changes nothing", runReload},
		{"clean", "[-c FILE]", "remove all that is ours from the kernel", runClean},
		{"lab", "run|break|heal|exec|status|down", "try everything in a world of network namespaces", nil},
		{"version", "", "show the version", runVersion},
	}
}

// usageError is a mistake in how the program was called; it ends with exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func run(ctx context.Context, args []string, s streams) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(s.out)
		if len(args) == 0 {
			return exitUsage
		}
		return exitOK
	}
	if args[0] == "lab" {
		return lab.Run(ctx, args[1:], s.in, s.out, s.err)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return report(c.run(ctx, args[1:], s), s.err)
		}
	}
	return report(usagef("there is no command %q; \"uplinkd help\" lists them", args[0]), s.err)
}

// report prints an error and turns it into an exit code.
func report(err error, w io.Writer) int {
	var mistakes config.Errors
	var usage usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &mistakes):
		fmt.Fprintln(w, mistakes)
		return exitUsage
	case errors.As(err, &usage), errors.Is(err, api.ErrBadConfig):
		fmt.Fprintln(w, "uplinkd:", err)
		return exitUsage
	}
	fmt.Fprintln(w, "uplinkd:", err)
	return exitFailed
}

func usage(w io.Writer) {
	fmt.Fprint(w, "uplinkd keeps a Linux router with several uplinks online.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-50s %s\n", strings.TrimSpace("uplinkd "+c.name+" "+c.args), c.does)
	}
	fmt.Fprintf(w, "\nFILE is %s unless named; status, events, drain and reload also take --socket PATH.\n", defaultConfigFile)
}

// flags parses the options of a command; rest says how many words may follow them.
func flags(name string, args []string, rest int, s streams, define func(*flag.FlagSet)) ([]string, error) {
	set := flag.NewFlagSet("uplinkd "+name, flag.ContinueOnError)
	set.SetOutput(s.err)
	define(set)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{err}
	}
	if set.NArg() != rest {
		return nil, usagef("%s takes %d words after its options, not %d", name, rest, set.NArg())
	}
	return set.Args(), nil
}

// configFlag defines -c.
func configFlag(set *flag.FlagSet) *string {
	return set.String("c", "", "configuration `FILE` (default "+defaultConfigFile+" if it exists)")
}

// configFile returns the named file, else the default one if it exists, else none.
func configFile(named string) string {
	if named != "" {
		return named
	}
	if _, err := os.Stat(defaultConfigFile); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return defaultConfigFile
}

// version is that of the module, or of the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

func runVersion(_ context.Context, args []string, s streams) error {
	if _, err := flags("version", args, 0, s, func(*flag.FlagSet) {}); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "uplinkd", version())
	return nil
}
