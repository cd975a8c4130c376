package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/offline"
	"github.com/uplinkd/uplinkd/rules"
)

// exitWarnings is how doctor ends when it has found warnings and no errors.
const exitWarnings = 3

// exitError ends the program with a code of its own and no further words.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func doctorCommand(set *flag.FlagSet) runner {
	file, socket := configFlag(set), socketFlag(set)
	asJSON := set.Bool("json", false, "print JSON")
	quiet := set.Bool("quiet", false, "send no packets: leaves out the checks of MTU and of probes that do not leave")
	root := set.String("root", "", "look for the files of other programs below this `DIR` instead of /")
	return func(ctx context.Context, _ []string, s streams) error {
		o := offline.DoctorOptions{ConfigFile: configFile(*file), Root: *root, Quiet: *quiet}
		if err := askDaemon(ctx, *socket, &o); err != nil {
			return err
		}
		findings, err := offline.Doctor(ctx, o)
		if err != nil {
			return err
		}
		if *asJSON {
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			err = enc.Encode(findings)
		} else {
			err = writeFindings(s, findings)
		}
		if err != nil {
			return err
		}
		switch doctor.Worst(findings) {
		case doctor.Error:
			return exitError{exitFailed}
		case doctor.Warning:
			return exitError{exitWarnings}
		}
		return nil
	}
}

// askDaemon asks the daemon, where one runs, what it manages and what problems it has.
func askDaemon(ctx context.Context, socket string, o *offline.DoctorOptions) error {
	status, err := dial(socket).Status(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		return nil
	}
	o.DaemonProblems, o.Running = status.Problems, []string{}
	for i := range status.Uplinks {
		o.Running = append(o.Running, status.Uplinks[i].Name)
	}
	return err
}

func writeFindings(s streams, findings []doctor.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintf(s.out, "nothing found by %d checks\n", len(doctor.Names()))
		return err
	}
	problems := make([]rules.Problem, len(findings))
	for i, f := range findings {
		problems[i] = rules.Problem{Code: f.Check, Severity: string(f.Severity), Message: f.Cause, Fix: f.Fix}
	}
	return api.WriteProblems(s.out, problems, colorful(s))
}
