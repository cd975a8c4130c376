package encap

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	ends4 = [2]netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.9")}
	ends6 = [2]netip.Addr{netip.MustParseAddr("2001:db8:a::2"), netip.MustParseAddr("2001:db8:b::9")}
)

// drawParams draws a device of a kind.
func drawParams(t *rapid.T, k *Kind) Params {
	p := Params{Kind: k.Name}
	if !k.Ends() {
		return p
	}
	ends := ends4
	if k.Name6 != "" && rapid.Bool().Draw(t, "IPv6") {
		ends = ends6
	}
	if k.Name == SixRD {
		bits4 := rapid.IntRange(0, 31).Draw(t, "IPv4 mask length")
		p.Prefix6 = netip.PrefixFrom(netip.MustParseAddr("2001:db8::"), rapid.IntRange(32, 32+bits4).Draw(t, "length"))
		p.Prefix4, _ = ends[0].Prefix(bits4)
		p.Local, p.TTL = ends[0], rapid.Uint8Range(1, 255).Draw(t, "ttl")
		return p
	}
	p.Local, p.Remote, p.TTL = ends[0], ends[1], rapid.Uint8Range(1, 255).Draw(t, "ttl")
	for _, s := range k.Settings {
		if s.Required != "" || s.Default != 0 || rapid.Bool().Draw(t, s.Key) {
			s.Set(&p, rapid.Uint32Range(s.Min, s.Max).Draw(t, "value"))
		}
	}
	p.Fragment = p.CanFragment() && rapid.Bool().Draw(t, "fragment")
	return p
}

func TestWhatTheKernelIsToldIsReadBack(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.Name, rapid.MakeCheck(func(t *rapid.T) {
			p := drawParams(t, k)
			told := make(map[uint16][]byte)
			for _, a := range p.Attributes() {
				if _, twice := told[a.Type]; twice {
					t.Errorf("attribute %d is told twice", a.Type)
				}
				told[a.Type] = a.Value
			}
			if got := Decode(p.LinkKind(), maps.All(told)); got != p {
				t.Errorf("%+v is read back as %+v", p, got)
			}
		}))
	}
}

// What the line for a shell says must differ where the devices do.
func TestAKindIsDeclaredWhole(t *testing.T) {
	keys := make(map[string]string)
	for _, k := range Kinds() {
		if k.Name == "" || k.Module == "" || k.header == nil || k.Ends() && (k.args == nil || k.decode == nil) {
			t.Errorf("%q lacks its name, module, header, args or decode", k.Name)
		}
		for _, s := range k.Settings {
			if other := keys[s.Key]; other != "" {
				t.Errorf("%s is a setting of %s and of %s", s.Key, other, k.Name)
			}
			keys[s.Key] = k.Name
		}
		t.Run(k.Name, rapid.MakeCheck(func(t *rapid.T) {
			p, other := drawParams(t, k), drawParams(t, k)
			if (p == other) != (p.LinkKind()+p.Args() == other.LinkKind()+other.Args()) {
				t.Errorf("%+v and %+v: %q and %q", p, other, p.Args(), other.Args())
			}
		}))
	}
}

func TestOverheadIsWhatIsAroundTheContent(t *testing.T) {
	for _, c := range []struct {
		p    Params
		want int
	}{
		{Params{Kind: WireGuard}, 80},
		{Params{Kind: GRETAP, Local: ends4[0]}, 38},
		{Params{Kind: GRETAP, Local: ends6[0]}, 58},
		{Params{Kind: GRETAP, Local: ends4[0], HasKey: true}, 42},
		{Params{Kind: VXLAN, Local: ends4[0]}, 50},
		{Params{Kind: VXLAN, Local: ends6[0]}, 70},
		{Params{Kind: SIT, Local: ends4[0]}, 20},
		{Params{Kind: SixRD, Local: ends4[0]}, 20},
	} {
		if got := c.p.Overhead(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.p, got, c.want)
		}
	}
}

func TestAForeignDeviceIsNoKindOfOurs(t *testing.T) {
	// Hardware has no kind, and tells of itself as a port all the same (IFLA_INFO_SLAVE_KIND).
	if p := Decode("", func(func(uint16, []byte) bool) {}); p != (Params{}) {
		t.Errorf("hardware: %+v", p)
	}
	p := Decode("veth", func(func(uint16, []byte) bool) { t.Error("its attributes are read") })
	if p != (Params{Kind: "veth"}) || p.Spec().Ends() || p.LinkKind() != "veth" || p.Args() != "" || p.Attributes() != nil {
		t.Errorf("%+v", p)
	}
	for _, k := range Kinds() {
		for typ := range uint16(64) {
			for size := range 20 {
				Decode(k.Name, maps.All(map[uint16][]byte{typ: []byte(strings.Repeat("x", size))}))
			}
		}
	}
}
