package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/importer"
)

// documentedCommand is a command as completion and the manual page see it.
type documentedCommand struct {
	*command
	options []*flag.Flag
}

func commandsWithOptions(list []command) []documentedCommand {
	all := make([]documentedCommand, len(list))
	for i := range list {
		all[i].command = &list[i]
		set, _ := list[i].options()
		set.VisitAll(func(f *flag.Flag) { all[i].options = append(all[i].options, f) })
	}
	return all
}

// literals are the words of a command that are typed as they stand.
func (c *command) literals() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(c.words), func(w string) bool { return strings.ToLower(w) != w }), " ")
}

// takesFile reports whether an option's value is the name of a file.
func takesFile(f *flag.Flag) bool {
	value, _ := flag.UnquoteUsage(f)
	return slices.Contains([]string{"FILE", "PATH", "DIR"}, value)
}

// isSwitch reports whether an option has no value.
func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// uplinkNames is what shells run to complete the name of an uplink: of the JSON's names, those that are indented
// as an uplink's are.
const uplinkNames = `uplinkd status --json 2>/dev/null | sed -n 's/^      "name": "\(.*\)",$/\1/p'`

// labCommands are the words of package lab, which parses its own.
const labCommands = "run break heal exec status down"

func completionCommand(*flag.FlagSet) runner {
	return func(_ context.Context, args []string, s streams) error {
		write, ok := map[string]func(io.Writer, []documentedCommand){"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[args[0]]
		if !ok {
			return usagef("completion is for bash, zsh and fish, not for %q", args[0])
		}
		write(s.out, commandsWithOptions(commands()))
		return nil
	}
}

func bashCompletion(w io.Writer, all []documentedCommand) {
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	fmt.Fprintf(w, "# Completion of uplinkd for bash: source it, or put it into /usr/share/bash-completion/completions/uplinkd.\n"+
		"_uplinkd() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n\tCOMPREPLY=()\n"+
		"\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\tCOMPREPLY=($(compgen -W '%s lab help' -- \"$cur\"))\n\t\treturn\n\tfi\n\tcase $command in\n", strings.Join(names, " "))
	for _, c := range all {
		var options, files, values []string
		for _, f := range c.options {
			options = append(options, dashes(f.Name))
			switch {
			case takesFile(f):
				files = append(files, dashes(f.Name))
			case !isSwitch(f):
				values = append(values, dashes(f.Name))
			}
		}
		fmt.Fprintf(w, "\t%s)\n", c.name)
		if len(files) > 0 {
			fmt.Fprintf(w, "\t\tcase $prev in %s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;; esac\n", strings.Join(files, "|"))
		}
		if len(values) > 0 {
			fmt.Fprintf(w, "\t\tcase $prev in %s) return ;; esac\n", strings.Join(values, "|"))
		}
		choices := "'" + strings.Join(options, " ") + "'"
		switch {
		case slices.Contains(c.words, "NAME"):
			choices = "\"" + strings.Join(options, " ") + " $(" + uplinkNames + ")\""
		case slices.Contains(c.words, "SHELL"):
			choices = "'bash zsh fish'"
		}
		if literal := c.literals(); literal != "" {
			choices = "'" + strings.Join(append(options, literal), " ") + "'"
		}
		more := ""
		if slices.Contains(c.words, "SYSTEM") {
			choices, more = "'"+strings.Join(append(options, importer.Systems...), " ")+"'", ` $(compgen -f -- "$cur")`
		}
		fmt.Fprintf(w, "\t\tCOMPREPLY=($(compgen -W %s -- \"$cur\")%s) ;;\n", choices, more)
	}
	fmt.Fprintf(w, "\tlab)\n\t\t[ \"$COMP_CWORD\" -eq 2 ] && COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n\tesac\n}\ncomplete -F _uplinkd uplinkd\n", labCommands)
}

// zshQuote writes a text between single quotes, with the colons and brackets that _arguments reads escaped.
func zshQuote(text string) string {
	return "'" + strings.NewReplacer("'", `'\''`, ":", `\:`, "[", `\[`, "]", `\]`).Replace(text) + "'"
}

func zshCompletion(w io.Writer, all []documentedCommand) {
	io.WriteString(w, "#compdef uplinkd\n# Completion of uplinkd for zsh: put it into a directory of $fpath as _uplinkd.\n_uplinkd() {\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range all {
		fmt.Fprintf(w, "\t\t%s\n", zshQuote(c.name)+":"+zshQuote(c.does))
	}
	fmt.Fprintf(w, "\t\t'lab':%s\n\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tlocal command=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n", zshQuote(labDoes))
	for _, c := range all {
		fmt.Fprintf(w, "\t%s)\n\t\t_arguments", c.name)
		for _, f := range c.options {
			value, what := flag.UnquoteUsage(f)
			spec := strings.Trim(zshQuote(what), "'")
			action := ""
			if !isSwitch(f) {
				action = ":" + strings.ToLower(value) + ":"
				if takesFile(f) {
					action += "_files"
				}
			}
			fmt.Fprintf(w, " '%s[%s]%s'", dashes(f.Name), spec, action)
		}
		switch {
		case slices.Contains(c.words, "NAME"):
			fmt.Fprintf(w, " \"1:uplink:($(%s))\"", uplinkNames) // quoting begins anew within $( )
		case slices.Contains(c.words, "SHELL"):
			io.WriteString(w, " '1:shell:(bash zsh fish)'")
		case slices.Contains(c.words, "SYSTEM"):
			fmt.Fprintf(w, " '1:system:(%s)' '*:file:_files'", strings.Join(importer.Systems, " "))
		}
		if literal := c.literals(); literal != "" {
			fmt.Fprintf(w, " '1:word:(%s)'", literal)
		}
		io.WriteString(w, " ;;\n")
	}
	fmt.Fprintf(w, "\tlab)\n\t\t_arguments '1:command:(%s)' ;;\n\tesac\n}\n_uplinkd \"$@\"\n", labCommands)
}

// fishQuote writes a text between single quotes.
func fishQuote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}

