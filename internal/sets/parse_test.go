package sets

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules/inet"
)

func TestAListIsRead(t *testing.T) {
	s, err := parse(strings.NewReader("\ufeff# of a country\n192.0.2.0/25\r\n192.0.2.128/25 # touches\n; old style\n\n2001:db8::/33\n198.51.100.10-198.51.100.20\n203.0.113.77/24\n2001:db8:8000::/33; more\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, r := range s.Ranges(f) {
			got = append(got, r.First.String()+"-"+r.Last.String())
		}
	}
	want := "192.0.2.0-192.0.2.255 198.51.100.10-198.51.100.20 203.0.113.0-203.0.113.255 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestWhatIsNoListIsRefusedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1\n<!DOCTYPE html>\n":               `line 2: "<!DOCTYPE html>" is no address, no prefix and no range`,
		"192.0.2.1\n\n192.0.2.":                      `line 3: "192.0.2." is no address, no prefix and no range`,
		"192.0.2.9-192.0.2.1":                        `line 1: "192.0.2.9-192.0.2.1" is no address, no prefix and no range`,
		"192.0.2.9-2001:db8::1":                      `line 1: "192.0.2.9-2001:db8::1" is no address, no prefix and no range`,
		"fe80::1%eth0":                               `line 1: "fe80::1%eth0" is no address, no prefix and no range`,
		"::ffff:192.0.2.1":                           `line 1: "::ffff:192.0.2.1" is no address, no prefix and no range`,
		"0.0.0.0/0":                                  `line 1: "0.0.0.0/0" is all of the Internet`,
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": `line 1: "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" is all of the Internet`,
		"192.0.2.1\n" + strings.Repeat("x", 9000):    "line 2 is longer than 4096 bytes: this is no list of addresses",
		"# nothing\n\n":                              errEmpty.Error(),
		"":                                           errEmpty.Error(),
	} {
		if _, err := parse(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
	if _, err := parse(strings.NewReader("# " + strings.Repeat(strings.Repeat("y", 1022)+"\n# ", maxBytes/1024+1))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a list without end: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"192.0.2.0/25\n", "2001:db8::1-2001:db8::9", "# x\n\n198.51.100.1;y", "<html>", "255.255.255.255/31\n::/1"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		write(&b, s)
		again, err := parse(&b)
		if err != nil && !errors.Is(err, errEmpty) && !strings.Contains(err.Error(), "all of the Internet") { // joined from parts
			t.Fatalf("what was written is not read: %v", err)
		}
		if err == nil && !again.Equal(s) {
			t.Fatal("what was written is read as another set")
		}
		for _, fam := range []inet.Family{inet.IPv4, inet.IPv6} {
			for _, r := range s.Ranges(fam) {
				if !s.Contains(r.First) || !s.Contains(r.Last) || r.Last.Less(r.First) {
					t.Fatalf("%v is not in its set", r)
				}
			}
		}
		s.Contains(netip.Addr{})
	})
}
