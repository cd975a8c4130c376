package ndisc

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
)

func TestOptionsOfAnAdvertisementAreRead(t *testing.T) {
	p := says{lifetime: 1800 * time.Second, preference: ndp.Low, options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hardware},
		ndp.NewMTU(1492),
		pio("2001:db8:a:1::/64", time.Hour, ndp.Infinity),
		// A length that is no multiple of 8: the codec would read 2001:db8::/60.
		&ndp.RawOption{Type: optRoute, Length: 2, Value: []byte{60, 0x08, 0, 0, 0, 200, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0x1f}},
		rio("::/0", ndp.High, time.Hour),
		&ndp.RecursiveDNSServer{Lifetime: time.Minute, Servers: []netip.Addr{gateway, netip.MustParseAddr("2001:db8::53")}},
		&ndp.DNSSearchList{Lifetime: time.Minute, DomainNames: []string{"Example.net", "lan"}},
		&ndp.PREF64{Lifetime: 10 * time.Minute, Prefix: netip.MustParsePrefix("64:ff9b::/96")},
		&ndp.PREF64{Lifetime: 0, Prefix: netip.MustParsePrefix("2001:db8:122:300::/56")},
		&ndp.RawOption{Type: 200, Length: 1, Value: make([]byte, 6)},
	}}.packet(gateway)
	p.Data[5] |= 0x80 // managed
	got, err := parseAdvert(p)
	if err != nil {
		t.Fatal(err)
	}
	want := advert{hopLimit: 64, managed: true, preference: Low, lifetime: 1800 * time.Second, mtu: 1492,
		prefixes: []prefixOption{{netip.MustParsePrefix("2001:db8:a:1::/64"), true, true, time.Hour, forever}},
		routes: []routeOption{{netip.MustParsePrefix("2001:db8:0:10::/60"), High, 200 * time.Second},
			{netip.MustParsePrefix("::/0"), High, time.Hour}},
		servers:     []serverOption{{gateway, time.Minute}, {netip.MustParseAddr("2001:db8::53"), time.Minute}},
		domains:     []domainOption{{"example.net", time.Minute}, {"lan", time.Minute}},
		translators: []translatorOption{{netip.MustParsePrefix("64:ff9b::/96"), 10 * time.Minute}, {netip.MustParsePrefix("2001:db8:122:300::/56"), 0}}}
	allow := cmp.AllowUnexported(advert{}, prefixOption{}, routeOption{}, serverOption{}, domainOption{}, translatorOption{})
	if diff := cmp.Diff(want, got, allow, comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestABadOptionCostsOnlyItself(t *testing.T) {
	raw := func(kind byte, value ...byte) *ndp.RawOption {
		for (len(value)+2)%8 != 0 {
			value = append(value, 0)
		}
		return &ndp.RawOption{Type: kind, Length: uint8((len(value) + 2) / 8), Value: value}
	}
	address := func(last ...byte) []byte { return append(make([]byte, 16-len(last)), last...) }
	for name, c := range map[string]struct {
		option *ndp.RawOption
		reason string
	}{
		"a prefix option that is too short":          {raw(optPrefix, 64, 0xc0), "prefix option of 8 bytes"},
		"a prefix of 129 bits":                       {raw(optPrefix, append([]byte{129, 0xc0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0}, address(1)...)...), "129 bits"},
		"a prefix of 0 bits":                         {raw(optPrefix, append([]byte{0, 0xc0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0}, address(1)...)...), "0 bits"},
		"a link-local prefix":                        {raw(optPrefix, append([]byte{64, 0xc0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0xfe, 0x80}, make([]byte, 14)...)...), "fe80::/64"},
		"a multicast prefix":                         {raw(optPrefix, append([]byte{64, 0xc0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0xff, 0x02}, make([]byte, 14)...)...), "ff02::/64"},
		"a prefix preferred for longer than valid":   {raw(optPrefix, append([]byte{64, 0xc0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0x20, 1}, make([]byte, 14)...)...), "longer than it is valid"},
		"a route with the reserved preference":       {raw(optRoute, 0, 0x10, 0, 0, 0, 9), "reserved preference"},
		"a route whose prefix is missing":            {raw(optRoute, 48, 0, 0, 0, 0, 9), "route option of 8 bytes"},
		"a route whose prefix is half missing":       {raw(optRoute, append([]byte{65, 0, 0, 0, 0, 9}, make([]byte, 8)...)...), "route option of 16 bytes"},
		"a route of 32 bytes":                        {raw(optRoute, append([]byte{64, 0, 0, 0, 0, 9}, make([]byte, 24)...)...), "route option of 32 bytes"},
		"a route of 130 bits":                        {raw(optRoute, append([]byte{130, 0, 0, 0, 0, 9}, make([]byte, 16)...)...), "130 bits"},
		"an MTU that is too small for IPv6":          {raw(optMTU, 0, 0, 0, 0, 4, 255), "MTU 1279"},
		"an MTU beyond all links":                    {raw(optMTU, 0, 0, 0xff, 0xff, 0xff, 0xff), "MTU 4294967295"},
		"an MTU option of two units":                 {raw(optMTU, make([]byte, 14)...), "MTU option of 16 bytes"},
		"a DNS server option without a server":       {raw(optRDNSS, 0, 0, 0, 0, 0, 9), "DNS server option of 8 bytes"},
		"a DNS server option of half a server":       {raw(optRDNSS, make([]byte, 14)...), "DNS server option of 16 bytes"},
		"the unspecified address as a DNS server":    {raw(optRDNSS, append([]byte{0, 0, 0, 0, 0, 9}, address(0)...)...), "DNS server ::"},
		"the loopback address as a DNS server":       {raw(optRDNSS, append([]byte{0, 0, 0, 0, 0, 9}, address(1)...)...), "DNS server ::1"},
		"a search domain beyond its option":          {raw(optDNSSL, 0, 0, 0, 0, 0, 9, 8, 'a', 'b', 'c', 'd', 'e', 'f', 'g'), "beyond the end"},
		"a search domain without an end":             {raw(optDNSSL, 0, 0, 0, 0, 0, 9, 7, 'a', 'b', 'c', 'd', 'e', 'f', 'g'), "without an end"},
		"a search domain with a command in it":       {raw(optDNSSL, 0, 0, 0, 0, 0, 9, 6, 'a', '\n', 'c', ' ', 'e', '$', 0), "search domain"},
		"a search domain with a dot inside a label":  {raw(optDNSSL, 0, 0, 0, 0, 0, 9, 3, 'a', '.', '.', 0), "search domain"},
		"a PREF64 of three units":                    {raw(optPREF64, make([]byte, 22)...), "PREF64 option of 24 bytes"},
		"a PREF64 with an unknown length":            {raw(optPREF64, append([]byte{0, 8 | 6}, make([]byte, 12)...)...), "length code 6"},
		"a link-local PREF64":                        {raw(optPREF64, append([]byte{0, 8, 0xfe, 0x80}, make([]byte, 10)...)...), "fe80::/96"},
		"a PREF64 of the unspecified address":        {raw(optPREF64, append([]byte{0, 8}, make([]byte, 12)...)...), "PREF64 ::/96"},
		"a PREF64 whose octet 8 is not zero":         {raw(optPREF64, append([]byte{0, 8, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 1}, make([]byte, 3)...)...), "PREF64 2001:db8:0:0:100::/96"},
		"a source link-layer address of three units": {raw(optSource, make([]byte, 22)...), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAdvert(says{lifetime: time.Hour, options: []ndp.Option{c.option, pio("2001:db8:a:1::/64", time.Hour, time.Hour)}}.packet(gateway))
			if err != nil {
				t.Fatal(err)
			}
			if len(got.prefixes) != 1 || got.lifetime != time.Hour {
				t.Errorf("the rest was lost: %+v", got)
			}
			if reasons := strings.Join(got.ignored, "; "); !strings.Contains(reasons, c.reason) || (c.reason == "") != (reasons == "") {
				t.Errorf("ignored %q, want one about %q", reasons, c.reason)
			}
		})
	}
}

