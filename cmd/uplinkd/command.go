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
	"slices"
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
	words []string // that follow the options; one in lower case is typed as it stands
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
		{"init", nil, "look at this machine and propose a configuration", "The proposal is printed, with comments; nothing is changed. With --pair, the files of two routers are written, of which this machine is the first: those of uplinkd, keepalived and conntrackd, and a key. Nothing is overwritten.", initCommand},
		{"import", []string{"SYSTEM", "FILE..."}, "translate a configuration of mwan3, pbr or vyos; touches nothing",
			"What was lost or does something else is a comment in what it prints, and a line on stderr. Exit code 3 then, and 2 when no way out is in the files.", importCommand},
		{"check", nil, "validate a configuration; touches nothing", "Every mistake is named with its line and column. Exit code 2.", checkCommand},
		{"plan", nil, "show what run would change in the kernel; changes nothing", "Each change is a line for a shell: ip, nft or sysctl.", planCommand},
		{"status", nil, "show each uplink's verdict and why", "Colours appear on terminals only, and not when NO_COLOR is set. With --from and URLs, many routers have a line each; --json is an object by URL then, with status or error, and --check ends like the worst of them. Exit code 1 when one does not answer within 5 s.", statusCommand},
		{"explain", nil, "show where a packet goes: which rule, table and uplink, and why",
			"It walks the policy rules and tables as the kernel does, names the line of the configuration that made each step, and compares with the kernel's own answer. It works without a running daemon too. Exit code 1 when the kernel says something else.", explainCommand},
		{"doctor", nil, "find what breaks multi-uplink setups here, and how to fix it",
			"It changes nothing and sends a few echo requests by every uplink. It works without a running daemon too. Exit code 1 when there is an error, 3 when there are only warnings.", doctorCommand},
		{"events", nil, "show the decision log", "", eventsCommand},
		{"usage", nil, "show what metered uplinks have carried, by day and month", "", usageCommand},
		{"report", nil, "show how the uplinks were in a month: availability, each outage with its cause, latency",
			"What uplinkd did not see, because it did not run, is neither up nor down. --html is a page for the provider.", reportCommand},
		{"drain", []string{"NAME"}, "move new traffic to other uplinks; existing flows finish", "It lasts over restarts, until undrain. With --now, what runs there ends, as soon as there is somewhere else to go; what others have begun to hosts of the LAN may go on.", drainCommand},
		{"undrain", []string{"NAME"}, "accept new traffic again", "", undrainCommand},
		{"reload", nil, "read the configuration again; a mistake in it changes nothing",
			"With --confirm, what is in force now comes back after that time, over crashes and power cuts too, unless uplinkd confirm is typed before: for changes that may cut you off. While it waits, another reload takes its place and waits in turn.", reloadCommand},
		{"confirm", nil, "keep the configuration that reload --confirm has taken over", "Exit code 1 when none waits.", confirmCommand},
		{"pair", []string{"yield"}, "have the other router of a pair take over, in good order",
			"The other router has to be there, set up alike, and to know what this one knows; it prepares, and then keepalived moves the addresses. It stays primary until it yields or fails. Exit code 1 when this router is primary as before.", pairCommand},
		{"guard", nil, "close kill switches at boot, before the network is up",
			"It is for the boot: what a policy with fallback = \"unreachable\" selects is refused until run knows an uplink for it. It prints what it changed.", guardCommand},
		{"clean", nil, "remove all of uplinkd's state from the kernel", "What stood there before is given back. The daemon must not run.", cleanCommand},
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
	if asksVersion(args[:1]) {
		args = []string{"version"}
	}
	if args[0] == "lab" {
		return lab.Run(ctx, args[1:], s.in, s.out, s.err)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return report(c.run(ctx, args[1:], s), s.err)
		}
	}
	return report(usagef("unknown command %q: \"uplinkd help\" lists them", args[0]), s.err)
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
	fmt.Fprintf(w, "\nFILE is %s unless named; status, explain, events, drain, reload, confirm and pair also take --socket PATH.\n"+
		"\"uplinkd COMMAND --help\" lists the options of a command; they may stand before or after its words.\n", defaultConfigFile)
}

