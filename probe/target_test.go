package probe

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		text string
		want Target
	}{
		{"192.0.2.1", Target{kind: &echo, addr: addr("192.0.2.1")}},
		{"2001:db8::1", Target{kind: &echo, addr: addr("2001:db8::1")}},
		{"tcp://192.0.2.2:443", Target{kind: &connection, addr: addr("192.0.2.2"), port: 443}},
		{"tcp://[2001:db8::2]:443", Target{kind: &connection, addr: addr("2001:db8::2"), port: 443}},
		{"http://192.0.2.3/generate_204", Target{kind: &web, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/generate_204", want: 204}},
		{"http://192.0.2.3/a/generate_204?b=c", Target{kind: &web, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/a/generate_204?b=c", want: 204}},
		{"http://192.0.2.3", Target{kind: &web, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/"}},
		{"https://[2001:db8::3]:8443/x%20y", Target{kind: &secureWeb, addr: addr("2001:db8::3"), port: 8443, host: "[2001:db8::3]:8443", uri: "/x%20y"}},
		{"http://192.0.2.3:80?a", Target{kind: &web, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/?a"}},
		{"dns://192.0.2.53?name=example.net", Target{kind: &nameQuery, addr: addr("192.0.2.53"), port: 53, name: "example.net."}},
		{"handshake://10.0.31.1", Target{kind: &handshake, addr: addr("10.0.31.1")}},
		{"handshake://[fd00::1]", Target{kind: &handshake, addr: addr("fd00::1")}},
		{"dns://192.0.2.53?answer=none&name=x.invalid", Target{kind: &nameQuery, addr: addr("192.0.2.53"), port: 53, name: "x.invalid.", empty: true}},
		{"dns://192.0.2.53:5353?name=.", Target{kind: &nameQuery, addr: addr("192.0.2.53"), port: 5353, name: "."}},
		{"fe80::1", Target{kind: &echo, addr: addr("fe80::1")}},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := ParseTarget(test.text)
			if err != nil {
				t.Fatal(err)
			}
			test.want.text = test.text
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if got.String() != test.text {
				t.Errorf("String() = %q", got)
			}
		})
	}
}

// What each mistake is called is told by the messages of internal/config, which shows them to whoever has made it.
func TestAMistakenTargetIsNone(t *testing.T) {
	for _, text := range []string{"", "example.net", "192.0.2.1:80", "0.0.0.0", "ff02::1", "fe80::1%eth0", "::ffff:192.0.2.1", "tcp://192.0.2.2", "tcp://192.0.2.2:",
		"tcp://192.0.2.2:0", "tcp://192.0.2.2:443/", "TCP://192.0.2.2:443", "icmp://192.0.2.2", "http://user@192.0.2.3/", "http://192.0.2.3/#", "handshake://10.0.31.1:51820",
		"dns://192.0.2.53", "dns://192.0.2.53/?name=x", "dns://192.0.2.53?name=a&name=b", "dns://192.0.2.53?name=a&answer=some", "dns://192.0.2.53?answer=none", strings.Repeat("1", maxTarget+1)} {
		if target, err := ParseTarget(text); err == nil || target != (Target{}) {
			t.Errorf("%.40q: %+v, %v", text, target, err)
		}
	}
}

func TestTargetsThatAskTheSameAreTold(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"http://192.0.2.3", "http://192.0.2.3:80/", true},
		{"http://192.0.2.3", "https://192.0.2.3", false},
		{"dns://192.0.2.53?name=Example.net", "dns://192.0.2.53:53?name=example.net.", true},
		{"tcp://192.0.2.2:443", "tcp://192.0.2.2:0443", true},
		{"2001:db8::1", "2001:db8:0::1", true},
		{"192.0.2.1", "192.0.2.2", false},
	} {
		if got := must(ParseTarget(c.a))(t).Same(must(ParseTarget(c.b))(t)); got != c.same {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}

func TestTargetBytesOfAnEchoAreTwo52BytePackets(t *testing.T) {
	if got := must(ParseTarget("192.0.2.1"))(t).Bytes(); got != 104 {
		t.Errorf("got %d", got)
	}
	if got := must(ParseTarget("2001:db8::1"))(t).Bytes(); got != 144 {
		t.Errorf("got %d", got)
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1", "2001:db8::1", "tcp://192.0.2.2:443", "http://192.0.2.3/generate_204", "https://[2001:db8::3]:8443/?a=b",
		"dns://192.0.2.53?name=example.net", "dns://[2001:db8::53]:53?name=.", "tcp://[fe80::1%25eth0]:1", "http://%31", "dns://192.0.2.53?name=%00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			if target != (Target{}) {
				t.Errorf("a target %+v beside error %v", target, err)
			}
			return
		}
		if target.String() != text {
			t.Errorf("String() = %q, want %q", target, text)
		}
		if a := target.Addr(); !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
			t.Errorf("address %v", a)
		}
		if target.kind.ports && target.port == 0 {
			t.Error("no port")
		}
		if strings.ContainsAny(target.uri+target.host, "\r\n ") {
			t.Errorf("a request line could be broken by %q or %q", target.uri, target.host)
		}
		var again Target
		raw, err := target.MarshalText()
		if err != nil || again.UnmarshalText(raw) != nil || again != target {
			t.Errorf("does not survive its text: %+v, %+v", target, again)
		}
	})
}
