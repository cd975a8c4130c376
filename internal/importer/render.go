package importer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/probe"
)

// finish takes out what a configuration cannot hold, saying so, and writes the rest.
func (d *draft) finish() (Result, error) {
	if len(d.uplinks)+len(d.policies) == 0 {
		return Result{Remarks: d.all()}, ErrUnusable
	}
	if len(d.uplinks) == 0 {
		d.note(Lost, origin{d.system, 0}, "no interface is in the files, so that no uplink could be written, and what names them is a comment. Without any, every device with a default route is an uplink")
	}
	d.weigh()
	for _, u := range d.uplinks {
		d.settle(u)
	}
	d.fitTables()
	head := new(writer)
	for _, u := range d.uplinks {
		u.write(head)
	}
	for _, s := range d.sets {
		s.write(head)
	}
	for _, p := range d.policies {
		if why := refused(head, p.write); why != "" && !p.off {
			p.off = true
			p.note(Lost, origin{d.system, 0}, "it cannot be had here as it was (%s): it is left out", why)
		}
	}
	d.proxies = slices.DeleteFunc(d.proxies, func(p *proxy) bool {
		why := refused(head, p.write)
		if why != "" {
			d.note(Lost, origin{d.system, 0}, "the proxy %s is left out (%s)", p.name, why)
		}
		return why != ""
	})
	d.gather()
	w := new(writer)
	d.write(w)
	_, err := config.Parse(d.system, []byte(w.String()))
	if err != nil {
		err = fmt.Errorf("this is a mistake in the importer, please report it: %w", err)
	}
	return Result{TOML: w.String(), Remarks: d.all()}, err
}

// gather says once what is to be said of several uplinks or policies.
func (d *draft) gather() {
	lists := make(map[*remarked]string)
	var inOrder []*remarked
	for _, u := range d.uplinks {
		lists[&u.remarked], inOrder = u.name, append(inOrder, &u.remarked)
	}
	for _, p := range d.policies {
		lists[&p.remarked], inOrder = p.name, append(inOrder, &p.remarked)
	}
	of := make(map[string][]string)
	for _, l := range inOrder {
		for _, r := range l.remarks {
			of[r.Text] = append(of[r.Text], lists[l])
		}
	}
	for _, l := range inOrder {
		l.remarks = slices.DeleteFunc(l.remarks, func(r Remark) bool {
			if len(of[r.Text]) < 2 {
				return false
			}
			d.note(r.Kind, origin{r.File, r.Line}, "%s: %s", clipped(strings.Join(of[r.Text], ", "), 200), r.Text)
			return true
		})
	}
	d.turnSetsOff()
}

// turnSetsOff writes sets as comments that only policies name which are written so.
func (d *draft) turnSetsOff() {
	for _, s := range d.sets {
		named := func(m *match) bool { return slices.Contains(m.from, "@"+s.name) || slices.Contains(m.to, "@"+s.name) }
		s.off = !slices.ContainsFunc(d.policies, func(p *policy) bool { return !p.off && named(&p.match) }) &&
			!slices.ContainsFunc(d.proxies, func(p *proxy) bool { return named(&p.match) })
		for i := range s.remarks {
			if s.off {
				s.remarks[i].Kind = Kept
			}
		}
	}
}

// refused says why an element cannot stand behind others, in the configuration's own words, or "".
func refused(head *writer, write func(*writer)) string {
	w := new(writer)
	w.WriteString(head.String())
	write(w)
	_, err := config.Parse("", []byte(w.String()))
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	if parts := strings.SplitN(first, ": ", 2); len(parts) == 2 && strings.Trim(parts[0], ":0123456789") == "" {
		first = parts[1]
	}
	return clipped(first, 200)
}

func clipped(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return s
}

// settle takes from an uplink what a configuration does not accept.
func (d *draft) settle(u *uplink) {
	var kept []probe.Target
	for _, text := range u.targets {
		t, err := probe.ParseTarget(text)
		switch {
		case err != nil:
			u.note(Lost, origin{d.system, 0}, "%s", clipped(err.Error(), 200))
		case slices.ContainsFunc(kept, t.Same):
		case len(kept) == 32:
			u.note(Lost, origin{d.system, 0}, "target %s: an uplink has at most 32", quoted(text))
		default:
			kept = append(kept, t)
		}
	}
	var count [2]int
	u.targets = u.targets[:0]
	for _, t := range kept {
		f := 0
		if t.Addr().Is6() {
			f = 1
		}
		if u.carries[f] {
			count[f]++
			u.targets = append(u.targets, t.String())
		}
	}
	for f := range count {
		if u.carries[f] && count[f] == 0 && count[1-f] > 0 {
			for _, t := range defaultTargets(f == 1) {
				u.targets = append(u.targets, t)
				count[f]++
			}
		}
	}
	if len(u.targets) == 0 {
		u.minTargets = [2]int{}
	}
	if why := refused(new(writer), u.write); why != "" && u.address.IsValid() {
		u.note(Lost, origin{d.system, 0}, "its address and gateway cannot stand here (%s): it follows what the system configures", why)
		u.address = u.address.Masked()
		u.address, u.gateway = zeroPrefix, zeroAddr
	}
	if why := refused(new(writer), u.write); why != "" {
		u.note(Lost, origin{d.system, 0}, "the device is not known (%s): write the right one", why)
		for n := 1; ; n++ {
			u.device = "unknown" + strconv.Itoa(n)
			if !slices.ContainsFunc(d.uplinks, func(o *uplink) bool { return o != u && o.device == u.device }) {
				break
			}
		}
	}
}

