package offline

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// PairOptions say what a machine cannot know of the other router of a pair.
type PairOptions struct {
	Dir     string     // where the files go, below first and second; made
	Virtual netip.Addr // that hosts have as their router
	Peer    netip.Addr // the other router's own address, in the same network
	Own     netip.Addr // this router's own address there; zero: the one that it has
	LAN     string     // device; "": the one with such a network
}

// pairFound is what the proposal has of a pair.
type pairFound struct {
	lan       string
	network   netip.Prefix // of the LAN, masked
	virtual   netip.Addr
	own, peer netip.Addr
	ids       map[string]int // by name of an uplink
	lines     map[string]pairLine
	second    bool // the file of the other router is written
}

// pairLine is how an uplink moves.
type pairLine struct {
	device    string
	shared    bool
	leased    bool
	addresses []netip.Prefix // that keepalived moves
	gateways  []netip.Addr
}

// Of hosts' IPv6 router, and of the routers at lines, by the number of the line.
const (
	pairRouter6 = "fe80::7:1/64"
	pairLine6   = "fe80::9:%d/64"
	pairPort    = 9276
)

// leases reports whether the primary asks for the lease of an uplink.
func (f *pairFound) leases(name string) bool { return f != nil && f.lines[name].leased }

// InitPair looks at this machine and writes the configuration of two routers: of uplinkd, keepalived and conntrackd, with the key of both. It overwrites
// nothing, and changes nothing else. It returns what was written.
func InitPair(o PairOptions) (files []string, err error) {
	c := config.Default()
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer k.Close()
	obs, err := k.Snapshot(rules.Query{})
	if err != nil {
		return nil, err
	}
	content, err := proposePair(obs, discovery.ThisMachine(kernel.Driver), readSaved(c.Daemon.StateDir).ids, o)
	if err != nil {
		return nil, err
	}
	return writePair(o.Dir, content)
}

// pairFile is a file to be written.
type pairFile struct {
	name string
	text string
	mode os.FileMode
}

