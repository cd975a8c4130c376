package ndisc

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// maxAdvert is the largest ICMPv6 message that any IPv6 link carries whole (RFC 8200 section 5); one in
	// fragments would be dropped (RFC 6980).
	maxAdvert = minMTU - 40
	// The codec keeps an option's size in a byte, so that 256 bytes would count as none.
	maxServersPerOption = 15
	maxNamesPerOption   = 240 // bytes
)

// messages makes the advertisement of a content at a moment: one message, or several when it does not fit,
// each with the same header (RFC 4861 section 6.2.3).
func (c Content) messages(link Link, now time.Time) ([][]byte, error) {
	var common []ndp.Option
	if len(link.Hardware) == 6 {
		common = append(common, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: link.Hardware})
	}
	var messages [][]byte
	current := slices.Clone(common)
	size := 0
	flush := func() error {
		m, err := c.marshal(current)
		if err != nil {
			return fmt.Errorf("making a router advertisement: %w", err)
		}
		messages = append(messages, m)
		current, size = slices.Clone(common), 0
		return nil
	}
	bare, err := c.marshal(common)
	if err != nil {
		return nil, fmt.Errorf("making a router advertisement: %w", err)
	}
	for _, o := range c.options(link, now) {
		alone, err := c.marshal([]ndp.Option{o})
		if err != nil {
			return nil, fmt.Errorf("making an option of a router advertisement: %w", err)
		}
		more := len(alone) - advertHeader
		if size > 0 && len(bare)+size+more > maxAdvert {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		current, size = append(current, o), size+more
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return messages, nil
}

func (c Content) marshal(options []ndp.Option) ([]byte, error) {
	ra := &ndp.RouterAdvertisement{CurrentHopLimit: uint8(c.HopLimit), RouterSelectionPreference: ndp.Medium, Options: options}
	if c.Default {
		ra.RouterLifetime = routerLifetime
	}
	return ndp.MarshalMessage(ra)
}

// options are in the order of their weight: what stands in the first message is heard first.
func (c Content) options(link Link, now time.Time) []ndp.Option {
	var options, stale []ndp.Option
	if c.MTU > 0 && (link.MTU == 0 || c.MTU <= link.MTU) {
		options = append(options, ndp.NewMTU(uint32(c.MTU)))
	}
	for _, a := range c.Prefixes {
		if a.Stale && over(a.Valid, now) {
			continue
		}
		preferred, valid := a.lifetimes(now)
		o := &ndp.PrefixInformation{PrefixLength: uint8(a.Prefix.Bits()), Prefix: a.Prefix.Addr(), OnLink: true,
			AutonomousAddressConfiguration: true, PreferredLifetime: preferred, ValidLifetime: valid}
		if a.Stale {
			stale = append(stale, o)
		} else {
			options = append(options, o)
		}
	}
	options = append(options, names(c.DNS, c.Search, nameLifetime)...)
	for _, r := range c.Routes {
		options = append(options, &ndp.RouteInformation{PrefixLength: uint8(r.Prefix.Bits()), Prefix: r.Prefix.Addr(),
			Preference: ndp.Medium, RouteLifetime: r.lifetime(now)})
	}
	options = append(options, stale...)
	return append(options, names(c.NoDNS, c.NoSearch, 0)...)
}

// names makes the options of DNS servers and search domains, as many as it takes.
func names(servers []netip.Addr, domains []string, lifetime time.Duration) []ndp.Option {
	var options []ndp.Option
	for some := range slices.Chunk(servers, maxServersPerOption) {
		options = append(options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: some})
	}
	var some []string
	size := 0
	flush := func() {
		if len(some) > 0 {
			options = append(options, &ndp.DNSSearchList{Lifetime: lifetime, DomainNames: some})
		}
		some, size = nil, 0
	}
	for _, d := range domains {
		if size+len(d)+2 > maxNamesPerOption {
			flush()
		}
		some, size = append(some, d), size+len(d)+2
	}
	flush()
	return options
}

// change is how much of a change a new content is to the hosts.
type change int

const (
	same   change = iota
	longer        // only lifetimes, and they have grown: worth one advertisement
	urgent        // hosts have to act
)

// clockTolerance is how far apart two lifetimes are that a server's rounding makes of one.
const clockTolerance = 2 * time.Second

// changeTo compares what hosts are told now by one content and would be told by another.
func (c Content) changeTo(other Content, now time.Time) change {
	a, b := c.flat(now), other.flat(now)
	if a.rest != b.rest {
		return urgent
	}
	result := same
	for key, before := range a.lifetimes {
		if _, known := b.lifetimes[key]; !known && before > 0 {
			return urgent // what has been withdrawn long enough may go quietly
		}
	}
	for key, after := range b.lifetimes {
		before, known := a.lifetimes[key]
		switch grown := after - before; {
		case !known || before == 0 && after > 0 || after < before-clockTolerance || after == 0 && before > 0:
			return urgent
		case grown > clockTolerance:
			result = longer
		}
	}
	return result
}

// flat is a content in a form that compares.
type flat struct {
	rest      string
	lifetimes map[string]time.Duration
}

func (c Content) flat(now time.Time) flat {
	f := flat{lifetimes: make(map[string]time.Duration)}
	f.rest = fmt.Sprintln(c.Default, c.HopLimit, c.MTU)
	for _, a := range c.Prefixes {
		if a.Stale && over(a.Valid, now) {
			continue
		}
		f.lifetimes["preferred "+a.Prefix.String()], f.lifetimes["valid "+a.Prefix.String()] = a.lifetimes(now)
	}
	for _, r := range c.Routes {
		f.lifetimes[fmt.Sprintln("route", r.Prefix)] = r.lifetime(now)
	}
	for _, s := range c.DNS {
		f.lifetimes["server "+s.String()] = nameLifetime
	}
	for _, d := range c.Search {
		f.lifetimes["domain "+d] = nameLifetime
	}
	for _, s := range c.NoDNS {
		f.lifetimes["server "+s.String()] = 0
	}
	for _, d := range c.NoSearch {
		f.lifetimes["domain "+d] = 0
	}
	return f
}
