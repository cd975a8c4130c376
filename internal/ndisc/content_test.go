package ndisc

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full has a value for everything.
func full() Content {
	return Content{Default: true, HopLimit: 64, MTU: 1480,
		Prefixes: []Announcement{{Prefix: fiber, Valid: noon.Add(10 * time.Hour)}, {Prefix: lte, Deprecated: true},
			{Prefix: ula, Stale: true, Valid: noon.Add(time.Hour)}},
		Routes: []AnnouncedRoute{{Prefix: site}, {Prefix: netip.MustParsePrefix("2001:db8:b::/56"), Withdrawn: true}},
		DNS:    []netip.Addr{gateway}, Search: []string{"lan", "example.net"},
		NoDNS: []netip.Addr{gateway2}, NoSearch: []string{"old"}}
}

func TestAllOfAContentIsAdvertised(t *testing.T) {
	messages, err := full().messages(Link{Hardware: hardware, MTU: 1500}, noon)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	got, err := parseAdvert(Packet{Data: messages[0], From: ourAddr, HopLimit: 255})
	if err != nil {
		t.Fatal(err)
	}
	want := advert{hopLimit: 64, lifetime: 2700 * time.Second, mtu: 1480,
		prefixes: []prefixOption{{fiber, true, true, 2700 * time.Second, 5400 * time.Second}, {lte, true, true, 0, 5400 * time.Second},
			{ula, true, true, 0, 0}},
		routes:  []routeOption{{site, Medium, 2700 * time.Second}, {netip.MustParsePrefix("2001:db8:b::/56"), Medium, 0}},
		servers: []serverOption{{gateway, 1800 * time.Second}, {gateway2, 0}},
		domains: []domainOption{{"lan", 1800 * time.Second}, {"example.net", 1800 * time.Second}, {"old", 0}}}
	allow := cmp.AllowUnexported(advert{}, prefixOption{}, routeOption{}, serverOption{}, domainOption{})
	if diff := cmp.Diff(want, got, allow, comparable); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	options := map[byte][]byte{}
	_ = walk(messages[0][advertHeader:], func(kind byte, o []byte) { options[kind] = o })
	if diff := cmp.Diff(append([]byte{optSource, 1}, hardware...), options[optSource]); diff != "" {
		t.Errorf("source link-layer address (-want +got):\n%s", diff)
	}
}

func TestWhatDoesNotFitTheLinkIsNotAdvertised(t *testing.T) {
	c := full()
	c.Default = false
	messages, err := c.messages(Link{MTU: 1400}, noon)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseAdvert(Packet{Data: messages[0], From: ourAddr, HopLimit: 255})
	if err != nil || got.mtu != 0 || got.lifetime != 0 {
		t.Errorf("an MTU above the link's, or a lifetime without a default: %+v, %v", got, err)
	}
	_ = walk(messages[0][advertHeader:], func(kind byte, o []byte) {
		if kind == optSource {
			t.Errorf("a device without an address has % x", o)
		}
	})
}

func TestWhatHostsHaveToActOnIsUrgent(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(c *Content)
		want change
	}{
		{"nothing", func(*Content) {}, same},
		{"no default any more", func(c *Content) { c.Default = false }, urgent},
		{"another hop limit", func(c *Content) { c.HopLimit = 63 }, urgent},
		{"another MTU", func(c *Content) { c.MTU = 1400 }, urgent},
		{"a prefix deprecated", func(c *Content) { c.Prefixes[0].Deprecated = true }, urgent},
		{"a prefix preferred again", func(c *Content) { c.Prefixes[1].Deprecated = false }, urgent},
		{"a prefix taken away", func(c *Content) { c.Prefixes[0].Stale = true }, urgent},
		{"a prefix back", func(c *Content) { c.Prefixes[2].Stale = false }, urgent},
		{"a new prefix", func(c *Content) {
			c.Prefixes = append(c.Prefixes, Announcement{Prefix: netip.MustParsePrefix("2001:db8:c::/64")})
		}, urgent},
		{"a prefix left out without a word", func(c *Content) { c.Prefixes = c.Prefixes[1:] }, urgent},
		{"a denied prefix left out", func(c *Content) { c.Prefixes = c.Prefixes[:2] }, same},
		{"a delegation that lasts longer than lifetimes show", func(c *Content) { c.Prefixes[0].Valid = noon.Add(20 * time.Hour) }, same},
		{"a shorter valid lifetime", func(c *Content) { c.Prefixes[0].Valid = noon.Add(time.Hour) }, urgent},
		{"a route withdrawn", func(c *Content) { c.Routes[0].Withdrawn = true }, urgent},
		{"a withdrawn route left out", func(c *Content) { c.Routes = c.Routes[:1] }, same},
		{"another server", func(c *Content) { c.DNS = []netip.Addr{ourAddr} }, urgent},
		{"a denied server left out", func(c *Content) { c.NoDNS = nil }, same},
		{"another search domain", func(c *Content) { c.Search = c.Search[1:] }, urgent},
		{"a denied search domain left out", func(c *Content) { c.NoSearch = nil }, same},
	} {
		after := full()
		c.edit(&after)
		if got := full().changeTo(after, noon); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	before, after := full(), full()
	before.Prefixes[0].Valid, after.Prefixes[0].Valid = noon.Add(1000*time.Second), noon.Add(1002*time.Second)
	if got := before.changeTo(after, noon); got != same {
		t.Errorf("two seconds: %d", got)
	}
	after.Prefixes[0].Valid = noon.Add(1003 * time.Second)
	if got := before.changeTo(after, noon); got != longer {
		t.Errorf("three seconds: %d", got)
	}
}

// A provider that never gives a prefix for three minutes still gives one that most hosts can use.
func TestAPrefixThatIsOnlyEverLentBrieflyIsAnnouncedWithWhatRemains(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	a := Announcement{Prefix: netip.MustParsePrefix("2001:db8:a::/64"), Preferred: now.Add(20500 * time.Millisecond), Valid: now.Add(30 * time.Second)}
	if preferred, valid := a.lifetimes(now); preferred != 0 || valid != 0 {
		t.Errorf("at the end of a long lease: %v, %v", preferred, valid)
	}
	a.Brief = true
	if preferred, valid := a.lifetimes(now); preferred != 20*time.Second || valid != 30*time.Second {
		t.Errorf("of a brief lease: %v, %v", preferred, valid)
	}
	for preferred, want := range map[time.Duration]bool{0: false, 20 * time.Second: true, 359 * time.Second: true, 360 * time.Second: false} {
		if got := IsBrief(preferred); got != want {
			t.Errorf("preferred for %v: brief %v", preferred, got)
		}
	}
}
