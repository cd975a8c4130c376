package api

import (
	"bytes"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/rules/explain"
)

func TestPacketsAreReadFromAQuery(t *testing.T) {
	addr := netip.MustParseAddr
	for query, want := range map[string]explain.Packet{
		"to=192.0.2.1":                             {To: addr("192.0.2.1"), Protocol: 17},
		"to=::ffff:192.0.2.1&from=&proto=":         {To: addr("192.0.2.1"), Protocol: 17},
		"to=2001:db8::1&from=2001:db8::2&oif=wan1": {To: addr("2001:db8::1"), From: addr("2001:db8::2"), Out: "wan1", Protocol: 17},
		"to=192.0.2.1&iif=lan0&mark=0x01000000&proto=TCP&sport=1024&dport=443&uid=1000&tos=0x10": {To: addr("192.0.2.1"), In: "lan0",
			Mark: 0x01000000, Protocol: 6, SPort: 1024, DPort: 443, UID: 1000, TOS: 16},
		"to=192.0.2.1&iif=lan0&mac=02-00-00-00-00-1A": {To: addr("192.0.2.1"), In: "lan0", MAC: [6]byte{2, 5: 0x1a}, Protocol: 17},
		"to=192.0.2.1&proto=89":                       {To: addr("192.0.2.1"), Protocol: 89},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePacket(values)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", query, err, diff)
		}
	}
	var keys []string
	for _, key := range PacketKeys() {
		keys = append(keys, key.Name)
	}
	if fields := reflect.TypeFor[explain.Packet]().NumField(); len(keys) != fields || len(keys) != reflect.TypeFor[ExplainedPacket]().NumField() {
		t.Errorf("a packet has %d fields, and these can be asked for: %q", fields, keys)
	}
	for query, want := range map[string]string{
		"":                          "to, the packet's destination, is missing",
		"from=192.0.2.1":            "to, the packet's destination, is missing",
		"to=example.net":            `to="example.net" is not an address: write it without name, prefix length or zone`,
		"to=192.0.2.1/32":           `to="192.0.2.1/32" is not an address`,
		"to=fe80::1%25wan1":         `is not an address`,
		"to=192.0.2.1&to=192.0.2.2": "to is given 2 times",
		"to=192.0.2.1&dport=70000":  `dport="70000" is not a number of 16 bits`,
		"to=192.0.2.1&mark=x":       `mark="x" is not a number of 32 bits`,
		"to=192.0.2.1&proto=http":   `proto="http" is not a protocol: write tcp, udp, icmp, icmpv6 or a number`,
		"to=192.0.2.1&mac=02:00:00:00:00:00:00:10": `mac="02:00:00:00:00:00:00:10" is not a hardware address: write one as in "02:00:00:00:00:10"`,
		"to=192.0.2.1&destination=1":               `there is no parameter "destination"`,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePacket(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add("to=192.0.2.1&iif=lan0&mark=0x01000000&proto=tcp&sport=1024&dport=443&uid=1000&tos=0x10")
	f.Add("to=2001:db8::1&proto=300")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		p, err := ParsePacket(values)
		if err == nil && (!p.To.IsValid() || p.To.Zone() != "" || p.To.Is4In6() || p.From.Is4In6()) {
			t.Errorf("%q was read as %+v", query, p)
		}
	})
}

func TestExplanationsAreServed(t *testing.T) {
	h := newServer(newDaemon()).handler(false)
	w := ask(h, "GET", "/api/v1/explain?to=192.0.2.1&proto=tcp&dport=443")
	wantCode(t, w, 200)
	var got Explanation
	if err := jsonStrict(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Packet.DPort != 443 || got.Packet.Protocol != "tcp" || len(got.Steps) != 3 || got.Steps[2].Line != 5 || !got.Kernel.Agrees {
		t.Errorf("got %+v", got)
	}
	if w := ask(h, "GET", "/api/v1/explain?to=192.0.2.1&without=fiber"); !strings.Contains(w.Body.String(), `"without":"fiber"`) {
		t.Errorf("got %s", w.Body)
	}
	wantError(t, ask(h, "GET", "/api/v1/explain?to=192.0.2.1&without=dsl"), 404, `unknown uplink "dsl"`)
	wantError(t, ask(h, "GET", "/api/v1/explain"), 400, "to, the packet's destination, is missing")
	wantError(t, ask(h, "GET", "/api/v1/explain?to=192.0.2.1&oif=nodev"), 400, "there is no device nodev")
	wantError(t, ask(h, "POST", "/api/v1/explain?to=192.0.2.1"), 405, "takes GET")
}

func TestExplanationsReadWell(t *testing.T) {
	p := explain.Packet{To: netip.MustParseAddr("192.0.2.1"), Protocol: 6, DPort: 443}
	forwarded := explain.Packet{To: netip.MustParseAddr("192.0.2.1"), From: netip.MustParseAddr("192.168.1.7"), In: "br-lan", Protocol: 17, SPort: 53, Mark: 0x01000000}
	refused := sampleExplanation(forwarded)
	refused.Outcome, refused.Egresses, refused.Reason = explain.Refused, nil, "uplink fiber has no way to the Internet\x1b[31m"
	refused.Uncertain, refused.Kernel = "a rule is not understood", KernelAnswer{Asked: true, Refused: "network is unreachable"}
	linkDown := sampleExplanation(p)
	linkDown.Without = "lte"
	unasked := sampleExplanation(p)
	unasked.Kernel = KernelAnswer{}
	var b bytes.Buffer
	for _, x := range []struct {
		e   Explanation
		opt ExplainOptions
	}{{sampleExplanation(p), ExplainOptions{}}, {sampleExplanation(p), ExplainOptions{All: true, Color: true}}, {refused, ExplainOptions{}}, {unasked, ExplainOptions{}}, {linkDown, ExplainOptions{}}} {
		if err := WriteExplanation(&b, x.e, x.opt); err != nil {
			t.Fatal(err)
		}
		b.WriteString("----\n")
	}
	golden(t, "explain.txt", b.Bytes())
}
