package addressing

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	// withdrawTimeout is how long a LAN is told that we go: three advertisements.
	withdrawTimeout = 7 * time.Second
	// hopLimit is what hosts are told to send with, the recommended one (RFC 4861 section 6.3.4 leaves it to us).
	hopLimit = 64
	// minMTU is the least that every IPv6 link carries (RFC 8200 section 5).
	minMTU = 1280
	// ethernetMTU is that of Ethernet: hosts have it, and it is not worth a word that binds them among themselves too.
	ethernetMTU = 1500
	// maxResolvers bounds those that hosts are told of: they use three.
	maxResolvers = 8
)

// lans runs an advertiser on each LAN, and knows what its hosts have been told; where others advertise, what those were given to
// tell.
type lans struct {
	supervisor[*ndisc.Advertiser]
	log  *slog.Logger
	save saver

	mu         sync.Mutex
	advertised map[string]*ndisc.Advertised // by device, as all of these
	kept       map[string][]byte            // the advertised as they were last saved
	inputs     map[string]ndisc.Input       // the latest
	mtus       map[string]int               // likewise, in bytes
	others     map[string][]ndisc.Other
	files      map[string][]byte // the live prefixes as they were last written down
}

func newLANs(log *slog.Logger, save saver) *lans {
	return &lans{log: log, save: save, advertised: make(map[string]*ndisc.Advertised), kept: make(map[string][]byte), inputs: make(map[string]ndisc.Input), mtus: make(map[string]int),
		others: make(map[string][]ndisc.Other), files: make(map[string][]byte)}
}

// restore drops what the hosts cannot have been told.
func (l *lans) restore(now time.Time) {
	for device, advertised := range l.advertised {
		if advertised == nil {
			delete(l.advertised, device)
			continue
		}
		advertised.Usable(now)
	}
}

// clockSet has what hosts were told say its ends by the time of day as it is now. The next update saves it.
func (l *lans) clockSet(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restore(now)
}

