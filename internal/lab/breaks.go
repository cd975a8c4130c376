package lab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The ways to break an uplink.
const (
	// Carrier takes the ISP's end of the cable down: the router's device loses its carrier.
	Carrier = "carrier"
	// Blackhole lets the ISP forward nothing for the customer; its gateway still answers.
	Blackhole = "blackhole"
	// Upstream silently breaks the link between the ISP and the Internet, for all of the ISP's customers.
	Upstream = "far"
	// Loss drops a share of the customer's packets at random, in each direction: 20 %, or "loss=5", "loss=2.5" for
	// another share. ARP and neighbour discovery are spared.
	Loss = "loss"
	// Gateway silences the ISP altogether, ARP and neighbour discovery included; the carrier stays.
	Gateway = "gateway"
	// Prefix renumbers: the customer's subnets and the router's addresses and gateway change at once, as if by DHCP.
	Prefix = "prefix"
)

const defaultLoss = 20.0

// Kinds returns the kinds that [World.Break] knows.
func Kinds() []string { return []string{Carrier, Blackhole, Upstream, Loss, Gateway, Prefix} }

// broken is one break in force.
type broken struct {
	asked, since time.Time
	percent      float64 // of Loss
}

// BreakStatus is a break in force, as [World.Status] tells it.
type BreakStatus struct {
	Kind string `json:"kind"`
	// It came into force between the two: within 1 ms for carrier, some 20 ms, a run of nft, for the others.
	Asked   time.Time `json:"asked"`
	Since   time.Time `json:"since"`
	Percent float64   `json:"percent,omitempty"`
}

// UplinkStatus is an uplink and all that is broken about it.
type UplinkStatus struct {
	Uplink
	Breaks []BreakStatus `json:"breaks"`
}

// Status returns every uplink with the breaks in force.
func (w *World) Status() []UplinkStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]UplinkStatus, 0, len(w.uplinks))
	for _, u := range w.uplinks {
		s := UplinkStatus{Uplink: u.export(), Breaks: []BreakStatus{}}
		for _, kind := range slices.Sorted(maps.Keys(u.breaks)) {
			b := u.breaks[kind]
			s.Breaks = append(s.Breaks, BreakStatus{Kind: kind, Asked: b.asked, Since: b.since, Percent: b.percent})
		}
		all = append(all, s)
	}
	return all
}

// Break breaks an uplink in one more way and returns when that is in force. Breaking what is broken changes nothing,
// except for another share of loss.
func (w *World) Break(kind, uplink string) error {
	name, percent, err := parseKind(kind)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	u, err := w.find(uplink)
	if err != nil {
		return err
	}
	if old, ok := u.breaks[name]; ok && old.percent == percent && !old.since.IsZero() {
		return nil
	}
	// The record comes first and stays when a step fails: healing then undoes what was done.
	b := &broken{asked: time.Now(), percent: percent}
	u.breaks[name] = b
	if err := w.enforce(u, name); err != nil {
		return fmt.Errorf("breaking %s of %s: %w", name, uplink, err)
	}
	b.since = time.Now()
	return nil
}

func parseKind(kind string) (name string, percent float64, err error) {
	name, value, given := strings.Cut(kind, "=")
	switch {
	case !slices.Contains(Kinds(), name):
		return "", 0, fmt.Errorf("no break is called %q, only %s", name, strings.Join(Kinds(), ", "))
	case name != Loss && given:
		return "", 0, fmt.Errorf("break %s takes no value", name)
	case name != Loss:
		return name, 0, nil
	case !given:
		return name, defaultLoss, nil
	}
	percent, err = strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
	if err != nil || !(percent > 0 && percent <= 100) {
		return "", 0, fmt.Errorf("loss is a share above 0 and up to 100 %%, not %q", value)
	}
	return name, percent, nil
}

// Heal heals every uplink.
func (w *World) Heal() error {
	var errs []error
	for _, u := range w.Uplinks() {
		errs = append(errs, w.HealOne(u.Name))
	}
	return errors.Join(errs...)
}

// HealOne undoes all breaks of one uplink. Healing what is whole changes nothing.
func (w *World) HealOne(uplink string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, err := w.find(uplink)
	if err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(u.breaks)) {
		was := u.breaks[kind]
		delete(u.breaks, kind)
		if err := w.enforce(u, kind); err != nil {
			u.breaks[kind] = was
			return fmt.Errorf("healing %s of %s: %w", kind, uplink, err)
		}
	}
	return nil
}

// enforce makes one kind of break so in the kernel as the uplink's record says it is.
func (w *World) enforce(u *uplink, kind string) error {
	_, on := u.breaks[kind]
	switch kind {
	case Carrier:
		return w.setCarrier(u, !on)
	case Prefix:
		return w.renumber(u, on)
	default:
		return w.applyBreaks(u.isp)
	}
}

func (w *World) applyBreaks(p *isp) error {
	return w.hosts[p.name].nft(w.ctx, breakTable(p))
}

