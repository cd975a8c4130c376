package importer

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
)

var update = flag.Bool("update", false, "write the remarks of testdata anew")

// example is a configuration of another system in testdata: its file, the network file beside, the devices that its interfaces have, and
// the remarks that are wanted, which name all that was lost or does something else.
type example struct {
	path    string
	archive *txtar.Archive
}

func examples(t testing.TB, system string) []example {
	t.Helper()
	paths, err := filepath.Glob("testdata/" + system + "/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples of %s: %v", system, err)
	}
	var list []example
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, example{path, archive})
	}
	return list
}

// file returns a file of the archive, nil when there is none.
func (x *example) file(name string) *File {
	for _, f := range x.archive.Files {
		if f.Name == name {
			return &File{Name: name, Data: f.Data}
		}
	}
	return nil
}

// convert translates an example and compares its remarks.
func (x *example) convert(t *testing.T, system string) (Result, *config.Config) {
	t.Helper()
	result, err := Convert(system, []File{*x.file(system)}, x.file("network"))
	if err != nil {
		t.Fatalf("%v\n%s", err, result.TOML)
	}
	c, err := config.Parse("", []byte(result.TOML))
	if err != nil {
		t.Fatalf("what is printed is refused: %v\n%s", err, result.TOML)
	}
	said := ""
	for _, r := range result.Remarks {
		if r.Kind != Kept {
			said += r.String() + "\n"
		}
	}
	want := x.file("remarks")
	if *update {
		x.archive.Files = slices.DeleteFunc(x.archive.Files, func(f txtar.File) bool { return f.Name == "remarks" })
		x.archive.Files = append(x.archive.Files, txtar.File{Name: "remarks", Data: []byte(said)})
		if err := os.WriteFile(x.path, txtar.Format(x.archive), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want == nil || string(want.Data) != said {
		var have string
		if want != nil {
			have = string(want.Data)
		}
		t.Errorf("remarks (-want +got):\n%s", gocmp.Diff(have, said))
	}
	for _, r := range result.Remarks { // each is a comment too
		words := strings.Fields(r.Text)
		if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(result.TOML, "\n#  ", "")), " "), strings.Join(words[max(0, len(words)-3):], " ")) {
			t.Errorf("this remark is no comment: %s\n%s", r, result.TOML)
		}
	}
	return result, c
}

// reference is what mwan3 itself does, by /lib/mwan3/mwan3.sh: chains of marks, in terms of its own sections.
type reference struct {
	interfaces map[string]*uciSection
	members    map[string]*uciSection
	policies   map[string]*uciSection
	rules      []*uciSection
	device     func(iface string) string
	main       [2][]string // interfaces with a default route in table main, by family, the lowest metric first
}

func newReference(x *example) *reference {
	u := parseUCI(*x.file("mwan3"))
	r := &reference{interfaces: make(map[string]*uciSection), members: make(map[string]*uciSection), policies: make(map[string]*uciSection)}
	devices := make(map[string]string)
	if f := x.file("devices"); f != nil {
		for line := range strings.Lines(string(f.Data)) {
			words := strings.Fields(line)
			devices[words[0]] = words[1]
		}
	}
	r.device = func(iface string) string { return cmp.Or(devices[iface], iface) }
	metrics := make(map[string]int)
	if f := x.file("network"); f != nil {
		for _, s := range parseUCI(*f).sections {
			metrics[s.name], _ = strconv.Atoi(s.get("metric", "0"))
		}
	}
	for _, s := range u.sections {
		switch s.kind {
		case "interface":
			r.interfaces[s.name] = s
			if s.get("enabled", "0") == "1" && !regexp.MustCompile(`^(vpn|wg|tun)`).MatchString(s.name) {
				f := familyOf(s)
				r.main[f] = append(r.main[f], s.name)
			}
		case "member":
			r.members[s.name] = s
		case "policy":
			r.policies[s.name] = s
		case "rule":
			r.rules = append(r.rules, s)
		}
	}
	for f := range r.main {
		slices.SortStableFunc(r.main[f], func(a, b string) int { return cmp.Compare(metrics[a], metrics[b]) })
	}
	return r
}

