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

// command is a word after "uplinkd". The list of them is what the usage, the manual page and the completion of
// shells are made from, so that none of these can differ from what is parsed.
type command struct {
	name  string
	words []string // that follow the options
	does  string
	about string // for the manual page: what the one line leaves out
	setup func(*flag.FlagSet) runner
}

// runner does the work of a command whose options were parsed into what its setup keeps. It gets the words.
type runner func(ctx context.Context, words []string, s streams) error

func commands() []command {
	return []command{
		{"run", nil, "run the daemon; without a file, every device with a default route is an uplink",
			"SIGHUP makes it read its configuration again, SIGTERM ends it and leaves the kernel as it is, so that a restart interrupts no traffic.", runCommand},
		{"init", nil, "look at this machine and propose a configuration", "The proposal is printed, with comments; nothing is changed.", initCommand},
		{"check", nil, "validate a configuration; touches nothing", "Every mistake is named with its line and column. Exit code 2.", checkCommand},
		{"plan", nil, "show what run would change in the kernel; changes nothing", "Each change is a line for a shell: ip, nft or sysctl.", planCommand},
		{"status", nil, "show each uplink's verdict and why", "Colours appear on terminals only, and not when NO_COLOR is set.", statusCommand},
		{"explain", nil, "say what becomes of a packet: which rule, table and uplink, and why",
			"It walks the policy rules and tables as the kernel does, names the line of the configuration that made each step, and compares with the kernel's own answer. It works without a running daemon too. Exit code 1 when the kernel says something else.", explainCommand},
		{"doctor", nil, "find what breaks setups with several uplinks here, and say the fix",
			"It changes nothing and sends a few echo requests by every uplink. It works without a running daemon too. Exit code 1 when there is an error, 3 when there are only warnings.", doctorCommand},
		{"events", nil, "show the decision log", "", eventsCommand},
		{"usage", nil, "show what metered uplinks have carried, by day and month", "", usageCommand},
		{"drain", []string{"NAME"}, "send new traffic elsewhere; old flows finish", "It lasts over restarts, until undrain.", drainCommand(true)},
		{"undrain", []string{"NAME"}, "take new traffic again", "", drainCommand(false)},
		{"reload", nil, "read the configuration again; a mistake in it changes nothing",
			"With --confirm, what is in force now comes back after that time, over crashes and power cuts too, unless uplinkd confirm is typed before: for changes that may cut you off. While it waits, another reload takes its place and waits in turn.", reloadCommand},
		{"confirm", nil, "keep the configuration that reload --confirm has taken over", "Exit code 1 when none waits.", confirmCommand},
		{"guard", nil, "close the kill switches of policies, before there is a network",
			"It is for the boot: what a policy with fallback = \"unreachable\" selects is refused until run knows an uplink for it. It prints what it changed.", guardCommand},
		{"clean", nil, "remove all that is ours from the kernel", "What stood there before is given back. The daemon must not run.", cleanCommand},
		{"completion", []string{"SHELL"}, "print completion for bash, zsh or fish", "", completionCommand},
		{"man", nil, "print the manual page", "", manCommand},
		{"version", nil, "show the version", "", versionCommand},
	}
}

// labUsage stands for the commands of package lab, which parses its own.
const labUsage, labDoes = "lab run|break|heal|exec|status|down", "try everything in a world of network namespaces"

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
	var exit exitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &exit):
		return exit.code
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
		fmt.Fprintf(w, "  %-50s %s\n", c.synopsis(), c.does)
	}
	fmt.Fprintf(w, "  %-50s %s\n", "uplinkd "+labUsage, labDoes)
	fmt.Fprintf(w, "\nFILE is %s unless named; status, explain, events, drain, reload and confirm also take --socket PATH.\n"+
		"\"uplinkd COMMAND --help\" lists the options of a command.\n", defaultConfigFile)
}

// options makes the command's set of options, empty of values.
func (c *command) options() (*flag.FlagSet, runner) {
	set := flag.NewFlagSet("uplinkd "+c.name, flag.ContinueOnError)
	return set, c.setup(set)
}

// run parses the options and does the work.
func (c *command) run(ctx context.Context, args []string, s streams) error {
	set, work := c.options()
	set.SetOutput(s.err)
	set.Usage = func() { c.help(set, s.err) }
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if set.NArg() != len(c.words) {
		return usagef("%s takes %d words after its options, not %d", c.name, len(c.words), set.NArg())
	}
	return work(ctx, set.Args(), s)
}

// help says what a command does and what its options are.
func (c *command) help(set *flag.FlagSet, w io.Writer) {
	fmt.Fprintf(w, "usage: %s\n%s\n", c.synopsis(), c.does)
	set.VisitAll(func(f *flag.Flag) {
		value, what := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-22s %s\n", strings.TrimSpace(dashes(f.Name)+" "+value), what)
	})
}

// dashes writes an option as people type it.
func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// fewOptions is how many are named on the line of a command.
const fewOptions = 3

// synopsis is the command with its options, as far as there are few.
func (c *command) synopsis() string {
	set, _ := c.options()
	var options []string
	set.VisitAll(func(f *flag.Flag) {
		if f.Name == "socket" {
			return // every client has it; the usage says so once
		}
		value, _ := flag.UnquoteUsage(f)
		options = append(options, "["+strings.TrimSpace(dashes(f.Name)+" "+value)+"]")
	})
	if len(options) > fewOptions {
		options = []string{"[OPTION...]"}
	}
	return strings.Join(append(append([]string{"uplinkd", c.name}, options...), c.words...), " ")
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

func versionCommand(*flag.FlagSet) runner {
	return func(_ context.Context, _ []string, s streams) error {
		fmt.Fprintln(s.out, "uplinkd", version())
		return nil
	}
}
