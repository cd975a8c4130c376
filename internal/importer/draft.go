package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/uplinkd/uplinkd/internal/config"
)

// origin is a place in a file of the other system.
type origin struct {
	file string
	line int
}

// Kind says what has become of something.
type Kind string

// The kinds of remarks.
const (
	Kept    Kind = "kept"    // means the same here; the remark says how
	Changed Kind = "changed" // does something else here
	Lost    Kind = "lost"    // does nothing here
	Assumed Kind = "assumed" // not in the files: a guess that the admin has to look at
)

// Remark is what became of a construct of the other system, and what to do about it.
type Remark struct {
	File string
	Line int // 0: of the whole
	Kind Kind
	Text string
}

// String is the line of a remark on stderr.
func (r Remark) String() string {
	if r.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", r.File, r.Kind, r.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Kind, r.Text)
}

// draft is a configuration of ours in the making. The translators fill it, render writes it.
type draft struct {
	system   string // "mwan3"
	intro    []string
	uplinks  []*uplink
	sets     []*set
	policies []*policy
	proxies  []*proxy
	remarks  []Remark // about no element of its own

	// defaults are the ways of what no policy selects, by family.
	defaults [2]ways
}

// remarked collects remarks about one element of the draft, which are written above it.
type remarked struct{ remarks []Remark }

func (r *remarked) note(kind Kind, at origin, format string, args ...any) {
	text := printable(fmt.Sprintf(format, args...))
	if !slices.ContainsFunc(r.remarks, func(o Remark) bool { return o.Text == text }) {
		r.remarks = append(r.remarks, Remark{at.file, at.line, kind, text})
	}
}

// note is a remark about the whole.
func (d *draft) note(kind Kind, at origin, format string, args ...any) {
	r := remarked{d.remarks}
	r.note(kind, at, format, args...)
	d.remarks = r.remarks
}

// families are IPv4 and IPv6, in this order.
type families [2]bool

var both = families{true, true}

func (f families) words() string {
	switch f {
	case families{true, false}:
		return "IPv4"
	case families{false, true}:
		return "IPv6"
	}
	return "IPv4 and IPv6"
}

// uplink is an [[uplink]].
type uplink struct {
	remarked
	name, device string
	carries      families
	tier, weight int
	noDefault    bool
	noMasquerade bool
	address      netip.Prefix // of method "static", IPv4; zero: "auto"
	gateway      netip.Addr
	targets      []string
	minTargets   [2]int // by family, 0: not said
	metered      bool
	wireguard    bool // of that kind, on a device that others make
}

// set is a [[set]].
type set struct {
	remarked
	name      string
	off       bool // written as a comment
	addresses []string
}

// policy is a [[policy]].
type policy struct {
	remarked
	name       string
	off        bool // written as a comment
	ways       ways
	weighed    map[int]bool // tiers of the ways with weights that are not the uplinks'
	unknown    string       // what stood for the ways, where the files do not say: only with off
	killSwitch bool
	sticky     bool
	match      match
}

// proxy is a [[tproxy]].
type proxy struct {
	remarked
	name  string
	port  int
	match match
}

// match is what a policy selects.
type match struct {
	from, to  []string // addresses, prefixes and "@set"
	iif       []string
	protocols []string
	sport     []string
	dport     []string
	uid       string
	dscp      []string
	mac       []string
	except    []string
}

func (m *match) empty() bool {
	return len(m.from)+len(m.to)+len(m.iif)+len(m.protocols)+len(m.uid)+len(m.dscp)+len(m.mac)+len(m.except) == 0
}

// ways are tiers of uplinks, the best first.
type ways [][]share

// share is an uplink in a tier, with its share of it.
type share struct {
	uplink *uplink
	weight int
}