// options makes the command's set of options, empty of values.
func (c *command) options() (*flag.FlagSet, runner) {
	set := flag.NewFlagSet("uplinkd "+c.name, flag.ContinueOnError)
	return set, c.setup(set)
}

// run parses the options and does the work.
func (c *command) run(ctx context.Context, args []string, s streams) error {
	if asksVersion(args) {
		printVersion(s)
		return nil
	}
	set, work := c.options()
	set.SetOutput(s.err)
	set.Usage = func() { c.help(set, s.err) }
	words, err := c.parse(set, args)
	if err != nil {
		return err
	}
	return needsRoot(c.name, work(ctx, words, s))
}

// parse reads the options of c, and returns its words, which are as many as it takes.
func (c *command) parse(set *flag.FlagSet, args []string) ([]string, error) {
	words, err := parseOptions(set, args)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{err}
	}
	set.Visit(func(f *flag.Flag) {
		if l, ok := f.Value.(*list); ok {
			*l, words = append(*l, words...), nil
		}
	})
	if many := len(c.words) > 0 && strings.HasSuffix(c.words[len(c.words)-1], "..."); len(words) != len(c.words) && !(many && len(words) > len(c.words)) {
		return nil, usagef("%s", c.wanted(words))
	}
	for i, w := range c.words {
		if strings.ToLower(w) == w && words[i] != w {
			return nil, usagef("%s", c.wanted(words))
		}
	}
	return words, nil
}

// list is the value of an option that takes all words of its command too, as in --from URL URL.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

// Set adds a value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// parseOptions reads options before, between and behind words, which it returns. What follows "--" is words.
func parseOptions(set *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		rest := set.Args()
		if len(rest) == 0 {
			return words, nil
		}
		if read := len(args) - len(rest); read > 0 && args[read-1] == "--" {
			return append(words, rest...), nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// asksVersion reports whether --version is among the options.
func asksVersion(args []string) bool {
	for _, a := range args {
		switch a {
		case "--version", "-version":
			return true
		case "--":
			return false
		}
	}
	return false
}

// needsRoot says so where an ordinary user was refused something that root may do. A file is named: its mode may be the fault.
func needsRoot(command string, err error) error {
	var file *fs.PathError
	switch {
	case os.Geteuid() == 0, !errors.Is(err, fs.ErrPermission), errors.Is(err, api.ErrForbidden):
		return err
	case errors.As(err, &file):
		return fmt.Errorf("needs root: sudo uplinkd %s (%w)", command, err)
	}
	return errors.New("needs root: sudo uplinkd " + command)
}

// wanted says how a command is written whose words are too few or too many.
func (c *command) wanted(words []string) string {
	switch {
	case c.name == "explain" && len(words) == 1:
		return "write: uplinkd explain --to " + words[0]
	case slices.Contains(c.words, "NAME"):
		if names := configuredUplinks(); len(names) > 0 {
			return fmt.Sprintf("usage: %s (%s)", c.synopsis(), strings.Join(names, ", "))
		}
	case len(c.words) == 0:
		return fmt.Sprintf("%s takes nothing after its options, and %q is too much: usage: %s", c.name, words[0], c.synopsis())
	}
	return "usage: " + c.synopsis()
}

// configuredUplinks lists the uplinks of the configuration, as far as it can be read.
func configuredUplinks() (names []string) {
	file := configFile("")
	if file == "" {
		return nil
	}
	c, err := config.Load(file)
	if err != nil {
		return nil
	}
	for i := range c.Uplinks {
		names = append(names, c.Uplinks[i].Name)
	}
	return names
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

// release is set where there is no repository that the compiler could ask: -ldflags "-X main.release=v1.2.3".
var release string

// version is that of the release, the module, or the commit that was built.
func version() string {
	if release != "" {
		return release
	}
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
		printVersion(s)
		return nil
	}
}

func printVersion(s streams) { fmt.Fprintln(s.out, "uplinkd", version()) }
