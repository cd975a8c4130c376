package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/uplinkd/uplinkd/internal/offline"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func planCommand(set *flag.FlagSet) runner {
	file := configFlag(set)
	asJSON := set.Bool("json", false, "print JSON")
	return func(_ context.Context, _ []string, s streams) error { return runPlan(*file, *asJSON, s) }
}

func runPlan(file string, asJSON bool, s streams) error {
	p, err := offline.Plan(configFile(file))
	if err != nil {
		return err
	}
	if asJSON {
		return planJSON(p, s)
	}
	for _, family := range rules.Families {
		fmt.Fprintf(s.out, "# %s: %s\n", family.Name(), p.Report.Defaults[family].Reason)
	}
	for _, policy := range p.Report.Policies {
		for _, family := range rules.Families {
			if choice, ok := policy.Choice[family]; ok {
				fmt.Fprintf(s.out, "# policy %s, %s: %s\n", policy.Name, family.Name(), choice.Reason)
			}
		}
		fmt.Fprintf(s.out, "# policy %s is made of %s\n", policy.Name, policy.Reason)
	}
	for _, problem := range p.Report.Problems {
		fmt.Fprintln(s.out, comment(fmt.Sprintf("%s: %s; %s", problem.Severity, problem.Message, problem.Fix)))
	}
	if len(p.Changes) == 0 {
		fmt.Fprintln(s.out, "# nothing to change")
	}
	for _, op := range p.Changes {
		if why := reason(op); why != "" {
			fmt.Fprintln(s.out, "# "+why)
		}
		fmt.Fprintln(s.out, op.Command())
	}
	return nil
}

// comment is a comment for a shell, also where joined errors have several lines.
func comment(text string) string { return "# " + strings.ReplaceAll(text, "\n", "\n# ") }

func reason(op netcfg.Op) string {
	switch op := op.(type) {
	case netcfg.SetSysctl:
		return op.Why
	case netcfg.SetGroup:
		return op.Why
	case netcfg.SetHardware:
		return op.Why
	}
	return ""
}

func planJSON(p *offline.Preview, s streams) error {
	type change struct {
		Command string `json:"command"`
		Reason  string `json:"reason,omitempty"`
	}
	type policy struct {
		Name    string            `json:"name"`
		Reason  string            `json:"reason"`
		Carried map[string]string `json:"carried"`
	}
	out := struct {
		Changes  []change          `json:"changes"`
		Defaults map[string]string `json:"defaults"`
		Policies []policy          `json:"policies"`
		Problems []rules.Problem   `json:"problems"`
	}{Changes: []change{}, Defaults: map[string]string{}, Policies: []policy{}, Problems: append([]rules.Problem{}, p.Report.Problems...)}
	for _, r := range p.Report.Policies {
		carried := make(map[string]string)
		for family, choice := range r.Choice {
			carried[family.String()] = choice.Reason
		}
		out.Policies = append(out.Policies, policy{r.Name, r.Reason, carried})
	}
	for _, op := range p.Changes {
		out.Changes = append(out.Changes, change{op.Command(), reason(op)})
	}
	for family, choice := range p.Report.Defaults {
		out.Defaults[family.String()] = choice.Reason
	}
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

func cleanCommand(set *flag.FlagSet) runner {
	file := configFlag(set)
	return func(ctx context.Context, _ []string, s streams) error { return runClean(ctx, *file, s) }
}

func runClean(ctx context.Context, file string, s streams) error {
	log, err := logger(s.err, "warn")
	if err != nil {
		return err
	}
	c, mistake := offline.InForce(configFile(file))
	if mistake != nil && file != "" {
		return mistake // a file that is named
	}
	if mistake != nil {
		log.Warn("the configuration cannot be used: what was changed by the default numbers is removed", "err", mistake)
	}
	if err := notRunning(ctx, c.Daemon.Socket); err != nil {
		return err
	}
	changes, err := offline.Clean(c, log)
	for _, op := range changes {
		fmt.Fprintln(s.out, op.Command())
	}
	if err == nil && len(changes) == 0 {
		fmt.Fprintln(s.out, "# nothing of ours is there")
	}
	return err
}

// notRunning makes sure that no daemon would put back what clean removes.
func notRunning(ctx context.Context, socket string) error {
	if _, err := os.Stat(socket); err != nil {
		return nil
	}
	if _, err := dial(socket).Status(ctx); err == nil {
		return offline.ErrRunning
	}
	return nil
}

func initCommand(*flag.FlagSet) runner {
	return func(_ context.Context, _ []string, s streams) error {
		text, err := offline.Init()
		if err != nil {
			return err
		}
		_, err = io.WriteString(s.out, text)
		return err
	}
}
