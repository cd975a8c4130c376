package dhcp6

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"pgregory.net/rapid"
)

var (
	serverDUID = DUID{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	serverNoon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	site       = Parent{Prefix: netip.MustParsePrefix("fd00:77::/48"), Usable: true, Site: true}
)

// asks is a client's message with one IA_PD that lists prefixes.
func asks(kind dhcpv6.MessageType, client DUID, id uint32, prefixes ...netip.Prefix) []byte {
	r := request{kind: kind, client: client, ias: []iaKey{{pd: true, id: id}}, include: func(iaKey) []netip.Prefix { return prefixes }}
	switch kind {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease:
		r.server = serverDUID
	}
	return r.bytes()
}

func duidOf(n int) DUID { return DUID{0, 3, 0, 1, 2, 0, 0, 0, byte(n >> 8), byte(n)} }

func routerOf(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fe80::%x", n+1)) }

// told is what an answer says of its first IA_PD, in words.
func told(t testing.TB, answer []byte) []string {
	t.Helper()
	if answer == nil {
		return []string{"silence"}
	}
	m, err := parse(answer)
	if err != nil || m.flaws > 0 {
		t.Fatalf("%v, %q", err, m.faults)
	}
	list := []string{m.kind.String()}
	for _, a := range m.ias {
		if a.status.code != iana.StatusSuccess {
			list = append(list, a.status.code.String())
		}
		for _, g := range a.grants {
			list = append(list, fmt.Sprint(g.prefix, " ", g.preferred, " ", g.valid))
		}
	}
	return list
}

func twoParents() *Terms {
	return &Terms{Bits: 62, Parents: []Parent{
		{Prefix: netip.MustParsePrefix("2001:db8:a00::/56"), Preferred: serverNoon.Add(20 * time.Minute), Valid: serverNoon.Add(40 * time.Minute), Usable: true,
			Taken: []netip.Prefix{netip.MustParsePrefix("2001:db8:a00:1::/64")}},
		{Prefix: netip.MustParsePrefix("2001:db8:b00::/60"), Taken: []netip.Prefix{netip.MustParsePrefix("2001:db8:b00::/64"), netip.MustParsePrefix("2001:db8:b00:e::/64")}},
		site,
	}}
}

func TestARouterGetsPartsOfEachParent(t *testing.T) {
	d, terms := NewDelegator(serverDUID), twoParents()
	answer := func(from int, message []byte) []string {
		t.Helper()
		b, _, err := d.Answer("lan0", terms, routerOf(from), message, serverNoon)
		if err != nil {
			return []string{err.Error()}
		}
		return told(t, b)
	}
	net := netip.MustParsePrefix
	first := []netip.Prefix{net("2001:db8:a00:fc::/62"), net("2001:db8:b00:8::/62"), net("fd00:77:0:fffc::/62")}
	full := []string{"2001:db8:a00:fc::/62 20m0s 40m0s", "2001:db8:b00:8::/62 0s 1h30m0s", "fd00:77:0:fffc::/62 45m0s 1h30m0s"}
	given := append([]string{"REPLY"}, full...)
	second := []string{"REPLY", "2001:db8:a00:f8::/62 20m0s 40m0s", "2001:db8:b00:4::/62 0s 1h30m0s", "fd00:77:0:fff8::/62 45m0s 1h30m0s"}
	for _, step := range []struct {
		name string
		from int
		do   []byte
		want []string
	}{
		{"it looks for servers", 0, asks(dhcpv6.MessageTypeSolicit, duidOf(0), 7), append([]string{"ADVERTISE"}, full...)},
		{"that binds nothing", 1, asks(dhcpv6.MessageTypeSolicit, duidOf(1), 7), append([]string{"ADVERTISE"}, full...)},
		{"it takes them", 0, asks(dhcpv6.MessageTypeRequest, duidOf(0), 7), given},
		{"another has others", 1, asks(dhcpv6.MessageTypeRequest, duidOf(1), 7), second},
		{"it renews, and has one that is nobody's", 0, asks(dhcpv6.MessageTypeRenew, duidOf(0), 7, append(first, net("2001:db8:999::/62"))...),
			append(slices.Clone(given), "2001:db8:999::/62 0s 0s")},
		{"it rebinds", 0, asks(dhcpv6.MessageTypeRebind, duidOf(0), 7, first...), given},
		{"somebody has prefixes of another server", 3, asks(dhcpv6.MessageTypeRebind, duidOf(3), 7, net("2001:db8:999::/62")), []string{"silence"}},
		{"somebody has what only this router gives", 3, asks(dhcpv6.MessageTypeRebind, duidOf(3), 7, net("2001:db8:a00:40::/62")),
			[]string{"REPLY", "2001:db8:a00:40::/62 20m0s 40m0s", "fd00:77:0:fff4::/62 45m0s 1h30m0s"}},
		{"it gives them back", 0, asks(dhcpv6.MessageTypeRelease, duidOf(0), 7, first...), []string{"REPLY"}},
		{"it has nothing any more", 0, asks(dhcpv6.MessageTypeRelease, duidOf(0), 7, first...), []string{"REPLY", iana.StatusNoBinding.String()}},
		{"it asks all servers for another's prefix", 0, asks(dhcpv6.MessageTypeRebind, duidOf(0), 7, net("2001:db8:999::/62")), []string{"silence"}},
		{"it wants an address too", 0, (&request{kind: dhcpv6.MessageTypeSolicit, client: duidOf(0), ias: []iaKey{{id: 1}, {pd: true, id: 7}},
			include: func(iaKey) []netip.Prefix { return nil }}).bytes(), append(append([]string{"ADVERTISE"}, full...), iana.StatusNoAddrsAvail.String())},
		{"it wants an address alone", 0, (&request{kind: dhcpv6.MessageTypeSolicit, client: duidOf(0), ias: []iaKey{{id: 1}},
			include: func(iaKey) []netip.Prefix { return nil }}).bytes(), []string{"silence"}},
		{"it is back, and gets the same", 0, asks(dhcpv6.MessageTypeRequest, duidOf(0), 7), given},
		{"it is known by another address", 9, asks(dhcpv6.MessageTypeRenew, duidOf(0), 7, first...), given},
		{"a question whether addresses fit", 0, asks(dhcpv6.MessageTypeConfirm, duidOf(0), 7), []string{errNotForServers.Error()}},
	} {
		if diff := cmp.Diff(step.want, answer(step.from, step.do)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	if h := d.Holders(); len(h) != 3 || h[0].Router != routerOf(9) {
		t.Errorf("%+v", h)
	}
	if l := d.Lacks(serverNoon); len(l) != 1 || l[0] != (Lacking{"lan0", net("2001:db8:b00::/60")}) {
		t.Errorf("lacking %v", l)
	}
}

func TestARouterLeavesWhatItsProviderTookBack(t *testing.T) {
	d, terms := NewDelegator(serverDUID), twoParents()
	do := func(kind dhcpv6.MessageType, list ...netip.Prefix) []string {
		t.Helper()
		b, _, err := d.Answer("lan0", terms, routerOf(0), asks(kind, duidOf(0), 7, list...), serverNoon)
		if err != nil {
			t.Fatal(err)
		}
		return told(t, b)
	}
	do(dhcpv6.MessageTypeRequest)
	terms.Parents[0].Prefix = netip.MustParsePrefix("2001:db8:c00::/56")
	want := []string{"REPLY", "2001:db8:c00:fc::/62 20m0s 40m0s", "2001:db8:b00:8::/62 0s 1h30m0s", "fd00:77:0:fffc::/62 45m0s 1h30m0s", "2001:db8:a00:fc::/62 0s 0s"}
	if diff := cmp.Diff(want, do(dhcpv6.MessageTypeRenew)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if parts := d.Holders()[0].Parts; len(parts) != 4 {
		t.Errorf("it may use the former one until it has heard that: %+v", parts)
	}
	terms.Parents[0].Usable = false
	want[1] = "2001:db8:c00:fc::/62 20m0s 40m0s" // there is nowhere to go
	want[2] = "2001:db8:b00:8::/62 45m0s 1h30m0s"
	if diff := cmp.Diff(want, do(dhcpv6.MessageTypeRenew)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	d.Expire(serverNoon.Add(41*time.Minute), func(string) bool { return true })
	if parts := d.Holders()[0].Parts; len(parts) != 2 {
		t.Errorf("after the end of the former: %+v", parts)
	}
}

func TestMessagesThatAServerDiscards(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                       {},
		"a server's":                    asks(dhcpv6.MessageTypeReply, duidOf(0), 7),
		"a relay's":                     {12, 0, 0, 0},
		"for another server":            (&request{kind: dhcpv6.MessageTypeRequest, client: duidOf(0), server: duidOf(9)}).bytes(),
		"a request to nobody":           (&request{kind: dhcpv6.MessageTypeRequest, client: duidOf(0)}).bytes(),
		"a solicitation to this server": (&request{kind: dhcpv6.MessageTypeSolicit, client: duidOf(0), server: serverDUID}).bytes(),
		"of nobody":                     {1, 0, 0, 0},
		"information with associations": asks(dhcpv6.MessageTypeInformationRequest, duidOf(0), 7),
	} {
		d := NewDelegator(serverDUID)
		if answer, changed, err := d.Answer("lan0", twoParents(), routerOf(0), b, serverNoon); answer != nil || changed || err == nil {
			t.Errorf("%s: %x, %v, %v", name, answer, changed, err)
		}
	}
}

func TestHostsAreToldOfResolversIfTheyAsk(t *testing.T) {
	d, terms := NewDelegator(serverDUID), twoParents()
	terms.Inform, terms.DNS, terms.Search = true, []netip.Addr{netip.MustParseAddr("2001:db8::53")}, []string{"home.example"}
	inform := (&request{kind: dhcpv6.MessageTypeInformationRequest, client: duidOf(0)}).bytes()
	b, _, err := d.Answer("lan0", terms, routerOf(0), inform, serverNoon)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parse(b)
	if err != nil || !slices.Equal(m.dns, terms.DNS) || !slices.Equal(m.domains, terms.Search) || len(m.ias) > 0 {
		t.Errorf("%+v, %v", m, err)
	}
	terms.Inform = false
	if b, _, err := d.Answer("lan0", terms, routerOf(0), inform, serverNoon); b != nil || err != nil {
		t.Errorf("another program's hosts: %x, %v", b, err)
	}
}

func TestOneRouterCannotTakeAll(t *testing.T) {
	d, terms := NewDelegator(serverDUID), twoParents()
	for n := range 2 * maxHolders {
		from := 0
		if n >= maxOfRouter {
			from = n
		}
		if _, _, err := d.Answer("lan0", terms, routerOf(from), asks(dhcpv6.MessageTypeRequest, duidOf(n), 7), serverNoon); err != nil {
			t.Fatal(err)
		}
		if n == maxOfRouter-1 {
			b, _, _ := d.Answer("lan0", terms, routerOf(0), asks(dhcpv6.MessageTypeRequest, duidOf(9999), 7), serverNoon)
			if got := told(t, b); !slices.Equal(got, []string{"REPLY", iana.StatusNoPrefixAvail.String()}) {
				t.Errorf("one more: %q", got)
			}
		}
	}
	if n := len(d.Holders()); n != maxHolders {
		t.Errorf("%d hold something", n)
	}
	if !slices.Contains(d.Lacks(serverNoon), Lacking{Link: "lan0"}) {
		t.Error("nobody is told")
	}
	for n := range 2 * maxKnown { // they come and go
		now := serverNoon.Add(time.Duration(n) * 2 * time.Hour)
		d.Expire(now, func(string) bool { return true })
		terms.Parents = []Parent{site}
		if _, _, err := d.Answer("lan0", terms, routerOf(n), asks(dhcpv6.MessageTypeRequest, duidOf(n+10000), 7), now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.Holders()); n != maxKnown {
		t.Errorf("%d are remembered", n)
	}
}

// customer is a router behind us, as it sees itself.
type customer struct {
	n     int
	link  string
	holds map[netip.Prefix]time.Time // until when
}

func (c *customer) list(now time.Time) []netip.Prefix {
	var list []netip.Prefix
	for p, end := range c.holds {
		if now.Before(end) {
			list = append(list, p)
		} else {
			delete(c.holds, p)
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

// Routers come, go and are not heard, providers renumber, LANs take parts, we restart with what was stored.
func TestDelegatingKeepsItsPromises(t *testing.T) {
	for range 10 { // 1000 histories
		rapid.Check(t, delegatingHistory)
	}
}

func delegatingHistory(t *rapid.T) {
	now := serverNoon
	d := NewDelegator(serverDUID)
	var disk []byte
	terms := map[string]*Terms{"lan0": {Bits: 62}, "lan1": {Bits: rapid.SampledFrom([]int{60, 62, 64}).Draw(t, "bits")}}
	var parents []Parent
	customers := make([]*customer, rapid.IntRange(1, 9).Draw(t, "customers"))
	for i := range customers {
		customers[i] = &customer{n: i, link: rapid.SampledFrom([]string{"lan0", "lan0", "lan1"}).Draw(t, "link"), holds: make(map[netip.Prefix]time.Time)}
	}
	deal := func() {
		for _, at := range terms {
			at.Parents = slices.Clone(parents)
		}
	}
	anyParent := func() Parent {
		p := Parent{Usable: rapid.Bool().Draw(t, "usable"), Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x00::/%d",
			rapid.IntRange(1, 6).Draw(t, "prefix"), rapid.SampledFrom([]int{56, 56, 58, 60, 61, 64}).Draw(t, "length")))}
		if rapid.Bool().Draw(t, "leased") {
			p.Preferred = now.Add(time.Duration(rapid.IntRange(-60, 4000).Draw(t, "preferred")) * time.Second)
			p.Valid = p.Preferred.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "valid")) * time.Second)
		}
		for range rapid.IntRange(0, 3).Draw(t, "taken") {
			n := rapid.IntRange(0, 255).Draw(t, "number")
			b := p.Prefix.Addr().As16()
			b[7] = byte(n)
			p.Taken = append(p.Taken, netip.PrefixFrom(netip.AddrFrom16(b), 64))
		}
		return p
	}
	ask := func(t *rapid.T, c *customer, kind dhcpv6.MessageType, heard bool) {
		at, holds := terms[c.link], c.list(now)
		b, changed, err := d.Answer(c.link, at, routerOf(c.n), asks(kind, duidOf(c.n), 1, holds...), now)
		if err != nil {
			t.Fatal(err)
		}
		if changed {
			if disk, err = json.Marshal(d.Stored(now)); err != nil {
				t.Fatal(err)
			}
		}
		if b == nil {
			return
		}
		m, err := parse(b)
		if err != nil || m.flaws > 0 {
			t.Fatal(err, m.faults)
		}
		some := slices.ContainsFunc(at.Parents, func(p Parent) bool { return p.Usable && !p.Site })
		offered := make(map[netip.Prefix]bool)
		for _, a := range m.ias {
			if a.t1 > a.t2 {
				t.Errorf("T1 %v, T2 %v", a.t1, a.t2)
			}
			for _, g := range a.grants {
				if g.valid == 0 {
					if heard && kind != dhcpv6.MessageTypeSolicit {
						delete(c.holds, g.prefix)
					}
					continue
				}
				offered[g.prefix] = true
				i := slices.IndexFunc(at.Parents, func(p Parent) bool { return p.Prefix.Contains(g.prefix.Addr()) && p.Prefix.Bits() < g.prefix.Bits() })
				if i < 0 || g.prefix.Bits() != at.Bits {
					t.Fatalf("%v is of no parent of %v", g.prefix, at.Parents)
				}
				p := at.Parents[i]
				if slices.ContainsFunc(p.Taken, g.prefix.Overlaps) {
					t.Errorf("%v is in a network of %v", g.prefix, p.Taken)
				}
				if g.valid > left(p.Valid, now) || g.preferred > left(p.Preferred, now) || g.preferred > g.valid {
					t.Errorf("%v for %v and %v of %v", g.prefix, g.preferred, g.valid, p)
				}
				if some && !p.Usable && g.preferred > 0 {
					t.Errorf("%v of a parent that is not for new connections: %v", g.prefix, g.preferred)
				}
				if kind == dhcpv6.MessageTypeSolicit {
					continue
				}
				for _, o := range customers {
					if o == c {
						continue
					}
					for _, has := range o.list(now) {
						if has.Overlaps(g.prefix) {
							t.Errorf("customer %d is given %v, customer %d has %v", c.n, g.prefix, o.n, has)
						}
					}
				}
			}
		}
		if kind == dhcpv6.MessageTypeSolicit {
			return
		}
		for _, has := range holds {
			fits := slices.ContainsFunc(at.Parents, func(p Parent) bool {
				return p.Prefix.Contains(has.Addr()) && p.Prefix.Bits() < has.Bits() && has.Bits() == at.Bits && !slices.ContainsFunc(p.Taken, has.Overlaps) && left(p.Valid, now) >= time.Second
			})
			if fits && !offered[has] && !slices.ContainsFunc(holds, func(o netip.Prefix) bool { return offered[o] }) {
				t.Errorf("customer %d had %v and is given %v", c.n, has, offered)
			}
		}
		if !heard {
			return
		}
		for _, a := range m.ias {
			for _, g := range a.grants {
				if g.valid > 0 {
					c.holds[g.prefix] = now.Add(g.valid)
				}
			}
		}
	}
	kinds := map[string]dhcpv6.MessageType{"solicit": dhcpv6.MessageTypeSolicit, "request": dhcpv6.MessageTypeRequest, "renew": dhcpv6.MessageTypeRenew, "rebind": dhcpv6.MessageTypeRebind}
	actions := map[string]func(*rapid.T){
		"release": func(t *rapid.T) {
			c := rapid.SampledFrom(customers).Draw(t, "customer")
			_, changed, err := d.Answer(c.link, terms[c.link], routerOf(c.n), asks(dhcpv6.MessageTypeRelease, duidOf(c.n), 1, c.list(now)...), now)
			if err != nil {
				t.Fatal(err)
			}
			if clear(c.holds); changed {
				disk, _ = json.Marshal(d.Stored(now))
			}
		},
		"a provider delegates": func(t *rapid.T) {
			if p := anyParent(); !slices.ContainsFunc(parents, func(o Parent) bool { return o.Prefix.Overlaps(p.Prefix) }) {
				parents = append(parents, p)
			}
			deal()
		},
		"a provider takes back": func(t *rapid.T) {
			if len(parents) > 0 {
				i := rapid.IntRange(0, len(parents)-1).Draw(t, "which")
				parents = slices.Delete(slices.Clone(parents), i, i+1)
			}
			deal()
		},
		"an uplink fails or returns": func(t *rapid.T) {
			parents = slices.Clone(parents)
			if len(parents) > 0 {
				p := &parents[rapid.IntRange(0, len(parents)-1).Draw(t, "which")]
				p.Usable = !p.Usable
			}
			deal()
		},
		"the site has a prefix": func(*rapid.T) {
			if !slices.ContainsFunc(parents, func(p Parent) bool { return p.Site }) {
				parents = append(parents, site)
			}
			deal()
		},
		"time passes": func(t *rapid.T) {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 600, 3000, 7000}).Draw(t, "seconds")) * time.Second)
			parents = slices.DeleteFunc(slices.Clone(parents), func(p Parent) bool { return left(p.Valid, now) == 0 })
			deal()
			if d.Expire(now, func(string) bool { return true }) {
				disk, _ = json.Marshal(d.Stored(now))
			}
		},
		"restart": func(t *rapid.T) {
			var stored []Holder
			if disk != nil {
				if err := json.Unmarshal(disk, &stored); err != nil {
					t.Fatal(err)
				}
			}
			d = NewDelegator(serverDUID)
			d.Restore(stored, now)
		},
		"": func(t *rapid.T) {
			if n := len(d.Holders()); n > len(customers) {
				t.Errorf("%d holders of %d customers", n, len(customers))
			}
			for _, h := range d.Holders() {
				if len(h.Parts) > maxParts {
					t.Errorf("%d parts", len(h.Parts))
				}
				for _, p := range h.Parts {
					if p.Valid.After(now.Add(maxValid + keepAhead)) {
						t.Errorf("%v is held until %v", p.Prefix, p.Valid)
					}
				}
			}
			// What a router may use leads to it: planning knows no other prefixes.
			for _, c := range customers {
				for _, has := range c.list(now) {
					if h := d.find(c.link, duidOf(c.n), 1); h == nil || !slices.ContainsFunc(h.Parts, func(p Part) bool { return p.Prefix == has }) {
						t.Errorf("customer %d has %v, and is known to have %v", c.n, has, h)
					}
				}
			}
		},
	}
	for name, kind := range kinds {
		actions[name] = func(t *rapid.T) {
			ask(t, rapid.SampledFrom(customers).Draw(t, "customer"), kind, rapid.IntRange(0, 4).Draw(t, "heard") > 0)
		}
	}
	t.Repeat(actions)
}

