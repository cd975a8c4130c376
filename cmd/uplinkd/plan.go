package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
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

func initCommand(set *flag.FlagSet) runner {
	dir := set.String("pair", "", "write the files of two routers of which one works at a time below this `DIR`")
	var virtual, peer, own netip.Addr
	set.TextVar(&virtual, "virtual", netip.Addr{}, "with --pair: the `ADDRESS` that hosts have as their router, which moves")
	set.TextVar(&peer, "peer", netip.Addr{}, "with --pair: the other router's own `ADDRESS` in the same network")
	set.TextVar(&own, "own", netip.Addr{}, "with --pair: this router's own `ADDRESS` there, where it is not there yet")
	lan := set.String("lan", "", "with --pair: the `DEVICE` of that network, where it is not clear")
	return func(_ context.Context, _ []string, s streams) error {
		switch {
		case *dir == "" && (virtual.IsValid() || peer.IsValid() || own.IsValid() || *lan != ""):
			return usagef("--virtual, --peer, --own and --lan are about two routers: name a directory with --pair")
		case *dir != "" && (!virtual.Is4() || !peer.Is4()):
			return usagef("--pair needs two IPv4 addresses of the LAN that only you know: --virtual 192.168.7.1, which hosts have as their router, and --peer 192.168.7.3, the other router's own")
		case *dir != "":
			files, err := offline.InitPair(offline.PairOptions{Dir: *dir, Virtual: virtual, Peer: peer, Own: own, LAN: *lan})
			for _, file := range files {
				fmt.Fprintln(s.out, file)
			}
			if err == nil {
				fmt.Fprint(s.out, "Nothing else was changed. Read them, and copy those of each router: uplinkd.toml, pair.key and pair-flows to /etc/uplinkd,\n"+
					"keepalived.conf to /etc/keepalived, conntrackd.conf to /etc/conntrackd, sysctl.conf to /etc/sysctl.d/uplinkd.conf. What keepalived moves,\n"+
					"nothing else may set. Then: uplinkd check, uplinkd doctor. Step by step: docs/several-routers.md\n")
			}
			return err
		}
		text, err := offline.Init()
		if err != nil {
			return err
		}
		_, err = io.WriteString(s.out, text)
		return err
	}
}
