package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

// socketFlag defines --socket. Its default is what the configuration file says, so that a changed
// path need not be typed.
func socketFlag(set *flag.FlagSet) *string {
	return set.String("socket", "", "control socket `PATH` of the daemon")
}

func socketPath(named, file string) string {
	if named != "" {
		return named
	}
	if file = configFile(file); file != "" {
		if c, err := config.Load(file); err == nil {
			return c.Daemon.Socket
		}
	}
	return config.Default().Daemon.Socket
}

func dial(socket string) *api.Client { return api.Dial(socketPath(socket, "")) }

// redrawEvery is the pace of status --watch.
const redrawEvery = time.Second

func statusCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	asJSON := set.Bool("json", false, "print JSON")
	watch := set.Bool("watch", false, "refresh every second")
	check := set.Bool("check", false, "print one line for monitoring: exit 0 all well, 3 on a spare or with a problem, 1 offline")
	var from list
	set.Var(&from, "from", "ask the daemons at `URL...`, all at once: http://HOST:PORT, https://HOST or unix:PATH each")
	return func(ctx context.Context, _ []string, s streams) error {
		switch {
		case len(from) > 0 && *socket != "":
			return usagef("--socket %s: write --from unix:%s", *socket, *socket)
		case len(from) > 0:
			return statusOfAll(ctx, from, fleetView{check: *check, json: *asJSON, watch: *watch}, s)
		}
		client := dial(*socket)
		for seen := false; ; seen = true {
			status, err := client.Status(ctx)
			if *watch && seen && errors.Is(err, api.ErrNotRunning) { // a restart does not end a watch
				fmt.Fprintf(s.out, "%s: %v\n", time.Now().Format(time.TimeOnly), err)
				if !waitRedraw(ctx) {
					return nil
				}
				continue
			}
			if err != nil {
				return err
			}
			if *check {
				return checkStatus(s, &status)
			}
			if *watch && !*asJSON {
				fmt.Fprint(s.out, "\x1b[H\x1b[2J")
			}
			if err := printStatus(s, status, *asJSON); err != nil || !*watch {
				return err
			}
			if !waitRedraw(ctx) {
				return nil
			}
		}
	}
}

// checkStatus prints what monitoring has to know.
func checkStatus(s streams, st *status.Status) error {
	fmt.Fprintln(s.out, st.Line())
	return exitOfHealth(st.Health())
}

func exitOfHealth(h status.Health) error {
	switch h {
	case status.NotOnline:
		return exitError{exitFailed}
	case status.Unsettled:
		return exitError{exitWarnings}
	}
	return nil
}

// waitRedraw waits until it is time to look again; false when the watch is over.
func waitRedraw(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(redrawEvery):
		return true
	}
}

func printStatus(s streams, status status.Status, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(status)
	}
	return api.WriteStatus(s.out, status, api.RenderOptions{Color: colorful(s), Now: time.Now()})
}

// colorful reports whether the output is a terminal whose owner has not refused colour (no-color.org).
func colorful(s streams) bool {
	file, ok := s.out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func eventsCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	follow := set.Bool("follow", false, "wait for new events")
	n := set.Int("n", 0, "only the last `N` events")
	asJSON := set.Bool("json", false, "print a JSON object a line")
	return func(ctx context.Context, _ []string, s streams) error {
		if *n < 0 {
			return usagef("-n %d: write how many events, as in -n 20", *n)
		}
		write := func(e status.Event) error { return api.WriteEvent(s.out, e) }
		if *asJSON {
			write = func(e status.Event) error { return json.NewEncoder(s.out).Encode(e) }
		}
		var past []status.Event
		last := uint64(0)
		err := dial(*socket).Events(ctx, 0, false, func(e status.Event) error {
			past, last = slices.Insert(past, insertionIndex(past, e), e), max(last, e.ID)
			return nil
		})
		if *n > 0 {
			past = past[max(0, len(past)-*n):]
		}
		for _, e := range past {
			err = errors.Join(err, write(e))
		}
		if err == nil && *follow {
			err = dial(*socket).Events(ctx, last, true, write)
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// insertionIndex is where an event belongs among earlier ones. Evidence takes a moment to gather, in which what followed from a
// verdict may get into the log before it. Larger differences are those of a clock that was set.
func insertionIndex(past []status.Event, e status.Event) int {
	i := len(past)
	for i > 0 && past[i-1].Time.After(e.Time.Time) && past[i-1].Time.Sub(e.Time.Time) < time.Second {
		i--
	}
	return i
}

func drainCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	now := set.Bool("now", false, "end existing flows too, so that they begin again elsewhere")
	return func(ctx context.Context, rest []string, _ streams) error {
		d := status.Drained
		if *now {
			d = status.DrainedNow
		}
		return dial(*socket).Drain(ctx, rest[0], d)
	}
}

func undrainCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	return func(ctx context.Context, rest []string, _ streams) error {
		return dial(*socket).Drain(ctx, rest[0], status.Undrained)
	}
}

func reloadCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	confirm := set.Duration("confirm", 0, "revert after this `TIME` (60s, for example) unless confirmed")
	return func(ctx context.Context, _ []string, s streams) error {
		waits := false
		set.Visit(func(f *flag.Flag) { waits = waits || f.Name == "confirm" })
		if waits && *confirm <= 0 {
			return usagef("--confirm: %v is not a time to wait: write 60s, for example", *confirm)
		}
		if err := dial(*socket).Reload(ctx, *confirm); err != nil || !waits {
			return err
		}
		fmt.Fprintf(s.out, "to be reverted at %s unless you run: uplinkd confirm\n", time.Now().Add(*confirm).Format(time.TimeOnly))
		return nil
	}
}

func confirmCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	return func(ctx context.Context, _ []string, _ streams) error { return dial(*socket).Confirm(ctx) }
}

func pairCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	return func(ctx context.Context, _ []string, s streams) error {
		client, began := dial(*socket), time.Now()
		if err := client.Yield(ctx); err != nil {
			return err
		}
		st, err := client.Status(ctx)
		if err == nil && st.Pair != nil {
			fmt.Fprintf(s.out, "the other router, %s, has %s after %v\n", st.Pair.Peer, st.Pair.Virtual, time.Since(began).Round(time.Millisecond))
		}
		return err
	}
}

func usageCommand(set *flag.FlagSet) runner {
	socket := socketFlag(set)
	asJSON := set.Bool("json", false, "print JSON")
	return func(ctx context.Context, _ []string, s streams) error {
		usage, err := dial(*socket).Usage(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			return enc.Encode(usage)
		}
		return api.WriteUsage(s.out, usage)
	}
}
