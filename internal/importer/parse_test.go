package importer

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// shown writes a file as lines that say what was read, and what could not be.
func (u *uciFile) shown() string {
	var b strings.Builder
	for _, s := range u.sections {
		fmt.Fprintf(&b, "%s/%s/%s", s.pkg, s.kind, s.name)
		for _, o := range s.options {
			fmt.Fprintf(&b, " %s=%q@%d", o.name, o.values, o.from.line)
		}
		b.WriteByte('\n')
	}
	for _, x := range u.broken {
		fmt.Fprintf(&b, "%d: %s\n", x.from.line, x.why)
	}
	return b.String()
}

func TestUCIIsReadAsLibuciReadsIt(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"words and quotations": {"config a 'b'\n\toption x 'it''s'\n\toption y \"a \\\"b\\\" \\\\\"\n\toption z plain\\ word\n",
			"/a/b x=[\"its\"]@2 y=[\"a \\\"b\\\" \\\\\"]@3 z=[\"plain word\"]@4\n"},
		"lists grow, options are replaced": {"config a\noption x 1\noption x 2\nlist y 1\nlist y 2\noption z 1\nlist z 2",
			"/a/ x=[\"2\"]@3 y=[\"1\" \"2\"]@4 z=[\"1\" \"2\"]@6\n"},
		"comments, blank lines and semicolons": {"# one\n\nconfig a b # two\noption x 'a#b';option y 1 # three\n", "/a/b x=[\"a#b\"]@4 y=[\"1\"]@4\n"},
		"a line goes on":                       {"config a b\n\toption x \\\n\t'1'\n", "/a/b x=[\"1\"]@2\n"},
		"a quotation over lines":               {"config a b\n\toption x 'one\ntwo'\n\toption y 2", "/a/b x=[\"one\\ntwo\"]@2 y=[\"2\"]@4\n"},
		"a name again is the same section":     {"config a b\noption x 1\nconfig a c\nconfig a b\noption y 2", "/a/b x=[\"1\"]@2 y=[\"2\"]@5\n/a/c\n"},
		"packages, and a Windows editor":       {"\ufeffpackage one\r\nconfig a b\r\n\toption x '1'\r\npackage two\r\nconfig a b\r\n", "one/a/b x=[\"1\"]@3\ntwo/a/b\n"},
		"an apostrophe without its other half": {"config a b\n\toption x 'one\n\toption y 'two'\n", "/a/b x=[\"one\"]@2 y=[\"two\"]@3\n2: a quotation without an end\n"},
		"what uci show prints":                 {"a.wan=interface\na.wan.track_ip='1' '2'\na.@rule[0]=rule\na.@rule[0].use='x y'\na.gone.x='1'\n", "a/interface/wan track_ip=[\"1\" \"2\"]@2\na/rule/@rule[0] use=[\"x y\"]@4\n5: a line that begins with \"a.gone.x=1\", which is no keyword\n"},
		"what is cut":                          {"option x 1\nconfig\nconfig a\nlist\noption y\nopt", "/a/\n1: an option above the first section: the beginning of the file is missing\n2: a section without a type\n4: list without a name or a value: the line is cut\n5: option without a name or a value: the line is cut\n6: a line that begins with opt, which is no keyword\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, parseUCI(File{"f", []byte(c.file)}).shown()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func (n *vyNode) shown(indent string) string {
	s := ""
	for _, c := range n.children {
		s += indent + c.name + "\n" + c.shown(indent+" ")
	}
	return s
}

func TestBothFormsOfVyOSAreOneTree(t *testing.T) {
	braces := "load-balancing {\n    wan { /* a comment\n over lines */\n        hook \"/a b\"\n        interface-health eth0 {\n            nexthop dhcp\n        }\n        flush-connections\n    }\n}\n/* Warning */\n// vyos-config-version: \"x@1\"\n"
	commands := "set load-balancing wan hook '/a b'\nset load-balancing wan interface-health eth0 nexthop dhcp\nvyos@r# set load-balancing wan flush-connections\n[edit]\nset load-balancing wan rule 1 exclude\ndelete load-balancing wan rule\n"
	want := "load-balancing\n wan\n  hook\n   /a b\n  interface-health\n   eth0\n    nexthop\n     dhcp\n  flush-connections\n"
	for name, file := range map[string]string{"braces": braces, "commands": commands} {
		v := new(vyosFile)
		v.add(File{"f", []byte(file)})
		if diff := cmp.Diff(want, v.root.shown("")); diff != "" || len(v.broken) > 0 {
			t.Errorf("%s: %v (-want +got):\n%s", name, v.broken, diff)
		}
	}
	for file, want := range map[string]string{
		"a {\nb {":                       "braces are open at the end: the file is cut",
		"}\nset a b":                     "a brace that closes nothing: the beginning of the file is missing",
		"set a 'b\nset c":                "a quotation without an end",
		"set":                            "set without a path: the line is cut",
		"set" + strings.Repeat(" x", 40): "more levels than VyOS has",
	} {
		v := new(vyosFile)
		v.add(File{"f", []byte(file)})
		if len(v.broken) == 0 || v.broken[0].why != want {
			t.Errorf("%q: %v, want %q", file, v.broken, want)
		}
	}
}

// The complement of prefixes has all addresses but theirs.
func TestComplementsAndRangesHaveWhatTheyShould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		octet := rapid.IntRange(0, 255)
		draw := func(name string) netip.Addr {
			return netip.AddrFrom4([4]byte{byte(octet.Draw(t, name)), 0, 2, byte(octet.Draw(t, name))})
		}
		a, b := draw("first"), draw("last")
		if b.Less(a) {
			a, b = b, a
		}
		list, ok := parseAddresses(a.String() + "-" + b.String())
		if !ok {
			t.Fatalf("%v to %v", a, b)
		}
		rest := complement(list)
		x := draw("address")
		in := func(list []netip.Prefix) bool {
			for _, p := range list {
				if p.Contains(x) {
					return true
				}
			}
			return false
		}
		if inside := !x.Less(a) && !b.Less(x); in(list) != inside || in(rest) == inside {
			t.Errorf("%v in %v to %v: %v, among the others %v", x, a, b, in(list), in(rest))
		}
	})
	for text, want := range map[string]string{
		"0.0.0.0/0": "0.0.0.0/1 128.0.0.0/1", "::/0": "::/1 8000::/1", "192.0.2.9/24": "192.0.2.0/24", "192.0.2.0/255.255.255.128": "192.0.2.0/25",
		"192.0.2.4-192.0.2.6": "192.0.2.4/31 192.0.2.6", "2001:db8::-2001:db8::1": "2001:db8::/127",
		"192.0.2.9-192.0.2.1": "", "192.0.2": "", "::ffff:1.2.3.4": "", "fe80::1%eth0": "", "example.net": "",
	} {
		if list, _ := parseAddresses(text); strings.Join(texts(list), " ") != want {
			t.Errorf("%s: %v, want %s", text, texts(list), want)
		}
	}
}

func TestPortsAreReadAsThreeSystemsWriteThem(t *testing.T) {
	for text, want := range map[string]string{
		"80 443": "80 443", "1024:2048": "1024-2048", "8000-8080 8081": "8000-8081", "sip": "5060", "https http": "80 443", "0-65535": "1-65535",
		"70000": "error", "http:": "error", "9-8": "error", "nosuch": "error",
	} {
		list, err := parsePorts(strings.Fields(text))
		got := strings.Join(portTexts(list), " ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if got := portTexts(otherPorts([]portRange{{1, 24}, {26, 586}, {600, 65535}})); cmp.Diff([]string{"25", "587-599"}, got) != "" {
		t.Errorf("the others: %v", got)
	}
}
