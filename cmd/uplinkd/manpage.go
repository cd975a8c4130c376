package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
)

func manCommand(set *flag.FlagSet) runner {
	ofFile := set.Bool("config", false, "print uplinkd.toml(5), on the configuration file, instead of uplinkd(8)")
	return func(_ context.Context, _ []string, s streams) error {
		if *ofFile {
			configManPage(s.out)
			return nil
		}
		manPage(s.out, commandsWithOptions(commands()))
		return nil
	}
}

// roff escapes a text for man(7): hyphens that are typed, backslashes, and what begins a line like a request.
func roff(text string) string { return guarded(escaped(text)) }

func escaped(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}

func guarded(text string) string {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}

// manPage writes uplinkd(8), of the list that the program itself goes by.
func manPage(w io.Writer, all []documentedCommand) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line(`.TH UPLINKD 8 "" "uplinkd %s" "System Manager's Manual"`, roff(version()))
	line(".SH NAME\nuplinkd \\- keep a Linux router with several uplinks online")
	line(".SH SYNOPSIS")
	for _, c := range all {
		line(".B uplinkd %s", roff(c.name))
		if options := strings.TrimPrefix(c.synopsis(), "uplinkd "+c.name); options != "" {
			line("%s", roff(strings.TrimSpace(options)))
		}
		line(".br")
	}
	line(".B uplinkd lab\n%s", roff(strings.TrimPrefix(labUsage, "lab ")))
	line(".SH DESCRIPTION\nuplinkd watches every way to the Internet that a router has, judges whether it works, and keeps the kernel's policy\n" +
		"routing such that replies leave by the uplink that their requests came in by, and new traffic takes the best that works.\n" +
		"The control socket answers the commands that ask; whoever may write to it may do everything.")
	line(".SH COMMANDS")
	for _, c := range all {
		line(".SS %s", roff(strings.TrimSpace(c.name+" "+strings.Join(c.words, " "))))
		line("%s.", roff(strings.ToUpper(c.does[:1])+c.does[1:]))
		if c.about != "" {
			line("%s", roff(c.about))
		}
		for _, f := range c.options {
			value, what := flag.UnquoteUsage(f)
			line(".TP\n.BR %s %s\n%s.", roff(dashes(f.Name)), strings.TrimSpace(`" " `+`\fI`+roff(value)+`\fR`), roff(strings.ToUpper(what[:1])+what[1:]))
		}
	}
	line(".SS lab\n%s.\n\"uplinkd lab\" lists its commands.", roff(strings.ToUpper(labDoes[:1])+labDoes[1:]))
	line(".SH EXIT STATUS")
	for _, e := range []struct{ code, means string }{{"0", "Fine."}, {"1", "Failed; doctor: an error was found."}, {"2", "Wrong usage or configuration."}, {"3", "doctor: warnings were found, and no error; import: something was lost or does something else; status --check: on a spare, or with a problem."}} {
		line(".TP\n.B %s\n%s", e.code, roff(e.means))
	}
	line(".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nWhen it is not empty, nothing is coloured.")
	line(".SH FILES\n.TP\n.I %s\nThe configuration, unless another is named.", roff(defaultConfigFile))
	line(".TP\n.I /run/uplinkd/uplinkd.sock\nThe control socket.\n.TP\n.I /var/lib/uplinkd\nWhat is kept over restarts.")
	line(".SH SEE ALSO\n.BR uplinkd.toml (5),\n.BR ip\\-rule (8),\n.BR ip\\-route (8),\n.BR nft (8)")
}