// order sorts members into ways; several entries of an uplink in one tier add up, and of several tiers the best counts.
func order[M any](members []M, of func(M) (u *uplink, metric, weight int)) ways {
	type entry struct {
		share
		metric int
	}
	var list []*entry
	for _, m := range members {
		u, metric, weight := of(m)
		i := slices.IndexFunc(list, func(e *entry) bool { return e.uplink == u })
		switch {
		case i < 0:
			list = append(list, &entry{share{u, weight}, metric})
		case metric < list[i].metric:
			list[i].metric, list[i].weight = metric, weight
		case metric == list[i].metric:
			list[i].weight += weight
		}
	}
	slices.SortStableFunc(list, func(a, b *entry) int { return cmp.Compare(a.metric, b.metric) })
	var w ways
	for i, e := range list {
		if i == 0 || e.metric != list[i-1].metric {
			w = append(w, nil)
		}
		w[len(w)-1] = append(w[len(w)-1], e.share)
	}
	return w
}

func (w ways) uplinks() (list []*uplink) {
	for _, tier := range w {
		for _, s := range tier {
			list = append(list, s.uplink)
		}
	}
	return list
}

func (w ways) has(u *uplink) bool { return slices.Contains(w.uplinks(), u) }

// shared reports whether a tier has more than one uplink.
func (w ways) shared() bool {
	return slices.ContainsFunc(w, func(tier []share) bool { return len(tier) > 1 })
}

func (w ways) equal(o ways) bool {
	key := func(t []share) []share {
		t = slices.Clone(t)
		slices.SortFunc(t, func(a, b share) int { return strings.Compare(a.uplink.name, b.uplink.name) })
		return t
	}
	return slices.EqualFunc(w, o, func(a, b []share) bool { return slices.Equal(key(a), key(b)) })
}

// words are the ways as people say them.
func (w ways) words() string {
	tiers := make([]string, len(w))
	for i, tier := range w {
		names := make([]string, len(tier))
		for j, s := range tier {
			names[j] = s.uplink.name
			if len(tier) > 1 {
				names[j] += ":" + strconv.Itoa(s.weight)
			}
		}
		tiers[i] = strings.Join(names, " and ")
	}
	return strings.Join(tiers, ", then ")
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// label turns a name of the other system into one of at most so many bytes that ours may have, unlike those that are taken.
func label(name, fallback string, most int, taken func(string) bool) string {
	name = strings.TrimLeft(notInNames.ReplaceAllString(name, "-"), "-")
	name = strings.TrimRight(name[:min(len(name), most)], "-")
	if name == "" {
		name = fallback
	}
	for n, first := 2, name; taken(name); n++ {
		number := fmt.Sprintf("-%d", n)
		name = first[:min(len(first), most-len(number))] + number
	}
	return name
}

// uplinkNamed makes an uplink. Numbers, and names that stand for routing tables, are no names of uplinks.
func (d *draft) uplinkNamed(name, device string) *uplink {
	taken := func(s string) bool {
		return slices.ContainsFunc(d.uplinks, func(u *uplink) bool { return u.name == s })
	}
	own := label(name, "wan", config.MaxUplinkName, taken)
	if !config.UplinkName(own) {
		own = label("wan-"+name, "wan", config.MaxUplinkName, taken)
	}
	u := &uplink{name: own, device: device, weight: 1, tier: 1}
	d.uplinks = append(d.uplinks, u)
	return u
}

// add adds a policy under a name like the given one.
func (d *draft) add(p *policy, name string) *policy {
	p.name = label(name, "rule", config.MaxLabel, func(s string) bool {
		return slices.ContainsFunc(d.policies, func(o *policy) bool { return o.name == s })
	})
	d.policies = append(d.policies, p)
	return p
}

// setNamed returns the set of that name, made by fill when there is none yet.
func (d *draft) setNamed(name string, fill func(*set)) *set {
	name = label(name, "set", config.MaxLabel, func(string) bool { return false })
	for _, s := range d.sets {
		if s.name == name {
			return s
		}
	}
	s := &set{name: name}
	d.sets = append(d.sets, s)
	fill(s)
	return s
}

// printable replaces what is no character to look at: files may have anything, and remarks go to terminals and into comments.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text(s))
}

// quoted writes what a file says into a sentence: one line of printable characters, cut short.
func quoted(s string) string {
	const most = 60
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "..."
	}
	q := strconv.QuoteToGraphic(s)
	if slices.Contains([]string{q}, `"`+s+`"`) && regexp.MustCompile(`^[A-Za-z0-9_.:/@!*-]+$`).MatchString(s) {
		return s
	}
	return q
}