func TestAnOptionThatGoesBeyondTheEndIsLeftOut(t *testing.T) {
	p := plain(time.Hour).packet(gateway)
	p.Data = append(p.Data, optPrefix, 4, 64, 0xc0)
	got, err := parseAdvert(p)
	if err != nil || len(got.prefixes) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestForgedOrBrokenMessagesAreDiscarded(t *testing.T) {
	good := func() Packet { return plain(time.Hour).packet(gateway) }
	zero := good()
	zero.Data = append(zero.Data, 200, 0, 0, 0, 0, 0, 0, 0)
	hop, global, code, short, kind := good(), good(), good(), good(), good()
	hop.HopLimit, global.From = 254, netip.MustParseAddr("2001:db8::1")
	code.Data[1], kind.Data[0] = 1, 136
	short.Data = short.Data[:15]
	for name, p := range map[string]Packet{"hop limit 254": hop, "a source that is not link-local": global, "code 1": code,
		"15 bytes": short, "a neighbour advertisement": kind, "an option of length zero, after good ones": zero, "nothing": {}} {
		t.Run("an advertisement with "+name, func(t *testing.T) {
			if got, err := parseAdvert(p); !errors.Is(err, errMessage) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}

	hop, code, short = solicitation("fe80::9"), solicitation("fe80::9"), solicitation("fe80::9")
	hop.HopLimit, code.Data[1], short.Data = 64, 1, short.Data[:7]
	zero, named := solicitation("fe80::9"), solicitation("::")
	zero.Data = append(zero.Data, 1, 0)
	named.Data = append(named.Data, 1, 1, 2, 0, 0, 0, 0, 9)
	for name, p := range map[string]Packet{"hop limit 64": hop, "code 1": code, "7 bytes": short, "an option of length zero": zero,
		"a link-layer address but no source": named, "a multicast source": solicitation("ff02::1")} {
		t.Run("a solicitation with "+name, func(t *testing.T) {
			if err := parseSolicit(p); !errors.Is(err, errMessage) {
				t.Error(err)
			}
		})
	}
	for _, from := range []string{"::", "fe80::9", "2001:db8::9"} {
		if err := parseSolicit(solicitation(from)); err != nil {
			t.Errorf("from %v: %v", from, err)
		}
	}
}

// FuzzAdvert holds what the rest relies on against any bytes.
func FuzzAdvert(f *testing.F) {
	f.Add(plain(time.Hour).packet(gateway).Data)
	f.Add(says{options: []ndp.Option{rio("2001:db8::/48", ndp.High, time.Hour), ndp.NewMTU(1400),
		&ndp.RecursiveDNSServer{Lifetime: time.Minute, Servers: []netip.Addr{gateway}},
		&ndp.DNSSearchList{Lifetime: time.Minute, DomainNames: []string{"example.net"}}}}.packet(gateway).Data)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAdvert(Packet{Data: b, From: gateway, HopLimit: 255})
		if err != nil {
			return
		}
		for _, p := range a.prefixes {
			if !p.prefix.IsValid() || p.prefix != p.prefix.Masked() || p.preferred > p.valid || !advertisable(p.prefix) {
				t.Errorf("prefix %+v", p)
			}
		}
		for _, r := range a.routes {
			if !r.prefix.IsValid() || r.prefix != r.prefix.Masked() || r.preference < Low || r.preference > High {
				t.Errorf("route %+v", r)
			}
		}
		for _, d := range a.domains {
			if !validDomain(d.domain) {
				t.Errorf("domain %q", d.domain)
			}
		}
		if a.mtu != 0 && a.mtu < minMTU {
			t.Errorf("MTU %d", a.mtu)
		}
		m := newMachine("wan1", secret, State{}, func() float64 { return 0.5 })
		_ = m.receive(Packet{Data: b, From: gateway, HopLimit: 255}, time.Unix(1e9, 0))
	})
}

func FuzzSolicit(f *testing.F) {
	f.Add(solicitation("fe80::9").Data)
	f.Add([]byte{typeSolicit, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, from := range []string{"::", "fe80::9"} {
			if parseSolicit(Packet{Data: b, From: netip.MustParseAddr(from), HopLimit: 255}) == nil && (len(b) < solicitSize || b[0] != typeSolicit || b[1] != 0) {
				t.Errorf("accepted % x", b)
			}
		}
	})
}