// leads says where a flow goes while some interfaces are offline, and whether a source keeps one of several.
func (r *reference) leads(f flow, offline map[string]bool) (out outcome, sticky bool) {
	family := 0
	if f.to.Is6() {
		family = 1
	}
	for _, s := range r.rules {
		if !r.matches(s, f, family) {
			continue
		}
		switch use := s.get("use_policy", ""); {
		case use == "default":
			return r.table(family, offline), false
		case use == "unreachable" || use == "blackhole":
			return nil, false
		case r.policies[use] == nil:
			continue
		default:
			p := r.policies[use]
			out := r.online(p, family, offline)
			if len(out) == 0 && p.get("last_resort", "unreachable") == "default" {
				return r.table(family, offline), false
			}
			return out, s.get("sticky", "0") == "1"
		}
	}
	return r.table(family, offline), false
}

// online are the members of the lowest metric that are online.
func (r *reference) online(p *uciSection, family int, offline map[string]bool) outcome {
	out, lowest := make(outcome), 257
	for _, name := range p.words("use_member") {
		m := r.members[name]
		if m == nil || r.interfaces[m.get("interface", "")] == nil {
			continue
		}
		iface := m.get("interface", "")
		if familyOf(r.interfaces[iface]) != family || r.interfaces[iface].get("enabled", "0") != "1" || offline[iface] {
			continue
		}
		metric, _ := strconv.Atoi(m.get("metric", "1"))
		weight, _ := strconv.Atoi(m.get("weight", "1"))
		if metric < lowest {
			out, lowest = make(outcome), metric
		}
		if metric == lowest {
			out[r.device(iface)] += weight
		}
	}
	return out
}

// table is table main's default.
func (r *reference) table(family int, offline map[string]bool) outcome {
	for _, iface := range r.main[family] {
		if !offline[iface] {
			return outcome{r.device(iface): 1}
		}
	}
	return nil
}

func (r *reference) matches(s *uciSection, f flow, family int) bool {
	switch s.get("family", "any") {
	case "ipv4":
		if family != 0 {
			return false
		}
	case "ipv6":
		if family != 1 {
			return false
		}
	}
	proto := s.get("proto", "all")
	if n, ok := map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "esp": 50}[proto]; proto != "all" && (!ok || n != f.protocol) {
		return false
	}
	for _, side := range []struct {
		addresses, ports string
		addr             netip.Addr
		port             uint16
	}{{"src_ip", "src_port", f.from, f.sport}, {"dest_ip", "dest_port", f.to, f.dport}} {
		if v := s.get(side.addresses, ""); v != "" {
			if !slices.ContainsFunc(strings.Split(v, ","), func(e string) bool {
				p, err := netip.ParsePrefix(e)
				if a, errA := netip.ParseAddr(e); errA == nil {
					p, err = netip.PrefixFrom(a, a.BitLen()), nil
				}
				return err == nil && side.addr.IsValid() && p.Contains(side.addr)
			}) {
				return false
			}
		}
		if v := s.get(side.ports, ""); v != "" && (proto == "tcp" || proto == "udp") {
			if !slices.ContainsFunc(strings.Split(v, ","), func(e string) bool {
				first, last, isRange := strings.Cut(e, ":")
				if !isRange {
					last = first
				}
				a, _ := strconv.Atoi(first)
				b, _ := strconv.Atoi(last)
				return a <= int(side.port) && int(side.port) <= b
			}) {
				return false
			}
		}
	}
	if v := s.get("src_iface", ""); v != "" && (f.in == "" || f.in != r.device(v)) {
		return false
	}
	return s.get("ipset", "") == "" // empty, as long as nobody fills it
}

