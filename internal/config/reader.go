package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reader turns the tree into values and records what is wrong with it.
type reader struct {
	*source
	sectionsByKey map[string][]string // sections by the keys they know, built when first asked for
}

// field is one key of a section.
type field struct {
	name  string
	takes string // what may be written, for the manual page; "" for sections
	read  func(r *reader, v *value)
}

// section is a table with its keys.
type section struct {
	title  string // "[daemon]"
	fields []field
}

func (s section) names() []string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return names
}

// section reads a table: each key by its field, and unknown ones as mistakes.
func (r *reader) section(t *table, s section) {
	for _, name := range t.names {
		v := t.values[name]
		i := slices.IndexFunc(s.fields, func(f field) bool { return f.name == name })
		if i < 0 {
			r.unknown(t, s, name, v)
			continue
		}
		s.fields[i].read(r, v)
	}
}

// unknown reports a key that its section does not have, with the likeliest of what was meant: a key of that section
// that is spelled alike, or the section that has such a key.
func (r *reader) unknown(t *table, s section, name string, v *value) {
	what := "key " + clip(name) + " in " + s.title
	if s.title == "" {
		what = "key " + clip(name)
		switch {
		case v.kind == kindTable && v.table.origin != originInline:
			what = "section [" + clip(name) + "]"
		case v.kind == kindList && len(v.elems) > 0 && v.elems[0].table != nil:
			what = "section [[" + clip(name) + "]]"
		}
	}
	var hint string
	others := r.sectionsWithKey(name)
	switch n := nearest(name, s.names()); {
	case n != "" && s.title == "":
		hint = ", did you mean " + rootTitle(n) + "?"
	case n != "":
		hint = ", did you mean " + n + "?"
		if t.misspelled == nil {
			t.misspelled = make(map[string]bool)
		}
		t.misspelled[n] = true
	case s.title == "[[lan]]" && lanAddress[name]:
		hint = ": uplinkd sets no LAN addresses; configure them where the system configures its interfaces"
	case len(others) == 0:
	case s.title == "" && others[0] == titleUplink && v.kind == kindTable:
		hint = fmt.Sprintf(": write [uplink.%s], below the [[uplink]] that it is for", name)
	case others[0] == titleUplink && strings.HasPrefix(s.title, "[uplink."):
		hint = ": it belongs in [[uplink]], above " + s.title
	default:
		hint = ": it belongs in " + orList(others)
	}
	r.fail(v, v.key, "unknown %s%s", what, hint)
}

// lanAddress are the keys by which people expect to give a LAN's device its address.
var lanAddress = map[string]bool{"address": true, "addresses": true, "ip": true, "ipaddr": true, "netmask": true, "gateway": true, "dhcp": true}

// sectionsWithKey returns the sections that know a key.
func (r *reader) sectionsWithKey(name string) []string {
	if r.sectionsByKey == nil {
		r.sectionsByKey = make(map[string][]string)
		for _, s := range sections() {
			for _, n := range s.names() {
				r.sectionsByKey[n] = append(r.sectionsByKey[n], s.title)
			}
		}
	}
	return r.sectionsByKey[name]
}

// fail reports a mistake and marks the value, so that nothing is derived from it.
func (r *reader) fail(v *value, off int, format string, args ...any) {
	v.bad = true
	r.errorf(off, format, args...)
}

// wrongType reports a value of the wrong type; example is how a value would be written.
func (r *reader) wrongType(v *value, name, want, example string) {
	is := v.kind.String()
	r.fail(v, v.off, "%s must be %s, not %s: write %s = %s", name, want, is, name, example)
}

// text is a string; check returns a message about the value, "" if it is right, and may be nil.
func text(name string, dst *string, example string, check func(name, s string) string) field {
	return field{name: name, takes: suchAs(example), read: func(r *reader, v *value) {
		s, ok := r.str(v, name, example)
		if !ok {
			return
		}
		if check != nil {
			if msg := check(name, s); msg != "" {
				r.fail(v, v.off, "%s", msg)
				return
			}
		}
		*dst = s
	}}
}

func suchAs(example string) string { return "a string, such as " + strconv.Quote(example) }

func listSuchAs(example string) string { return "a list, such as [" + strconv.Quote(example) + "]" }

// str returns the text of a string and reports any other type.
func (r *reader) str(v *value, name, example string) (string, bool) {
	if v.kind == kindString {
		return v.text, true
	}
	if v.kind == kindInteger || v.kind == kindFloat || v.kind == kindTime {
		example = v.text
	}
	r.wrongType(v, name, "a string", quote(example))
	return "", false
}

