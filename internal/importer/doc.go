// Package importer translates configurations of other systems into ours. It is pure: files in, text and remarks out.
//
//	mwan3, pbr, network ── uci.go ──────┬─ network.go: devices of interfaces ─┐
//	                                    ├─ mwan3.go, mwan3rules.go ───────────┤
//	                                    └─ pbr.go ────────────────────────────┼─> draft.go ─> weights.go ─> render.go ─> TOML
//	VyOS, braces or set commands ─ vyosconf.go ─ vyos.go ─────────────────────┘      └─> remarks: what was lost, what differs
//
// A parser reads whatever it is given, and lists what it cannot read. A translator asks for the options that it knows; what it has not
// asked for is named in the end, so that nothing is passed over in silence. Each element of a draft is tried on the reader of
// configurations itself: what that refuses is taken out, with the reader's own words.
package importer

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// Systems are those that can be imported.
var Systems = []string{"mwan3", "pbr", "vyos"}

// File is a file that was read.
type File struct {
	Name string
	Data []byte
}

// Result is a configuration of ours and what became of the other one.
type Result struct {
	TOML    string
	Remarks []Remark
}

// Complete reports whether all does the same as before.
func (r *Result) Complete() bool {
	return !slices.ContainsFunc(r.Remarks, func(m Remark) bool { return m.Kind == Changed || m.Kind == Lost })
}

// ErrUnusable is the error of Convert for files that name no way out. The remarks say what they have.
var ErrUnusable = errors.New("no interface that leads out is in there")

var (
	zeroPrefix netip.Prefix
	zeroAddr   netip.Addr
)

// Convert translates the files of a system. Network is OpenWrt's /etc/config/network, nil when it is not known. The text of the
// result passes the reader of configurations.
func Convert(system string, files []File, network *File) (Result, error) {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = quoted(f.Name)
	}
	d := &draft{system: system, intro: []string{
		`Converted from ` + system + ` (` + strings.Join(names, ", ") + `) by "uplinkd import". CHANGED and LOST mark what is not as it was, ASSUMED what the files do not say.`,
		`Next: "uplinkd check -c FILE", then "uplinkd plan -c FILE", which changes nothing. Each key is explained in docs/configuration.md.`,
	}}
	switch system {
	case "mwan3", "pbr":
		all := new(uciFile)
		for _, f := range files {
			u := parseUCI(f)
			all.sections, all.broken = append(all.sections, u.sections...), append(all.broken, u.broken...)
		}
		d.broken(all.broken)
		n := networkOf(d, all, network)
		if system == "mwan3" {
			fromMwan3(d, all, n)
		} else {
			fromPBR(d, all, n)
		}
		d.unused(all, system)
	default:
		v := new(vyosFile)
		for _, f := range files {
			v.add(f)
		}
		d.broken(v.broken)
		fromVyOS(d, v)
	}
	return d.finish()
}

// broken names lines that could not be read.
func (d *draft) broken(list []brokenLine) {
	for i, b := range list {
		if i == 20 {
			d.note(Lost, b.from, "%d more lines cannot be read", len(list)-i)
			return
		}
		d.note(Lost, b.from, "line %d cannot be read: %s", b.from.line, b.why)
	}
}

// unused names options that no translator knows, once each.
func (d *draft) unused(u *uciFile, system string) {
	seen := make(map[string]bool)
	for _, s := range u.sections {
		if s.pkg != "" && s.pkg != system {
			continue
		}
		for _, o := range s.unused() {
			if key := s.kind + " " + o.name; !seen[key] && len(seen) < 50 {
				seen[key] = true
				d.note(Lost, o.from, "option %s of a section %s is not known", quoted(o.name), quoted(s.kind))
			}
		}
	}
}
