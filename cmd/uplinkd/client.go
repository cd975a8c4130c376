package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
)

// socketFlag defines --socket. Its default is what the configuration file says, so that a changed
// path need not be typed.
func socketFlag(set *flag.FlagSet) *string {
	return set.String("socket", "", "control socket `PATH` of the daemon")
}

func socketPath(named string) string {
	if named != "" {
		return named
	}
	if file := configFile(""); file != "" {
		if c, err := config.Load(file); err == nil {
			return c.Daemon.Socket
		}
	}
	return config.Default().Daemon.Socket
}

func dial(socket string) *api.Client { return api.Dial(socketPath(socket)) }

// redrawEvery is the pace of status --watch.
const redrawEvery = time.Second

func runStatus(ctx context.Context, args []string, s streams) error {
	var socket *string
	var asJSON, watch *bool
	_, err := flags("status", args, 0, s, func(set *flag.FlagSet) {
		socket = socketFlag(set)
		asJSON = set.Bool("json", false, "print JSON")
		watch = set.Bool("watch", false, "show it anew every second")
	})
	if err != nil {
		return err
	}
	client := dial(*socket)
	for {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if *watch && !*asJSON {
			fmt.Fprint(s.out, "\x1b[H\x1b[2J")
		}
		if err := printStatus(s, status, *asJSON); err != nil || !*watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(redrawEvery):
		}
	}
}

func printStatus(s streams, status api.Status, asJSON bool) error {
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

func runEvents(ctx context.Context, args []string, s streams) error {
	var socket *string
	var follow *bool
	_, err := flags("events", args, 0, s, func(set *flag.FlagSet) {
		socket = socketFlag(set)
		follow = set.Bool("follow", false, "wait for further ones")
	})
	if err != nil {
		return err
	}
	err = dial(*socket).Events(ctx, 0, *follow, func(e api.Event) error { return api.WriteEvent(s.out, e) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func drain(drained bool) func(context.Context, []string, streams) error {
	name := "undrain"
	if drained {
		name = "drain"
	}
	return func(ctx context.Context, args []string, s streams) error {
		var socket *string
		rest, err := flags(name, args, 1, s, func(set *flag.FlagSet) { socket = socketFlag(set) })
		if err != nil {
			return err
		}
		return dial(*socket).Drain(ctx, rest[0], drained)
	}
}

func runReload(ctx context.Context, args []string, s streams) error {
	var socket *string
	if _, err := flags("reload", args, 0, s, func(set *flag.FlagSet) { socket = socketFlag(set) }); err != nil {
		return err
	}
	return dial(*socket).Reload(ctx)
}