// configure starts and stops advertisers so that each LAN that is to have one has one. Router is the link-local address that hosts have as their router,
// whichever of a pair of routers has it; zero: each has its own.
func (l *lans) configure(c *config.Config, router netip.Addr) {
	specs := make(map[string]spec[*ndisc.Advertiser])
	for i := range c.LANs {
		if device := c.LANs[i].Device; c.LANs[i].Advertise {
			var source netip.Addr
			if device == c.Pair.Device {
				source = router
			}
			specs[device] = spec[*ndisc.Advertiser]{device: device, onRemove: l.withdraw(device), make: func(current func() bool) *ndisc.Advertiser {
				return ndisc.NewAdvertiser(ndisc.AdvertiserConfig{Device: device, Source: source, Log: l.log.With("lan", device), OnOthers: func(others []ndisc.Other) {
					l.mu.Lock()
					defer l.mu.Unlock()
					if current() {
						l.others[device] = others
					}
				}})
			}}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Backup {
		for device := range l.all() {
			if router.IsValid() && device == c.Pair.Device {
				l.leave(device, nil) // hosts find the other router at the same address
			} else {
				l.leave(device, resign)
			}
		}
		clear(l.advertised) // the other router knows better from now on
	}
	l.apply(specs)
	there := func(device string) bool {
		return slices.ContainsFunc(c.LANs, func(lan config.LAN) bool { return lan.Device == device })
	}
	for _, known := range []map[string][]byte{l.kept, l.files} {
		maps.DeleteFunc(known, func(device string, _ []byte) bool { return !there(device) })
	}
	maps.DeleteFunc(l.others, func(device string, _ []ndisc.Other) bool { return specs[device].make == nil })
	maps.DeleteFunc(l.inputs, func(device string, _ ndisc.Input) bool { return !there(device) })
}

// withdraw tells the hosts of a LAN that we are its router no more. What they were told is looked up before
// it is forgotten.
func (l *lans) withdraw(device string) func(context.Context, *ndisc.Advertiser) {
	return func(ctx context.Context, a *ndisc.Advertiser) {
		ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
		defer cancel()
		l.mu.Lock()
		var content ndisc.Content
		if have := l.advertised[device]; have != nil {
			content = have.Content()
		}
		delete(l.advertised, device)
		l.mu.Unlock()
		_ = a.Withdraw(ctx, content.Withdrawn()) // a link that is down has nobody to be told
	}
}

// resign tells the hosts of a LAN that we are their router no more. Their prefixes stay, for another router has them.
func resign(ctx context.Context, a *ndisc.Advertiser) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	_ = a.Withdraw(ctx, ndisc.Content{HopLimit: hopLimit})
}

// lanSource is what a LAN's hosts may be told of one uplink.
type lanSource struct {
	lifetimes func(prefix netip.Prefix) (preferred, valid time.Time, brief, ok bool)
	dns       []netip.Addr
	mtu       int // bytes, of the path; 0: not known
}

// update tells the LANs what the latest plan gives them.
func (l *lans) update(c *config.Config, report *rules.Report, names map[int]string, site netip.Prefix, sources map[string]lanSource, now time.Time) {
	l.mu.Lock()
	changed := false
	for i := range c.LANs {
		lan := &c.LANs[i]
		in, mtu := input(lan, report, names, site, sources)
		l.inputs[lan.Device], l.mtus[lan.Device] = in, mtu
		adv := l.advertised[lan.Device]
		if adv == nil {
			adv = new(ndisc.Advertised)
			l.advertised[lan.Device] = adv
		}
		adv.ByOthers = !lan.Advertise
		content := adv.Update(in, now)
		content.HopLimit, content.MTU = hopLimit, mtu
		if i := l.get(lan.Device); i != nil {
			if err := i.client.SetContent(content); err != nil {
				l.log.Error("cannot update router advertisements", "lan", lan.Device, "err", err)
			}
		}
		if text, err := json.Marshal(adv); err == nil && !bytes.Equal(text, l.kept[lan.Device]) {
			l.kept[lan.Device], changed = text, true
		}
	}
	l.mu.Unlock()
	if changed {
		l.save(docLANs, func() any {
			l.mu.Lock()
			defer l.mu.Unlock()
			kept := make(map[string]json.RawMessage, len(l.kept))
			for device, text := range l.kept {
				kept[device] = text
			}
			return kept
		})
	}
	l.writePrefixes(c, now)
}

// input gathers what a LAN's hosts are to be told, and the MTU of the narrowest path that its hosts may take.
func input(lan *config.LAN, report *rules.Report, names map[int]string, site netip.Prefix, sources map[string]lanSource) (in ndisc.Input, mtu int) {
	in = ndisc.Input{AnyUsable: report.Online[lan.Device], Search: lan.Search, DNS: slices.Clone(lan.DNS.Servers)}
	var self netip.Addr // on this LAN: the address that no provider can take away, where there is one
	if site.IsValid() {
		in.ULA, in.Site = planinput.ULASubnet(site, lan.SubnetID), site
		self = rules.RouterAddress(in.ULA)
	}
	for _, s := range report.Subnets {
		if s.Device != lan.Device {
			continue
		}
		from, ok := sources[names[s.Uplink]]
		if !ok {
			continue // the uplink has left the configuration since; the next plan knows, as of a lease that has ended
		}
		preferred, valid, brief, ok := from.lifetimes(s.Delegation.Prefix)
		if !ok {
			continue
		}
		in.Prefixes = withPrefix(in.Prefixes, ndisc.LivePrefix{Prefix: s.Prefix, Uplink: names[s.Uplink], Delegation: s.Delegation.Prefix,
			Preferred: preferred, Valid: valid, Usable: s.Usable, Brief: brief})
		if s.Usable && lan.DNS.Uplinks {
			in.DNS = append(in.DNS, slices.DeleteFunc(slices.Clone(from.dns), func(a netip.Addr) bool { return !usableResolver(a) })...)
		}
		if s.Usable && !self.IsValid() {
			self = s.Router
		}
		if from.mtu >= minMTU && from.mtu < ethernetMTU && (mtu == 0 || from.mtu < mtu) {
			mtu = from.mtu
		}
	}
	if self.IsValid() && lan.DNS.Self {
		in.DNS = append(in.DNS, self)
	}
	slices.SortFunc(in.DNS, netip.Addr.Compare)
	in.DNS = slices.Compact(in.DNS)
	in.DNS = in.DNS[:min(len(in.DNS), maxResolvers)]
	return in, mtu
}

// withPrefix adds a prefix. One that several uplinks have is that of the one which may be used.
func withPrefix(list []ndisc.LivePrefix, p ndisc.LivePrefix) []ndisc.LivePrefix {
	i := slices.IndexFunc(list, func(o ndisc.LivePrefix) bool { return o.Prefix == p.Prefix })
	switch {
	case i < 0:
		return append(list, p)
	case p.Usable && !list[i].Usable:
		list[i] = p
	}
	return list
}

// usableResolver reports whether a resolver that a provider names can be one: what cannot would keep hosts from being
// told anything.
func usableResolver(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && a.IsGlobalUnicast()
}

// resolvers returns the DNS servers that hosts are told of, by device.
func (l *lans) resolvers() map[string][]netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	servers := make(map[string][]netip.Addr, len(l.inputs))
	for device, in := range l.inputs {
		servers[device] = in.DNS
	}
	return servers
}

