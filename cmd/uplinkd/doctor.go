package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/offline"
	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/internal/status"
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
		if err := askDaemon(ctx, socketPath(*socket, *file), &o); err != nil {
			return err
		}
		findings, beside, err := offline.Doctor(ctx, o)
		if err != nil {
			return err
		}
		if *asJSON {
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			err = enc.Encode(findings)
		} else {
			err = writeFindings(s, findings, beside)
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
	s, err := dial(socket).Status(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		return nil
	}
	heedDaemon(&s, o)
	return err
}

// heedDaemon has the doctor know what the daemon manages and what problems it has.
func heedDaemon(s *status.Status, o *offline.DoctorOptions) {
	o.DaemonProblems, o.Running = s.Problems, []string{}
	for i := range s.Uplinks {
		o.Running = append(o.Running, s.Uplinks[i].Name)
		o.DaemonProblems = append(o.DaemonProblems, doctor.DownUplink(&s.Uplinks[i])...)
	}
}

// examine is the doctor within the daemon, which may neither send packets for it nor make namespaces.
func examine(ctx context.Context, file string, s *status.Status) (status.Examination, error) {
	o := offline.DoctorOptions{ConfigFile: file, Quiet: true, Confined: true}
	heedDaemon(s, &o)
	findings, _, err := offline.Doctor(ctx, o)
	var e status.Examination
	for _, f := range findings {
		e.Findings = append(e.Findings, status.Finding{Check: f.Check, Severity: string(f.Severity), Cause: f.Cause, Fix: f.Fix})
	}
	return e, err
}

// writeFindings writes what was found, and which known programs are here.
func writeFindings(s streams, findings []doctor.Finding, beside []programs.Found) (err error) {
	if len(findings) == 0 {
		_, err = fmt.Fprintf(s.out, "no problems found by %d checks\n", len(doctor.Names()))
	} else {
		problems := make([]rules.Problem, len(findings))
		for i, f := range findings {
			problems[i] = rules.Problem{Code: f.Check, Severity: string(f.Severity), Message: f.Cause, Fix: f.Fix}
		}
		err = api.WriteProblems(s.out, problems, colorful(s))
	}
	if err == nil && len(beside) > 0 {
		var names []string
		for _, n := range beside {
			names = append(names, n.Name)
		}
		_, err = fmt.Fprintf(s.out, "also here: %s (docs/programs.md)\n", strings.Join(names, ", "))
	}
	return err
}
