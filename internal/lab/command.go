package lab

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

const usage = `usage: uplinkd lab COMMAND

  run [--rp-filter strict|loose|off] [--uplinks N] [--listen 127.0.0.1:PORT] [--demo]
                        builds a world in network namespaces, runs the daemon in it, stays until Ctrl-C
  break KIND UPLINK     breaks an uplink (fiber, lte, ...):
                          carrier    the cable is pulled
                          blackhole  the provider's gateway answers and forwards nothing
                          far        the provider has lost the Internet
                          loss       a fifth of the packets is lost at random; loss=5 is 5 %
                          gateway    the provider is silent, the carrier stays
                          prefix     the provider gives other addresses
  heal [UPLINK]         heals one uplink, or all
  status [--json]       what is broken
  exec HOST [--] [COMMAND...]
                        runs a command, or a shell, on a host: lan, router, isp1, isp2, inet
  down                  ends the lab

Root is not needed where the kernel lets users have namespaces.
`

const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage marks mistakes on the command line.
var errUsage = errors.New("wrong usage")

// streams are a command's standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// Run runs `uplinkd lab ARGS` and returns the exit code: 0 fine, 1 failed, 2 wrong usage, or that of an executed
// command. The program must run itself again with "lab" and the same arguments, and "run -c FILE" must be the daemon.
// A lab that runs ends with ctx, which must end on SIGTERM.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := streams{in: stdin, out: stdout, err: stderr}
	if len(args) == 0 {
		_, _ = io.WriteString(stderr, usage)
		return exitUsage
	}
	code, err := dispatch(ctx, args[0], args[1:], s)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, usage)
		return exitFine
	case errors.Is(err, errUsage):
		_, _ = fmt.Fprintf(stderr, "uplinkd lab %s: %v\nsee uplinkd lab help\n", args[0], err)
		return exitUsage
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "uplinkd lab: %v\n", err)
		return max(code, exitFailed)
	}
	return code
}

func dispatch(ctx context.Context, command string, args []string, s streams) (int, error) {
	switch command {
	case "help", "-h", "-help", "--help":
		return exitFine, flag.ErrHelp
	case "run":
		o, err := parseRun(args)
		if err != nil {
			return exitUsage, err
		}
		if isChild() {
			return exitFine, runChild(ctx, o, s)
		}
		return runParent(ctx, args, o, s)
	case "exec":
		return execOn(ctx, args, s)
	case "break":
		if len(args) != 2 {
			return exitUsage, fmt.Errorf("%w: it takes a kind and an uplink", errUsage)
		}
		return exitFine, sendRequest(ctx, request{Op: "break", Kind: args[0], Uplink: args[1]}, s)
	case "heal":
		if len(args) > 1 {
			return exitUsage, fmt.Errorf("%w: it takes one uplink at most", errUsage)
		}
		return exitFine, sendRequest(ctx, request{Op: "heal", Uplink: strings.Join(args, "")}, s)
	case "status":
		return exitFine, showStatus(ctx, args, s)
	case "down":
		if len(args) != 0 {
			return exitUsage, fmt.Errorf("%w: it takes no arguments", errUsage)
		}
		return exitFine, down(ctx, s)
	}
	return exitUsage, fmt.Errorf("%w: there is no such command", errUsage)
}

// flags returns a flag set that leaves the reporting of mistakes to Run.
func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

func parseFlags(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	case f.NArg() > 0:
		return fmt.Errorf("%w: %q is too much", errUsage, f.Arg(0))
	}
	return nil
}

// sendRequest sends the running lab a request and reports what it did.
func sendRequest(ctx context.Context, r request, s streams) error {
	answer, err := ask(ctx, directoryPath(), r)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.out, statusTable(answer.Uplinks))
	return err
}

func showStatus(ctx context.Context, args []string, s streams) error {
	f := flags("status")
	asJSON := f.Bool("json", false, "")
	if err := parseFlags(f, args); err != nil {
		return err
	}
	answer, err := ask(ctx, directoryPath(), request{Op: "status"})
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(answer)
	}
	_, err = fmt.Fprintf(s.out, "%s\nhosts      %s\ndashboard  %s\ndirectory  %s\n",
		statusTable(answer.Uplinks), strings.Join(answer.Hosts, " "), answer.Dashboard, directoryPath())
	return err
}

func statusTable(uplinks []UplinkStatus) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "UPLINK\tISP\tDEVICE\tIPV4\tIPV6\tBROKEN")
	for _, u := range uplinks {
		var breaks []string
		for _, k := range u.Breaks {
			text := k.Kind
			if k.Percent > 0 {
				text += fmt.Sprintf(" %g%%", k.Percent)
			}
			breaks = append(breaks, fmt.Sprintf("%s for %s", text, time.Since(k.Since).Round(time.Second)))
		}
		if len(breaks) == 0 {
			breaks = []string{"-"}
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.Name, u.ISP, u.Device, u.Address4, u.Address6, strings.Join(breaks, ", "))
	}
	_ = w.Flush() // into memory
	return b.String()
}

// down ends the running lab and returns when it is gone.
func down(ctx context.Context, s streams) error {
	path := directoryPath()
	_, err := ask(ctx, path, request{Op: "down"})
	if err != nil && !errors.Is(err, errNoLab) {
		return err
	}
	ran := err == nil
	ctx, cancel := context.WithTimeout(ctx, stopGrace+5*time.Second)
	defer cancel()
	var d *directory
	err = Until(ctx, "the lab to end", func() (err error) {
		d, err = claim(path)
		ran = ran || errors.Is(err, errLabRuns)
		return err
	})
	if err != nil {
		return err
	}
	message := "the lab is down"
	switch {
	case ran:
	case d.stale:
		message = "no lab was running; what a killed one left is removed"
	default:
		message = "no lab was running"
	}
	_, err = fmt.Fprintln(s.out, message)
	return errors.Join(err, d.remove())
}