// LANs tells of the LANs, in the order of the configuration.
func (e *Engine) LANs(now time.Time) []json.RawMessage {
	c, _ := e.configuration()
	downstream := e.downstream.status(now)
	l := e.lans
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []json.RawMessage
	for i := range c.LANs {
		lan := &c.LANs[i]
		in := l.inputs[lan.Device]
		s := status.LAN{Device: lan.Device, SubnetID: lan.SubnetID, Advertise: lan.Advertise, Online: in.AnyUsable, MTU: l.mtus[lan.Device], DNS: in.DNS}
		if in.ULA.IsValid() {
			s.ULA = in.ULA.String()
		}
		for _, p := range in.Prefixes {
			s.Prefixes = append(s.Prefixes, status.LANPrefix{Prefix: p.Prefix, Uplink: p.Uplink, Usable: p.Usable,
				PreferredS: remaining(p.Preferred, now), ValidS: remaining(p.Valid, now)})
		}
		for _, o := range l.others[lan.Device] {
			s.Others = append(s.Others, status.OtherRouter{Router: o.Router, LifetimeS: int64(o.Lifetime / time.Second), Prefixes: o.Prefixes, Conflicts: o.Conflicts})
		}
		s.Downstream = downstream[lan.Device]
		list = append(list, s.Raw())
	}
	return list
}

// problems names other routers on the LANs: hosts follow whoever they hear, and those do not know which of our
// uplinks work.
func (l *lans) problems() []rules.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var problems []rules.Problem
	for _, device := range slices.Sorted(maps.Keys(l.others)) {
		for _, o := range l.others[device] {
			who := fmt.Sprintf("another router, %v,", o.Router)
			if o.Here {
				who = "another program of this machine"
			}
			p := rules.Problem{Code: "other-router", Severity: "warning",
				Message: fmt.Sprintf("%s sends router advertisements on %s", who, device),
				Fix:     fmt.Sprintf("stop it (radvd, dnsmasq, odhcpd or systemd-networkd on this box, or a router among the hosts), or leave the LAN to it: advertise = false for %s", device)}
			for _, c := range o.Conflicts {
				p.Message += "; " + c
			}
			problems = append(problems, p)
		}
	}
	return problems
}

// prefixFile is what other advertisers read of a LAN that we leave to them.
type prefixFile struct {
	Device   string         `json:"device"`
	Prefixes []prefixInFile `json:"prefixes"`
}

// prefixInFile is one prefix; hosts may use it until Preferred, and keep it until Valid. Deprecated says that
// its uplink carries nothing new now.
type prefixInFile struct {
	Prefix     netip.Prefix `json:"prefix"`
	Uplink     string       `json:"uplink"`
	Deprecated bool         `json:"deprecated"`
	Preferred  time.Time    `json:"preferred"`
	Valid      time.Time    `json:"valid"`
}

// writePrefixes writes the live prefixes of the LANs that others advertise on into a file each.
func (l *lans) writePrefixes(c *config.Config, now time.Time) {
	for i := range c.LANs {
		if c.LANs[i].Advertise {
			continue
		}
		device := c.LANs[i].Device
		l.mu.Lock()
		file := prefixFile{Device: device, Prefixes: []prefixInFile{}}
		for _, p := range l.inputs[device].Prefixes {
			file.Prefixes = append(file.Prefixes, prefixInFile{Prefix: p.Prefix, Uplink: p.Uplink, Deprecated: !p.Usable, Preferred: p.Preferred, Valid: p.Valid})
		}
		slices.SortFunc(file.Prefixes, func(a, b prefixInFile) int {
			return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Uplink, b.Uplink))
		})
		text, err := json.Marshal(file)
		same := err == nil && bytes.Equal(text, l.files[device])
		l.files[device] = text
		l.mu.Unlock()
		if !same {
			l.save(docPrefixes+device, func() any { return file })
		}
	}
}