// defaultTargets are those of one family that are asked when none are named.
func defaultTargets(six bool) (list []string) {
	for _, t := range config.DefaultUplink("", "").Probe.Targets {
		if t.Addr().Is6() == six {
			list = append(list, t.String())
		}
	}
	return list
}

// Limits of a configuration, for what is left when the uplinks have theirs.
const (
	mostUplinks  = 40
	mostPolicies = 500
)

// fitTables turns off the policies for which there is no routing table.
func (d *draft) fitTables() {
	if len(d.uplinks) > mostUplinks {
		d.note(Lost, origin{d.system, 0}, "these are %d ways out: the first %d are here", len(d.uplinks), mostUplinks)
		d.uplinks = d.uplinks[:mostUplinks]
	}
	groups := make(map[string]bool)
	for i, p := range d.policies {
		dropped := slices.ContainsFunc(p.ways.uplinks(), func(u *uplink) bool { return !slices.Contains(d.uplinks, u) })
		key := fmt.Sprint(p.ways.words(), p.killSwitch, p.match.except)
		room := config.MaxUplinks - len(d.uplinks) - 1 - min(1, len(d.proxies))
		if p.off {
			continue
		}
		if i >= mostPolicies || dropped || !groups[key] && len(groups) >= room {
			p.off = true
			p.note(Lost, origin{d.system, 0}, "there are more rules than uplinkd has routing tables for: it is left out")
			continue
		}
		groups[key] = true
	}
	if len(d.sets) > config.MaxSets {
		d.sets = d.sets[:config.MaxSets]
	}
	d.proxies = d.proxies[:min(len(d.proxies), config.MaxTProxies)]
}

// all are the remarks of the whole draft, in the order in which they are written.
func (d *draft) all() []Remark {
	list := slices.Clone(d.remarks)
	add := func(what string, remarks []Remark) {
		for _, r := range remarks {
			r.Text = what + ": " + r.Text
			list = append(list, r)
		}
	}
	for _, u := range d.uplinks {
		add("uplink "+u.name, u.remarks)
	}
	for _, s := range d.sets {
		add("set "+s.name, s.remarks)
	}
	for _, p := range d.policies {
		add("policy "+p.name, p.remarks)
	}
	for _, p := range d.proxies {
		add("tproxy "+p.name, p.remarks)
	}
	return list
}

// writer collects lines of TOML.
type writer struct {
	strings.Builder
	prefix string // before each line: "# " for what is turned off
}

// section begins one that has a name, turned off or not, until end is called.
func (w *writer) section(kind, name string, remarks []Remark, off bool) (end func()) {
	w.remarks(remarks)
	if off {
		w.prefix = "# "
	}
	w.line("[[%s]]", kind)
	w.line("name = %s", tomlString(name))
	return func() { w.prefix = "" }
}

const width = 110

func (w *writer) line(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		w.WriteString(w.prefix + strings.TrimSuffix(line, "\n") + "\n")
	}
	if format == "" {
		w.WriteString("\n")
	}
}

// comment writes a text as lines that begin with #.
func (w *writer) comment(text string) {
	line := "#"
	for _, word := range strings.Fields(printable(text)) {
		if len(line)+1+len(word) > width && line != "#" {
			w.WriteString(line + "\n")
			line = "#  "
		}
		line += " " + word
	}
	w.WriteString(line + "\n")
}

func (w *writer) remarks(list []Remark) {
	for _, r := range list {
		text := r.Text
		if r.Kind != Kept {
			text = strings.ToUpper(string(r.Kind)) + ": " + text
		}
		w.comment(text)
	}
}

// list writes a key with its elements: one needs no brackets, many take several lines.
func (w *writer) list(indent, key string, elems []string, scalar bool) {
	elems = unique(elems)
	quotedElems := make([]string, len(elems))
	for i, e := range elems {
		quotedElems[i] = tomlString(e)
	}
	switch one := strings.Join(quotedElems, ", "); {
	case len(elems) == 0:
	case len(elems) == 1 && scalar:
		w.line("%s%s = %s", indent, key, one)
	case len(one) < width-len(key)-10:
		w.line("%s%s = [%s]", indent, key, one)
	default:
		w.line("%s%s = [", indent, key)
		row := ""
		for _, e := range quotedElems {
			if len(row)+len(e) > width-10 {
				w.line("%s  %s", indent, row)
				row = ""
			}
			row = strings.TrimPrefix(row+" "+e+",", " ")
		}
		w.line("%s  %s", indent, row)
		w.line("%s]", indent)
	}
}