// flows draws connections about what a configuration names, and beside it.
func (x *example) flows() func(*rapid.T) flow {
	var addresses []netip.Addr
	ports := []uint16{22, 80, 443, 50000}
	for _, word := range strings.FieldsFunc(string(x.archive.Files[0].Data), func(c rune) bool { return strings.ContainsRune(" '\",\n", c) }) {
		if p, ok := parseAddresses(word); ok {
			for _, a := range []netip.Addr{p[0].Addr(), lastOf(p[0]), p[0].Addr().Prev(), lastOf(p[0]).Next()} {
				if a.IsValid() && a.IsGlobalUnicast() {
					addresses = append(addresses, a)
				}
			}
		}
		for n := range strings.SplitSeq(strings.ReplaceAll(word, "-", ":"), ":") {
			if n, err := strconv.ParseUint(n, 10, 16); err == nil && n > 1 && n < 65535 {
				ports = append(ports, uint16(n-1), uint16(n), uint16(n+1))
			}
		}
	}
	for _, a := range []string{"192.168.1.20", "192.168.5.10", "192.168.5.77", "203.0.113.200", "100.64.9.9", "2001:db8:1::20", "2001:db8:5::77", "2001:db8:ffff::9", "2400::1"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	return func(t *rapid.T) flow {
		f := flow{in: rapid.SampledFrom([]string{"br-lan", "br-lan", "br-guest", ""}).Draw(t, "in")}
		f.to = rapid.SampledFrom(addresses).Draw(t, "to")
		for insideLAN(f.to) {
			f.to = rapid.SampledFrom(addresses).Draw(t, "to")
		}
		if f.in != "" {
			index := 0
			if f.to.Is6() {
				index = 1
			}
			lan := netip.MustParsePrefix(lanDevices[f.in][index])
			own := slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !lan.Masked().Contains(a) || a == lan.Addr() })
			f.from = rapid.SampledFrom(own).Draw(t, "from")
		}
		f.protocol = rapid.SampledFrom([]uint8{6, 6, 17, 17, 1, 50}).Draw(t, "protocol")
		if f.protocol == 6 || f.protocol == 17 {
			f.sport = rapid.SampledFrom(ports).Draw(t, "sport")
			f.dport = rapid.SampledFrom(ports).Draw(t, "dport")
		}
		return f
	}
}

func insideLAN(a netip.Addr) bool {
	for _, lan := range lanDevices {
		if netip.MustParsePrefix(lan[0]).Contains(a) || netip.MustParsePrefix(lan[1]).Contains(a) {
			return true
		}
	}
	return netip.MustParsePrefix("198.18.0.0/15").Contains(a) || netip.MustParsePrefix("2001:db8:f00::/40").Contains(a) || a.IsPrivate() && a.Is4()
}

// TestMwan3RoutesAreKept compares where flows go with what mwan3 does, while all interfaces are online, while each is offline, and
// while all are. What a remark announces as changed is left out by a line in the file "except": rules whose flows are not compared.
func TestMwan3RoutesAreKept(t *testing.T) {
	for _, x := range examples(t, "mwan3") {
		t.Run(strings.TrimSuffix(filepath.Base(x.path), ".txtar"), func(t *testing.T) {
			result, c := x.convert(t, "mwan3")
			ref := newReference(&x)
			except := ""
			if f := x.file("except"); f != nil {
				except = string(f.Data)
			}
			names := slices.Sorted(maps.Keys(ref.interfaces))
			states := []map[string]bool{{}, {}}
			for _, name := range names {
				states[1][name] = true
				states = append(states, map[string]bool{name: true})
			}
			draw := x.flows()
			for _, offline := range states {
				down := make(map[port]bool)
				for name := range offline {
					down[port{ref.device(name), familyOf(ref.interfaces[name])}] = true
				}
				w := newWorld(t, c, down)
				rapid.Check(t, func(rt *rapid.T) {
					f := draw(rt)
					want, sticky := ref.leads(f, offline)
					family := "ipv4"
					if f.to.Is6() {
						family = "ipv6"
					}
					if strings.Contains(except, family) || f.to.Is6() && len(ref.main[1]) == 0 && !uplinksCarry6(c) {
						return // nothing in the configuration is about IPv6
					}
					got, e := w.leads(t, f)
					same := got.shares(want) || sticky && len(got) == 1 && want[slices.Collect(maps.Keys(got))[0]] > 0
					if !same {
						steps := ""
						for _, s := range e.Steps {
							if s.Counts {
								steps += fmt.Sprintf("  %s: %s\n", s.What, s.Why)
							}
						}
						rt.Fatalf("offline %v: %+v goes by %v, and mwan3 has %v\n%s%s\n%s", slices.Collect(maps.Keys(offline)), f, got, want, e.Reason, steps, result.TOML)
					}
				})
			}
		})
	}
}

func uplinksCarry6(c *config.Config) bool {
	return slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.IPv6.Method != config.MethodOff })
}
