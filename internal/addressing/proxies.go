package addressing

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndproxy"
	"github.com/uplinkd/uplinkd/rules"
)

// proxies runs a neighbour discovery proxy for each uplink that shares the network of its line with a LAN, and knows which addresses are where.
type proxies struct {
	supervisor[*ndproxy.Proxy]
	log     *slog.Logger
	save    saver
	changed func()

	mu   sync.Mutex               // guards what follows
	kept map[string]ndproxy.Hosts // by uplink name
	lans map[string]string        // likewise: the device of the LAN
}

// between is what a proxy is made from, besides its uplink.
type between struct {
	lan     string // device
	network netip.Prefix
	own     netip.Addr
}

func newProxies(log *slog.Logger, save saver, changed func()) *proxies {
	return &proxies{log: log, save: save, changed: changed, kept: make(map[string]ndproxy.Hosts), lans: make(map[string]string)}
}

// update starts and stops proxies as the latest plan has networks on two links.
func (p *proxies) update(c *config.Config, report *rules.Report, names map[int]string) {
	if report.Defaults == nil {
		return // nothing has been planned yet
	}
	specs, lans := make(map[string]spec[*ndproxy.Proxy]), make(map[string]string)
	for _, s := range report.Subnets {
		name := names[s.Uplink]
		at := slices.IndexFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == name })
		if !s.Proxied || at < 0 || specs[name].make != nil {
			continue
		}
		device := c.Uplinks[at].Device
		lans[name] = s.Device
		key := between{s.Device, s.Prefix, s.Router}
		specs[name] = spec[*ndproxy.Proxy]{device: device, key: key, make: func(current func() bool) *ndproxy.Proxy {
			var proxy *ndproxy.Proxy
			proxy = ndproxy.New(ndproxy.Config{Line: device, LAN: key.lan, Network: key.network, Own: key.own, Kept: p.kept[name], Log: p.log.With("uplink", name), OnChange: func() {
				p.mu.Lock()
				if current() {
					p.kept[name] = proxy.Hosts()
				}
				p.mu.Unlock()
				p.keep()
				p.changed()
			}})
			return proxy
		}}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lans = lans
	p.apply(specs)
}

func (p *proxies) keep() {
	p.save(docProxied, func() any {
		p.mu.Lock()
		defer p.mu.Unlock()
		return maps.Clone(p.kept)
	})
}

// observe tells the proxies of both their devices.
func (p *proxies) observe(obs *rules.Observed) {
	p.supervisor.observe(obs)
	p.mu.Lock()
	lans := p.lans
	p.mu.Unlock()
	for name, i := range p.all() {
		link, _ := obs.Link(lans[name])
		i.client.SetLAN(link.Index, link.Up && link.Carrier, link.Hardware)
	}
}

// addProxied tells planning which addresses of networks on two links are on which of them.
func (e *Engine) addProxied(out *rules.Config) {
	p := e.proxies
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range out.Uplinks {
		u := &out.Uplinks[i]
		u.Proxied = rules.ProxiedHosts(p.kept[u.Name])
	}
}

// problems names networks whose hosts are not all found.
func (p *proxies) problems(now time.Time) []rules.Problem {
	p.mu.Lock()
	lans := p.lans
	p.mu.Unlock()
	var problems []rules.Problem
	all := p.all()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		i := all[name]
		if i.client.Looped(now) {
			problems = append(problems, rules.Problem{Code: "share-loop", Severity: "error", Message: fmt.Sprintf("%s cannot share its network with %s: what leaves by one of %s and %s comes in by the other", name, lans[name], i.device, lans[name]),
				Fix: "find the cable, bridge or switch port that joins both; or take share out of its [uplink.ipv6]"})
		}
		if i.client.Crowded(now) {
			problems = append(problems, rules.Problem{Code: "share-full", Severity: "warning", Message: fmt.Sprintf("the network that %s shares with %s has more addresses than are kept: some hosts are found late", name, lans[name]),
				Fix: "look for a host that uses very many addresses; or ask the provider for a delegation (DHCPv6-PD)"})
		}
	}
	return problems
}
