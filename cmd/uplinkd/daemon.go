package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/mdlayher/sdnotify"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/daemon"
	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/loglimit"
	"github.com/uplinkd/uplinkd/internal/sets"
	"github.com/uplinkd/uplinkd/internal/status"
)

func runCommand(set *flag.FlagSet) runner {
	file := configFlag(set)
	level := set.String("log", "info", "`LEVEL`: debug, info, warn or error")
	return func(ctx context.Context, _ []string, s streams) error { return runDaemon(ctx, *file, *level, s) }
}

func runDaemon(ctx context.Context, file, level string, s streams) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before anything that takes time: until then the signal would end us
	defer signal.Stop(hangup)
	log, err := logger(s.err, level)
	if err != nil {
		return err
	}
	reduceWakeups()
	notify, watchdog := serviceManager()
	file = configFile(file)
	d, err := daemon.New(daemon.Options{ConfigFile: file, Version: version(), Log: log, Notify: notify, Watchdog: watchdog,
		Examine: func(ctx context.Context, s *status.Status) (status.Examination, error) { return examine(ctx, file, s) }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go reloadOn(ctx, hangup, d, notify)
	go releaseStartMemory(ctx)
	return d.Run(ctx)
}

func reloadOn(ctx context.Context, hangup <-chan os.Signal, d *daemon.Daemon, notify func(string)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			notify("RELOADING=1")
			_ = d.Reload(0) // it logs its failure, and what runs goes on
			notify("READY=1")
		}
	}
}

// logger writes lines for a person or for the journal, which adds the time itself.
func logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log: %w", err)
	}
	options := &slog.HandlerOptions{Level: l}
	if os.Getenv("JOURNAL_STREAM") != "" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(loglimit.New(slog.NewTextHandler(w, options))), nil
}

// serviceManager speaks sd_notify(3) if there is somebody to listen, and reads how often that somebody
// wants to hear of us.
func serviceManager() (notify func(string), watchdog time.Duration) {
	n, err := sdnotify.New()
	if err != nil {
		return func(string) {}, 0
	}
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		watchdog = time.Duration(us) * time.Microsecond
	}
	return func(state string) { _ = n.Notify(state) }, watchdog
}

func checkCommand(set *flag.FlagSet) runner {
	file := configFlag(set)
	return func(_ context.Context, _ []string, s streams) error {
		path := configFile(*file)
		if path == "" {
			return usagef("there is no %s: name a file with -c (run works without one)", defaultConfigFile)
		}
		c, err := config.Load(path)
		if err != nil {
			return err
		}
		here := config.PresentDevices()
		for _, absent := range slices.Concat(c.AbsentDevices(here), c.AbsentPolicyDevices(here)) {
			// It may be checked on another machine, or before a modem is plugged in.
			fmt.Fprintf(s.err, "%s: warning: %v\n", path, absent)
		}
		for _, wrong := range sets.CheckFiles(c.Config) {
			fmt.Fprintf(s.err, "%s: warning: %v\n", path, wrong)
		}
		for _, p := range c.Programs() {
			if err := hooks.Runnable(p.Path); err != nil {
				fmt.Fprintf(s.err, "%s: warning: %s would not be run: %v\n", path, p.User, err)
			}
		}
		fmt.Fprintf(s.out, "%s: fine, %d uplinks\n", path, len(c.Uplinks))
		return nil
	}
}
