package probe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTarget(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		text string
		want Target
	}{
		{"192.0.2.1", Target{kind: ICMP, addr: addr("192.0.2.1")}},
		{"2001:db8::1", Target{kind: ICMP, addr: addr("2001:db8::1")}},
		{"tcp://192.0.2.2:443", Target{kind: TCP, addr: addr("192.0.2.2"), port: 443}},
		{"tcp://[2001:db8::2]:443", Target{kind: TCP, addr: addr("2001:db8::2"), port: 443}},
		{"http://192.0.2.3/generate_204", Target{kind: HTTP, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/generate_204", want: 204}},
		{"http://192.0.2.3/a/generate_204?b=c", Target{kind: HTTP, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/a/generate_204?b=c", want: 204}},
		{"http://192.0.2.3", Target{kind: HTTP, addr: addr("192.0.2.3"), port: 80, host: "192.0.2.3", uri: "/"}},
		{"https://[2001:db8::3]:8443/x y", Target{kind: HTTPS, addr: addr("2001:db8::3"), port: 8443, host: "[2001:db8::3]:8443", uri: "/x%20y"}},
		{"dns://192.0.2.53?name=example.net", Target{kind: DNS, addr: addr("192.0.2.53"), port: 53, name: "example.net."}},
		{"handshake://10.0.31.1", Target{kind: Handshake, addr: addr("10.0.31.1")}},
		{"handshake://[fd00::1]", Target{kind: Handshake, addr: addr("fd00::1")}},
		{"dns://192.0.2.53:5353", Target{kind: DNS, addr: addr("192.0.2.53"), port: 5353, name: "."}},
		{"fe80::1", Target{kind: ICMP, addr: addr("fe80::1")}},
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

func TestParseTargetTellsTheMistake(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "is empty"},
		{"example.net", `"example.net" is not an IP address; targets are literal addresses, names would need the uplink to be resolved`},
		{"tcp://example.net:443", `"example.net" is not an IP address; targets are literal addresses, names would need the uplink to be resolved`},
		{"192.0.2.1:80", `"192.0.2.1:80" is not an IP address; targets are literal addresses, names would need the uplink to be resolved`},
		{"0.0.0.0", "0.0.0.0 is not a host beyond an uplink"},
		{"255.255.255.255", "255.255.255.255 is not a host beyond an uplink"},
		{"127.0.0.1", "127.0.0.1 is not a host beyond an uplink"},
		{"tcp://[::1]:80", "::1 is not a host beyond an uplink"},
		{"ff02::1", "ff02::1 is not a host beyond an uplink"},
		{"fe80::1%eth0", "must not have a zone; the device is the uplink's"},
		{"::ffff:192.0.2.1", "is an IPv4 address in IPv6 form; write it in dotted form"},
		{"tcp://192.0.2.2", "needs a port, as in tcp://192.0.2.2:443"},
		{"tcp://192.0.2.2:", "has an empty port"},
		{"tcp://192.0.2.2:0", `port "0" is not within 1..65535`},
		{"tcp://192.0.2.2:65536", `port "65536" is not within 1..65535`},
		{"tcp://192.0.2.2:x", `invalid port ":x" after host`},
		{"tcp://192.0.2.2:443/", "has nothing after the port"},
		{"tcp://192.0.2.2:443?", "has nothing after the port"},
		{"TCP://192.0.2.2:443", `unknown scheme "TCP"; known are tcp, http, https, dns and handshake, and a plain address for echo requests`},
		{"ftp://192.0.2.2", `unknown scheme "ftp"; known are tcp, http, https, dns and handshake, and a plain address for echo requests`},
		{"http://user@192.0.2.3/", "must not carry a user name"},
		{"http://192.0.2.3/#", "must not have a fragment"},

		{"handshake://10.0.31.1:51820", "has nothing behind the address"},
		{"dns://192.0.2.53/?name=x", "has only ?name= after the address"},
		{"dns://192.0.2.53?type=A", `unknown or repeated parameter "type"; only one name is known`},
		{"dns://192.0.2.53?name=a&name=b", `unknown or repeated parameter "name"; only one name is known`},
		{"dns://192.0.2.53?name=a..b", `"a..b" is not a domain name`},
		{strings.Repeat("1", maxTarget+1), "is longer than 512 bytes"},
	} {
		t.Run(test.text, func(t *testing.T) {
			_, err := ParseTarget(test.text)
			if err == nil {
				t.Fatal("no error")
			}
			_, got, _ := strings.Cut(err.Error(), `": `)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
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
		"dns://192.0.2.53?name=example.net", "dns://[2001:db8::53]:53", "tcp://[fe80::1%25eth0]:1", "http://%31", "dns://192.0.2.53?name=%00",
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
		if target.Kind() != ICMP && target.port == 0 {
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