func fishCompletion(w io.Writer, all []documentedCommand) {
	io.WriteString(w, "# Completion of uplinkd for fish: put it into ~/.config/fish/completions/uplinkd.fish.\ncomplete -c uplinkd -f\n")
	for _, c := range all {
		fmt.Fprintf(w, "complete -c uplinkd -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuote(c.does))
	}
	fmt.Fprintf(w, "complete -c uplinkd -n __fish_use_subcommand -a lab -d %s\n", fishQuote(labDoes))
	for _, c := range all {
		seen := fmt.Sprintf("-n '__fish_seen_subcommand_from %s'", c.name)
		for _, f := range c.options {
			_, what := flag.UnquoteUsage(f)
			kind := "-l"
			if len(f.Name) == 1 {
				kind = "-s"
			}
			line := fmt.Sprintf("complete -c uplinkd %s %s %s -d %s", seen, kind, f.Name, fishQuote(what))
			switch {
			case takesFile(f):
				line += " -r -F"
			case !isSwitch(f):
				line += " -x"
			}
			fmt.Fprintln(w, line)
		}
		switch {
		case slices.Contains(c.words, "NAME"):
			fmt.Fprintf(w, "complete -c uplinkd %s -a %s\n", seen, fishQuote("("+uplinkNames+")"))
		case slices.Contains(c.words, "SHELL"):
			fmt.Fprintf(w, "complete -c uplinkd %s -a 'bash zsh fish'\n", seen)
		case slices.Contains(c.words, "SYSTEM"):
			fmt.Fprintf(w, "complete -c uplinkd %s -F -a '%s'\n", seen, strings.Join(importer.Systems, " "))
		}
		if literal := c.literals(); literal != "" {
			fmt.Fprintf(w, "complete -c uplinkd %s -a '%s'\n", seen, literal)
		}
	}
	fmt.Fprintf(w, "complete -c uplinkd -n '__fish_seen_subcommand_from lab' -a '%s'\n", labCommands)
}