func unique(list []string) (out []string) {
	seen := make(map[string]bool, len(list))
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// tomlString writes a basic string (TOML 1.0): controls are escaped as \u with four digits.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text(s) {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// write writes the whole configuration.
func (d *draft) write(w *writer) {
	for _, text := range d.intro {
		w.comment(text)
	}
	if len(d.remarks) > 0 {
		w.line("#")
		w.remarks(d.remarks)
	}
	for _, u := range d.uplinks {
		w.line("")
		u.write(w)
	}
	for _, s := range d.sets {
		w.line("")
		s.write(w)
	}
	for _, p := range d.policies {
		w.line("")
		p.write(w)
	}
	for _, p := range d.proxies {
		w.line("")
		p.write(w)
	}
}

func (u *uplink) write(w *writer) {
	w.remarks(u.remarks)
	w.line("[[uplink]]")
	w.line("name = %s", tomlString(u.name))
	w.line("device = %s", tomlString(u.device))
	if u.wireguard {
		w.line("kind = %q", config.KindWireGuard)
	}
	if u.noDefault {
		w.line("default = false")
	} else if u.tier > 1 {
		w.line("tier = %d", u.tier)
	}
	if u.metered {
		w.line("metered = true")
	}
	if u.weight > 1 {
		w.line("weight = %d", u.weight)
	}
	switch {
	case !u.carries[0]:
		w.line("  [uplink.ipv4]\n" + `  method = "off"`)
	case u.address.IsValid() || u.noMasquerade:
		w.line("  [uplink.ipv4]")
		if u.address.IsValid() {
			w.line("  method = \"static\"\n  address = %q\n  gateway = %q", u.address, u.gateway)
		}
		if u.noMasquerade {
			w.line("  masquerade = false")
		}
	}
	if !u.carries[1] {
		w.line("  [uplink.ipv6]\n" + `  method = "off"`)
	}
	if len(u.targets) == 0 {
		return
	}
	w.line("  [uplink.probe]")
	w.list("  ", "targets", u.targets, false)
	if n := u.atLeast(); n > 1 {
		w.line("  min_targets_up = %d", n)
	}
}

// atLeast is how many targets must answer, which is one number for both families.
func (u *uplink) atLeast() int {
	var count [2]int
	for _, text := range u.targets {
		if t, err := probe.ParseTarget(text); err == nil && t.Addr().Is6() {
			count[1]++
		} else {
			count[0]++
		}
	}
	n := 0
	for f, want := range u.minTargets {
		if u.carries[f] && want > 0 {
			if n == 0 {
				n = want
			}
			n = min(n, want)
		}
	}
	for f := range count {
		if u.carries[f] {
			n = min(n, count[f])
		}
	}
	return n
}

func (s *set) write(w *writer) {
	defer w.section("set", s.name, s.remarks, s.off)()
	if len(s.addresses) > 0 {
		w.list("", "addresses", s.addresses, false)
		return
	}
	w.line("filled = true")
}

func (p *policy) write(w *writer) {
	defer w.section("policy", p.name, p.remarks, p.off)()
	p.match.write(w)
	if p.unknown != "" {
		w.line("uplinks = [...]  # what %s had", clipped(printable(p.unknown), 60))
		return
	}
	tiers := make([]string, len(p.ways))
	for i, tier := range p.ways {
		names, weights := make([]string, len(tier)), bounded(tier)
		for j, s := range tier {
			name := s.uplink.name
			if p.weighed[i] {
				name += ":" + strconv.Itoa(weights[j])
			}
			names[j] = tomlString(name)
		}
		tiers[i] = strings.Join(names, ", ")
		if len(tier) > 1 {
			tiers[i] = "[" + tiers[i] + "]"
		}
	}
	w.line("uplinks = [%s]", strings.Join(tiers, ", "))
	if p.killSwitch {
		w.line(`fallback = "unreachable"`)
	}
	if p.sticky && p.ways.shared() {
		w.line(`sticky = "source"`)
	}
}

func (m *match) write(w *writer) {
	w.list("", "iif", m.iif, true)
	w.list("", "mac", m.mac, true)
	w.list("", "from", m.from, true)
	w.list("", "to", m.to, true)
	w.list("", "except", m.except, true)
	w.list("", "protocol", m.protocols, true)
	w.list("", "sport", m.sport, true)
	w.list("", "dport", m.dport, true)
	if m.uid != "" {
		w.line("uid = %q", m.uid)
	}
	w.list("", "dscp", m.dscp, true)
}

func (p *proxy) write(w *writer) {
	w.remarks(p.remarks)
	w.line("[[tproxy]]")
	w.line("name = %s", tomlString(p.name))
	w.line("port = %d", p.port)
	p.match.write(w)
}