// setCarrier sets the ISP's end up or down by ioctl, for the instant of the loss to be known well.
func (w *World) setCarrier(u *uplink, up bool) error {
	h := w.hosts[u.isp.name]
	if err := h.Do(func() error { return setUp(u.port, up) }); err != nil || !up {
		return err
	}
	// With the link the kernel took the link-local address; the others stay, by keep_addr_on_down.
	return h.ip(w.ctx, addGateways(u.isp))
}

func setUp(dev string, up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(dev)
	if err != nil {
		return fmt.Errorf("device name %q: %w", dev, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("reading flags of %s: %w", dev, err)
	}
	flags := ifr.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("setting flags of %s: %w", dev, err)
	}
	return nil
}

// renumber moves a customer to its other subnets, at the ISP, in the Internet and on the router, in the order of a
// DHCP client that got another lease: the new address, the new default route, and then the old address goes.
func (w *World) renumber(u *uplink, on bool) error {
	if u.renumbered == on {
		return nil
	}
	ctx, p := w.ctx, u.isp
	before, oldGateways, oldNets, delegated := u.current(), p.gateways(), p.networks(false), u.delegation()
	u.renumbered = on
	if w.opts.Delegation {
		if err := errors.Join(w.revoke(ctx, u, delegated), w.delegate(ctx, u, u.delegation())); err != nil {
			return err
		}
	}
	now, newGateways, newNets := u.current(), p.gateways(), p.networks(false)

	atISP := addGateways(p)
	for addr, dev := range oldGateways {
		if _, stays := newGateways[addr]; !stays {
			atISP = append(atISP, fmt.Sprintf("address delete %s dev %s", addr, dev))
		}
	}
	gone := slices.DeleteFunc(oldNets, func(n netip.Prefix) bool { return slices.Contains(newNets, n) })
	atInternet := append(returnRoutes("replace", p, newNets), returnRoutes("delete", p, gone)...)
	return errors.Join(
		w.hosts[p.name].ip(ctx, atISP),
		w.hosts[p.name].nft(ctx, allowOnly(u)),
		w.applyBreaks(p), // they name the gateway
		w.hosts[Internet].ip(ctx, atInternet),
		w.hosts[Router].ip(ctx, []string{
			fmt.Sprintf("address replace %s dev %s", now.addr4, u.device),
			fmt.Sprintf("address replace %s dev %s nodad", now.addr6, u.device),
			default4("replace", u),
			default6("replace", u),
			fmt.Sprintf("address delete %s dev %s", before.addr4, u.device),
			fmt.Sprintf("address delete %s dev %s", before.addr6, u.device),
		}),
	)
}

// breakTable renders everything that is broken at one ISP by dropping packets. The first two lines make the
// replacement atomic, and the removal when nothing is broken.
func breakTable(p *isp) string {
	var chains strings.Builder
	for _, u := range p.uplinks {
		in, out := u.dropRules()
		chains.WriteString(hookChain(u.name+"_in", "ingress", u.port, in))
		chains.WriteString(hookChain(u.name+"_out", "egress", u.port, out))
	}
	if slices.ContainsFunc(p.uplinks, func(u *uplink) bool { return u.breaks[Upstream] != nil }) {
		// ARP and neighbour discovery go on, or the ISP would soon say "host unreachable".
		silent := []string{spareDiscovery, "meta protocol { ip, ip6 } drop"}
		chains.WriteString(hookChain("far_in", "ingress", "up0", silent))
		chains.WriteString(hookChain("far_out", "egress", "up0", silent))
	}
	const gone = "table netdev lab_break\ndelete table netdev lab_break\n"
	if chains.Len() == 0 {
		return gone
	}
	return gone + "table netdev lab_break {\n" + chains.String() + "}\n"
}

const spareDiscovery = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept"

// hookChain stands before the source filter, which must not count what a break swallows.
func hookChain(name, hook, dev string, rules []string) string {
	if len(rules) == 0 {
		return ""
	}
	return fmt.Sprintf("\tchain %s {\n\t\ttype filter hook %s device \"%s\" priority -10; policy accept;\n\t\t%s\n\t}\n",
		name, hook, dev, strings.Join(rules, "\n\t\t"))
}

// dropRules returns the rules at the customer's port, for packets from the customer and to it.
func (u *uplink) dropRules() (in, out []string) {
	now := u.current()
	if u.breaks[Gateway] != nil {
		in, out = append(in, "drop"), append(out, "drop")
	}
	if u.breaks[Blackhole] != nil {
		in = append(in,
			fmt.Sprintf("ip daddr != %s drop", now.gw4),
			fmt.Sprintf("ip6 daddr != { %s, fe80::/10, ff00::/8 } drop", now.gw6))
		out = append(out,
			fmt.Sprintf("ip saddr != %s drop", now.gw4),
			fmt.Sprintf("ip6 saddr != { %s, fe80::/10 } drop", now.gw6))
	}
	if loss := u.breaks[Loss]; loss != nil {
		const scale = 100_000
		rule := fmt.Sprintf("meta protocol { ip, ip6 } numgen random mod %d <= %d drop", scale, max(0, int(loss.percent*scale/100)-1))
		in, out = append(in, spareDiscovery, rule), append(out, spareDiscovery, rule)
	}
	return in, out
}