// integer is a whole number in lo..hi; check may know more about some number than that it is out of range.
func integer[T int | uint8 | uint32](name string, dst *T, lo, hi int64, check func(name string, n int64) string) field {
	return field{name: name, takes: fmt.Sprintf("%d to %d", lo, hi), read: func(r *reader, v *value) {
		if v.kind != kindInteger {
			example := strconv.FormatInt(int64(*dst), 10)
			if f, err := strconv.ParseFloat(strings.TrimSpace(v.text), 64); err == nil && f == float64(int64(f)) {
				example = strconv.FormatInt(int64(f), 10)
			}
			r.wrongType(v, name, "an integer", example)
			return
		}
		n, err := strconv.ParseInt(strings.ReplaceAll(v.text, "_", ""), 0, 64)
		if err == nil && check != nil {
			if msg := check(name, n); msg != "" {
				r.fail(v, v.off, "%s", msg)
				return
			}
		}
		if err != nil || n < lo || n > hi {
			r.fail(v, v.off, "%s = %s is out of range: it must be %d to %d", name, clip(v.text), lo, hi)
			return
		}
		*dst = T(n)
	}}
}

// boolean is true or false.
func boolean(name string, dst *bool) field {
	return field{name: name, takes: "true or false", read: func(r *reader, v *value) {
		if v.kind != kindBool {
			example := "true"
			switch strings.ToLower(v.text) {
			case "false", "no", "off", "0":
				example = "false"
			}
			r.wrongType(v, name, "true or false", example)
			return
		}
		*dst = v.text == "true"
	}}
}

// unsetOrBoolean is true or false; what it is without the key is for others to say.
func unsetOrBoolean(name string, dst *Auto) field {
	var on bool
	b := boolean(name, &on)
	return field{name: name, takes: b.takes, read: func(r *reader, v *value) {
		b.read(r, v)
		if *dst = Off; on {
			*dst = On
		}
	}}
}

// autoOrBoolean is "auto", true or false.
func autoOrBoolean(name string, dst *Auto) field {
	return field{name: name, takes: `"auto", true or false`, read: func(r *reader, v *value) {
		if v.kind == kindString && v.text == string(Automatic) || v.kind == kindBool {
			*dst = Auto(v.text)
			return
		}
		r.fail(v, v.off, `%s must be "auto", true or false: write %s = "auto"`, name, name)
	}}
}

// duration is a string with a number and a unit, in lo..hi.
func duration(name string, dst *time.Duration, lo, hi time.Duration) field {
	return field{name: name, takes: fmt.Sprintf("%q to %q", span(lo), span(hi)), read: func(r *reader, v *value) {
		if v.kind != kindString {
			example := span(*dst)
			if v.kind == kindInteger {
				example = v.text + "s"
			}
			r.wrongType(v, name, "a string with a number and a unit", quote(example))
			return
		}
		d, err := time.ParseDuration(v.text)
		if err != nil {
			hint := fmt.Sprintf("write a number and a unit (ms, s, m or h), as in %s = %q", name, span(*dst))
			if n, numErr := strconv.ParseUint(v.text, 10, 32); numErr == nil && n > 0 {
				hint = fmt.Sprintf("write %s = \"%ds\" or %s = \"%dms\"", name, n, name, n)
			}
			r.fail(v, v.off, "invalid duration %s: %s", quote(v.text), hint)
			return
		}
		if d < lo || d > hi {
			r.fail(v, v.off, "%s = %s is out of range: it must be %s to %s", name, quote(v.text), span(lo), span(hi))
			return
		}
		*dst = d
	}}
}

// span writes a duration as people do: 1h rather than 1h0m0s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// choice is one of a few words; later maps those that this version does not act upon to their message.
func choice[T ~string](name string, dst *T, words []T, later map[string]string) field {
	all, known := make([]string, len(words)), make([]string, len(words))
	for i, w := range words {
		all[i], known[i] = strconv.Quote(string(w)), string(w)
	}
	return field{name: name, takes: orList(all), read: func(r *reader, v *value) {
		s, ok := r.str(v, name, string(words[0]))
		if !ok {
			return
		}
		if msg, isLater := later[s]; isLater {
			r.fail(v, v.off, "%s", msg)
			return
		}
		if !slices.Contains(words, T(s)) {
			hint := ": write " + orList(all)
			if n := nearest(s, known); n != "" {
				hint = fmt.Sprintf(", did you mean %q?", n)
			}
			r.fail(v, v.off, "unknown %s %s%s", name, quote(s), hint)
			return
		}
		*dst = T(s)
	}}
}

// parsed is a string that parse makes a value of; parse returns a message if it cannot.
func parsed[T any](name string, dst *T, example string, parse func(name, s string) (T, string)) field {
	return field{name: name, takes: suchAs(example), read: func(r *reader, v *value) {
		s, ok := r.str(v, name, example)
		if !ok {
			return
		}
		x, msg := parse(name, s)
		if msg != "" {
			r.fail(v, v.off, "%s", msg)
			return
		}
		*dst = x
	}}
}

// subtable is a section of which there is one.
func subtable(name, title string, read func(r *reader, t *table)) field {
	return field{name: name, read: func(r *reader, v *value) {
		switch {
		case v.kind == kindTable:
			read(r, v.table)
		case v.kind == kindList && len(v.elems) > 0 && v.elems[0].table != nil:
			r.fail(v, v.off, "there is one %s section only: write it once, with single brackets", title)
		default:
			r.fail(v, v.off, "%s must be a section, not %s: write %s on a line of its own and its keys below",
				name, v.kind, title)
		}
	}}
}