// writePair writes files where none is.
func writePair(dir string, content []pairFile) (written []string, err error) {
	for _, f := range content {
		path := filepath.Join(dir, f.name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, cmp.Or(err, fmt.Errorf("%s is there already, and nothing is overwritten: name another directory", path))
		}
	}
	for _, f := range content {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return written, err
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if err != nil {
			return written, err
		}
		_, err = file.WriteString(f.text)
		if err = errors.Join(err, file.Chmod(f.mode), file.Close()); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	return written, nil
}

// proposePair makes the files of both routers.
func proposePair(obs *rules.Observed, m discovery.Machine, ids map[string]int, o PairOptions) ([]pairFile, error) {
	p := newProposer(obs, m)
	found, err := p.findPair(ids, o)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	secret := base64.StdEncoding.EncodeToString(key) + "\n"
	var files []pairFile
	for _, name := range []string{"first", "second"} {
		f := *found
		if name == "second" {
			f.own, f.peer, f.second = f.peer, f.own, true
		}
		q := newProposer(obs, m)
		q.pair = &f
		q.all(nil)
		if _, err := config.Parse(name+"/uplinkd.toml", []byte(q.String())); err != nil {
			return nil, fmt.Errorf("what this machine has fits no pair: %w", err)
		}
		files = append(files,
			pairFile{name + "/uplinkd.toml", q.String(), 0o644}, pairFile{name + "/pair.key", secret, 0o600},
			pairFile{name + "/keepalived.conf", f.keepalived(), 0o644}, pairFile{name + "/conntrackd.conf", f.conntrackd(), 0o644},
			pairFile{name + "/pair-flows", pairFlows, 0o755}, pairFile{name + "/sysctl.conf", pairSysctl, 0o644})
	}
	return files, nil
}

// findPair finds the LAN and how each line moves, or says what has to be told.
func (p *proposer) findPair(ids map[string]int, o PairOptions) (*pairFound, error) {
	f := &pairFound{virtual: o.Virtual, peer: o.Peer, own: o.Own, ids: make(map[string]int), lines: make(map[string]pairLine)}
	for _, a := range p.obs.Addrs {
		network := a.Prefix.Masked()
		if p.uplinkOn(a.Device) || a.LinkScope || network.IsSingleIP() || !network.Contains(o.Virtual) || o.LAN != "" && a.Device != o.LAN {
			continue
		}
		if f.lan != "" && f.lan != a.Device {
			return nil, fmt.Errorf("%v is in the networks of %s and %s: name the LAN with --lan", o.Virtual, f.lan, a.Device)
		}
		f.lan, f.network = a.Device, network
		if !f.own.IsValid() && a.Prefix.Addr() != o.Virtual {
			f.own = a.Prefix.Addr()
		}
	}
	switch {
	case f.lan == "" && o.LAN != "":
		return nil, fmt.Errorf("%s has no address in a network with %v: give this router one of its own there first", o.LAN, o.Virtual)
	case f.lan == "":
		return nil, fmt.Errorf("no device of a LAN has an address in a network with %v: give this router one of its own there first, or correct --virtual", o.Virtual)
	case !f.own.IsValid():
		return nil, fmt.Errorf("%v is this router's own address on %s, and becomes the one that moves: say by --own which address it gets instead", o.Virtual, f.lan)
	case f.own == o.Virtual:
		return nil, fmt.Errorf("--own %v is the virtual address, which moves", f.own)
	case !f.network.Contains(f.own):
		return nil, fmt.Errorf("--own %v is not in %v, the network of %s", f.own, f.network, f.lan)
	case !f.network.Contains(f.peer):
		return nil, fmt.Errorf("--peer %v is not in %v, the network of %s", f.peer, f.network, f.lan)
	case f.peer == o.Virtual || f.peer == f.own:
		return nil, fmt.Errorf("--peer %v must be the other router's own address, and is this one's", f.peer)
	case len(p.found) == 0:
		return nil, errors.New("no device of this machine has a default route now: run it on the router whose lines the pair is to have")
	}
	taken := make(map[int]bool)
	for i := range p.found {
		f.ids[p.found[i].Name] = ids[p.found[i].Name]
		taken[ids[p.found[i].Name]] = true
	}
	for i, next := 0, 1; i < len(p.found); i++ {
		u := &p.found[i]
		for f.ids[u.Name] == 0 {
			if !taken[next] {
				f.ids[u.Name], taken[next] = next, true
			}
			next++
		}
		f.lines[u.Name] = p.lineOf(u, f.ids[u.Name])
	}
	return f, nil
}

// lineOf finds out how an uplink moves: what somebody wrote down is shared, what is leased or dialed is the primary's.
func (p *proposer) lineOf(u *config.Uplink, id int) (l pairLine) {
	l.device = u.Device
	link, _ := p.obs.Link(u.Device)
	for _, a := range p.obs.Addrs {
		if a.Device != u.Device || a.LinkScope || !a.Prefix.Addr().IsGlobalUnicast() || int(a.Protocol) == config.Default().Kernel.Protocol {
			continue
		}
		if !a.Dynamic {
			l.addresses = append(l.addresses, a.Prefix)
		} else if a.Prefix.Addr().Is4() {
			l.leased = true
		}
	}
	fixed := slices.ContainsFunc(l.addresses, func(a netip.Prefix) bool { return a.Addr().Is4() })
	if _, lost := p.lost[u.Device]; lost {
		l.leased = true
	}
	if l.shared = u.Kind == config.KindISP && fixed && !l.leased && !link.PointToPoint && p.sort(u.Device) != "PPP"; !l.shared {
		l.leased = l.leased && u.Kind == config.KindISP && !link.PointToPoint
		return l
	}
	for _, r := range p.obs.Routes {
		if r.Table != netcfg.TableMain || !r.IsDefault() || r.Type != netcfg.Unicast {
			continue
		}
		for _, hop := range r.Nexthops {
			if hop.Device == u.Device && hop.Gateway.IsValid() && !slices.Contains(l.gateways, hop.Gateway) {
				l.gateways = append(l.gateways, hop.Gateway)
			}
		}
	}
	if slices.ContainsFunc(l.gateways, netip.Addr.Is6) {
		l.addresses = slices.Insert(l.addresses, 0, netip.MustParsePrefix(fmt.Sprintf(pairLine6, id)))
	}
	return l
}

// pairSection is [pair], for a pair.
func (p *proposer) pairSection() {
	f := p.pair
	if f == nil {
		return
	}
	p.write("\n## Two routers of which one works at a time: docs/several-routers.md. The other one's file differs in peer alone")
	if f.second {
		p.write("; if its devices\n## have other names, correct them here and in keepalived.conf")
	}
	router, _, _ := strings.Cut(pairRouter6, "/")
	p.write(".\n[pair]\nvirtual = [%q, %q] # keepalived's: who has the first is primary, the other one is the hosts' IPv6 router\ndevice = %q\n"+
		"peer = %q\nkey_file = \"/etc/uplinkd/pair.key\"\nprepare = [\"/etc/uplinkd/pair-flows\", \"prepare\"]\n", f.virtual, router, f.lan, netip.AddrPortFrom(f.peer, pairPort))
}

// pairUplink says how an uplink moves.
func (p *proposer) pairUplink(u *config.Uplink) {
	if p.pair == nil {
		return
	}
	p.write("id = %d                         # in the marks of connections: the same on both\n", p.pair.ids[u.Name])
	if p.pair.lines[u.Name].shared {
		p.write("shared = true                  # keepalived moves its address, and connections go on; no key where each router has an address of its own\n")
	} else {
		p.write("primary_only = true            # leased or dialed by the primary alone; no key where each router has an address of its own\n")
	}
}

// shared lists the lines whose address moves, by id.
func (f *pairFound) shared() (names []string) {
	for name, l := range f.lines {
		if l.shared {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return f.ids[a] - f.ids[b] })
	return names
}
