package api

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// RenderOptions say how to write a status.
type RenderOptions struct {
	Color bool      // with the escape sequences of a terminal
	Now   time.Time // what "since" is relative to
}

// The escape sequences of colours.
const (
	colorNone   = ""
	colorReset  = "\x1b[0m"
	colorBold   = "\x1b[1m"
	colorDim    = "\x1b[2m"
	colorRed    = "\x1b[31m"
	colorGreen  = "\x1b[32m"
	colorYellow = "\x1b[33m"
)

// cell is a text of a table and its colour.
type cell struct{ text, color string }

// WriteStatus writes s for people: a line about the daemon, one for each uplink
// and family, and the problems with what to do about them.
func WriteStatus(w io.Writer, s status.Status, opt RenderOptions) error {
	var b strings.Builder
	writeSummary(&b, s, opt)
	if len(s.Uplinks) > 0 {
		b.WriteByte('\n')
		writeTable(&b, uplinkTable(s, opt), opt.Color)
		writeProbeBytes(&b, s)
		writeDNS(&b, s.DNS)
		writeSets(&b, s.Sets, opt.Now)
		writeForwards(&b, s.Forwards)
	}
	writeProblems(&b, s.Problems, opt.Color)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteProblems writes problems for people, each with what to do about it.
func WriteProblems(w io.Writer, problems []rules.Problem, color bool) error {
	var b strings.Builder
	writeProblems(&b, problems, color)
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

func writeProblems(b *strings.Builder, problems []rules.Problem, color bool) {
	for _, p := range problems {
		b.WriteByte('\n')
		tint := colorYellow
		switch p.Severity {
		case "error":
			tint = colorRed
		case "notice":
			tint = colorDim
		}
		fmt.Fprintf(b, "%s: %s [%s]\n", paint(clean(p.Severity), tint, color), clean(p.Message), clean(p.Code))
		if p.Fix != "" {
			fmt.Fprintf(b, "  fix: %s\n", clean(p.Fix))
		}
	}
}

func writeSummary(b *strings.Builder, s status.Status, opt RenderOptions) {
	if s.Headline != "" {
		tint := map[status.Health]string{status.AllWell: colorGreen, status.Unsettled: colorYellow, status.NotOnline: colorRed}[s.Health()]
		b.WriteString(paint(clean(s.Headline), tint, opt.Color) + "\n\n")
	}
	fmt.Fprintf(b, "uplinkd %s", clean(or(s.Version, "(unknown version)")))
	if !s.Started.IsZero() {
		fmt.Fprintf(b, ", running for %s", age(opt.Now, s.Started.Time))
	}
	if s.Converged {
		b.WriteString(", " + paint("converged", colorGreen, opt.Color))
	} else {
		b.WriteString(", " + paint("not converged yet", colorYellow, opt.Color))
	}
	fmt.Fprintf(b, ", generation %d\n", s.Generation)
	if len(s.Uplinks) == 0 {
		b.WriteString("no uplinks\n")
	}
}

// writeProbeBytes says what probing has cost today, where that is anything.
func writeProbeBytes(b *strings.Builder, s status.Status) {
	var parts []string
	for i := range s.Uplinks {
		if u := &s.Uplinks[i]; u.ProbeBytesToday > 0 {
			parts = append(parts, clean(u.Name)+" "+amount(u.ProbeBytesToday))
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(b, "probes today: %s\n", strings.Join(parts, ", "))
	}
}

// writeDNS says where names are asked for, where anybody is told of that.
func writeDNS(b *strings.Builder, d status.DNS) {
	if len(d.Outputs) == 0 {
		return
	}
	var servers, outputs []string
	for _, r := range d.Resolvers {
		if r.Used {
			servers = append(servers, clean(r.Address)+" by "+clean(r.Uplink))
		}
	}
	for _, o := range d.Outputs {
		outputs = append(outputs, clean(o.Output))
	}
	fmt.Fprintf(b, "names: %s, told to %s\n", or(strings.Join(servers, ", "), "no server known"), strings.Join(outputs, ", "))
}

// writeSets says what is in sets, and since when.
func writeSets(b *strings.Builder, list []status.Set, now time.Time) {
	for _, s := range list {
		held := "nothing yet"
		if s.IPv4 != nil && s.IPv6 != nil {
			held = fmt.Sprintf("%d ranges of IPv4, %d of IPv6", *s.IPv4, *s.IPv6)
		}
		if !s.Loaded.IsZero() {
			held += ", as of " + age(now, s.Loaded.Time) + " ago"
		}
		if s.Cached {
			held += ", from before the start"
		}
		fmt.Fprintf(b, "set %s: %s, from %s\n", clean(s.Name), held, clean(s.From))
	}
}

// writeForwards says where ports lead.
func writeForwards(b *strings.Builder, list []status.Forward) {
	for _, f := range list {
		var hosts []string
		for _, a := range []netip.Addr{f.To4, f.To6} {
			switch {
			case a.IsValid() && f.ToPort != 0:
				hosts = append(hosts, netip.AddrPortFrom(a, uint16(f.ToPort)).String())
			case a.IsValid():
				hosts = append(hosts, a.String())
			}
		}
		if len(hosts) == 0 {
			hosts = append(hosts, "nowhere yet")
		}
		of := ""
		if len(f.Uplinks) > 0 {
			of = " of " + strings.Join(f.Uplinks, ", ")
		}
		fmt.Fprintf(b, "forward %s: %s %s%s to %s\n", clean(f.Name), clean(strings.Join(f.Protocols, " and ")), clean(f.Port), clean(of), strings.Join(hosts, " and "))
	}
}

// amount writes a number of bytes in powers of ten, as providers count.
func amount(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	if n < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

// uplinkTable returns the lines of the table, its head first. The column of
// delegated prefixes is there only when there are any.
func uplinkTable(s status.Status, opt RenderOptions) [][]cell {
	delegated := slices.ContainsFunc(s.Uplinks, func(u status.Uplink) bool { return len(u.IPv6.Delegated) > 0 })
	var table [][]cell
	head := []string{"UPLINK", "FAMILY", "STATE", "SHARE", "RTT", "LOSS", "SINCE", "ADDRESS", "GATEWAY"}
	if delegated {
		head = append(head, "PREFIX")
	}
	var line []cell
	for _, title := range append(head, "REASON") {
		line = append(line, cell{title, colorBold})
	}
	table = append(table, line)
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		for _, family := range rules.Families {
			f := u.Family(family)
			line := familyLine(u, family, f, opt.Now)
			if delegated {
				var prefixes []netip.Prefix
				for _, d := range f.Delegated {
					prefixes = append(prefixes, d.Prefix)
				}
				line = append(line, cell{text: firstOf(prefixes)})
			}
			line = append(line, cell{text: clean(or(f.Reason, "-"))})
			if f.State == uplink.Disabled {
				for i := range line {
					line[i].color = colorDim
				}
			}
			table = append(table, line)
		}
	}
	return table
}

func familyLine(u *status.Uplink, family rules.Family, f *status.FamilyStatus, now time.Time) []cell {
	name := clean(u.Name)
	var marks []string
	if u.Drained {
		marks = append(marks, "drained")
	}
	if u.OverQuota {
		marks = append(marks, "quota used up")
	}
	if u.Full {
		marks = append(marks, "full")
	}
	if f.Slower {
		marks = append(marks, "slower")
	}
	if r := u.Recover; r != nil && r.Running {
		marks = append(marks, "being helped")
	} else if r != nil && r.RunsToday > 0 {
		marks = append(marks, fmt.Sprintf("helped %d of %d times", r.RunsToday, r.MaxPerDay))
	}
	if u.Metered {
		marks = append(marks, "metered")
	}
	if f.AwaitsUndrain {
		marks = append(marks, "awaits undrain")
	}
	if f.Suppressed {
		marks = append(marks, "suppressed")
	}
	if len(u.CarriedBy) > 0 {
		marks = append(marks, "over "+strings.Join(u.CarriedBy, ", over "))
		if u.MTU > 0 {
			marks = append(marks, fmt.Sprintf("mtu %d", u.MTU))
		}
	}
	if u.HardwareAddress != "" {
		marks = append(marks, u.HardwareAddress)
	}
	if f.Portal {
		marks = append(marks, "portal")
	}
	if len(marks) > 0 {
		name += " (" + strings.Join(marks, ", ") + ")"
	}
	rtt, loss := "-", "-"
	if f.RTTms > 0 {
		rtt = fmt.Sprintf("%.1f ms", f.RTTms)
	}
	if len(f.Targets) > 0 {
		loss = percent(f.Loss)
	}
	gateway := "-"
	if f.Gateway.IsValid() {
		gateway = f.Gateway.String()
	}
	since := "-"
	if !f.Since.IsZero() {
		since = age(now, f.Since.Time)
	}
	return []cell{
		{text: name}, {text: family.String()}, {clean(string(f.State)), stateColor(f.State)},
		{text: percent(f.Share)}, {text: rtt}, {text: loss}, {text: since},
		{text: firstOf(f.Addresses)}, {text: gateway},
	}
}

func stateColor(s uplink.State) string {
	switch {
	case s == uplink.Up:
		return colorGreen
	case s == uplink.Down:
		return colorRed
	case s == uplink.Disabled:
		return colorDim
	}
	return colorYellow
}

// writeTable aligns the columns; the last one is as wide as it likes.
func writeTable(b *strings.Builder, table [][]cell, color bool) {
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, line := range table {
		for i, c := range line {
			b.WriteString(paint(c.text, c.color, color))
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
}

// WriteEvent writes e on one line, its time in the zone that it carries.
func WriteEvent(w io.Writer, e status.Event) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-7s", e.Time.Format("2006-01-02 15:04:05.000"), clean(string(e.Kind)))
	part := func(text string) {
		if text != "" {
			b.WriteString("  " + clean(text))
		}
	}
	subject := e.Uplink
	if e.Family != "" {
		subject = strings.TrimPrefix(subject+"/"+e.Family, "/")
	}
	part(subject)
	if e.From != "" || e.To != "" {
		part(or(e.From, "none") + " -> " + or(e.To, "none"))
	}
	part(e.Message)
	part(e.Reason)
	if len(e.Evidence) > 0 {
		part("[" + strings.Join(e.Evidence, "; ") + "]")
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n")
	return err
}

// age says how long ago t was, in two units at most. Clocks differ a little, so
// what lies ahead is now.
func age(now, t time.Time) string {
	d := max(now.Sub(t), 0)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// percent writes a ratio such that little is not nothing, and nearly all is not
// all.
func percent(ratio float64) string {
	switch p := 100 * ratio; {
	case p > 0 && p < 1:
		return "<1%"
	case p > 99 && p < 100:
		return ">99%"
	default:
		return fmt.Sprintf("%.0f%%", p)
	}
}

// firstOf writes the first prefix and how many more there are.
func firstOf(prefixes []netip.Prefix) string {
	switch len(prefixes) {
	case 0:
		return "-"
	case 1:
		return prefixes[0].String()
	}
	return fmt.Sprintf("%v +%d", prefixes[0], len(prefixes)-1)
}

func paint(text, color string, on bool) string {
	if !on || color == colorNone {
		return text
	}
	return color + text + colorReset
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// clean keeps a text on one line and away from the terminal's controls: parts of
// it may have come from a probe target.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsGraphic(r):
			return '?'
		}
		return r
	}, text)
}