func FuzzAnswer(f *testing.F) {
	for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeRelease} {
		f.Add(asks(kind, duidOf(1), 7, netip.MustParsePrefix("2001:db8:a00:40::/62")))
	}
	f.Add((&request{kind: dhcpv6.MessageTypeInformationRequest}).bytes())
	f.Add((&request{kind: dhcpv6.MessageTypeRenew, client: duidOf(1), server: serverDUID, ias: []iaKey{{id: 1}}, include: func(iaKey) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("2001:db8::1/128")}
	}}).bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, terms := NewDelegator(serverDUID), twoParents()
		if _, _, err := d.Answer("lan0", terms, routerOf(0), asks(dhcpv6.MessageTypeRequest, duidOf(0), 7), serverNoon); err != nil {
			t.Fatal(err)
		}
		answer, _, _ := d.Answer("lan0", terms, routerOf(1), b, serverNoon)
		if answer != nil {
			m, err := parse(answer)
			if err != nil || m.flaws > 0 || !slices.Equal(m.server, serverDUID) {
				t.Fatalf("%v, %+v", err, m)
			}
		}
		holders := d.Holders()
		for i, h := range holders {
			for _, p := range h.Parts {
				if slices.ContainsFunc(holders[:i], func(o Holder) bool {
					return slices.ContainsFunc(o.Parts, func(o Part) bool { return o.Prefix.Overlaps(p.Prefix) })
				}) {
					t.Errorf("%v is another router's too", p.Prefix)
				}
			}
		}
	})
}
