package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// readyTimeout bounds how long a new world may take until its links are usable.
const readyTimeout = 20 * time.Second

func (w *World) build(ctx context.Context) error {
	if err := w.addHosts(ctx); err != nil {
		return err
	}
	steps := []func(context.Context) error{w.sysctls, w.addLinks, w.buildLAN, w.buildRouter, w.buildISPs, w.buildInternet, w.ready}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if w.opts.Delegation {
		return w.serveDelegations(ctx)
	}
	return nil
}

func (w *World) addHosts(ctx context.Context) error {
	w.order = append(w.order, LAN, Router)
	for _, p := range w.isps {
		w.order = append(w.order, p.name)
	}
	w.order = append(w.order, Internet)

	var batch []string
	for _, name := range w.order {
		batch = append(batch, "netns add "+w.opts.Prefix+name)
	}
	if err := feed(ctx, strings.Join(batch, "\n")+"\n", w.tools.ip, "-batch", "-"); err != nil {
		return fmt.Errorf("adding network namespaces: %w", err)
	}
	for _, name := range w.order {
		netns := w.opts.Prefix + name
		ns, err := os.Open("/run/netns/" + netns)
		if err != nil {
			return fmt.Errorf("opening namespace %s: %w", netns, err)
		}
		w.hosts[name] = &Host{name: name, netns: netns, ns: ns, tools: w.tools, world: w}
	}
	return nil
}

// sysctls come before the devices, which inherit "default" when they are made.
func (w *World) sysctls(context.Context) error {
	for _, h := range w.hosts {
		set := [][2]string{
			// Duplicate address detection would keep every address unusable for a second or two.
			{"net/ipv6/conf/all/accept_dad", "0"},
			{"net/ipv6/conf/default/accept_dad", "0"},
			{"net/ipv6/conf/default/dad_transmits", "0"},
		}
		if strings.HasPrefix(h.name, "isp") { // an ISP's gateway is there when the cable comes back
			set = append(set, [2]string{"net/ipv6/conf/default/keep_addr_on_down", "1"})
		}
		rp := "0"
		if h.name == Router {
			rp, _ = rpFilterValue(w.opts.RPFilter) // checked in withDefaults
		}
		set = append(set, [2]string{"net/ipv4/conf/all/rp_filter", rp}, [2]string{"net/ipv4/conf/default/rp_filter", rp})
		if h.name != LAN {
			set = append(set,
				[2]string{"net/ipv4/ip_forward", "1"},
				[2]string{"net/ipv6/conf/all/forwarding", "1"},
				[2]string{"net/ipv6/conf/default/forwarding", "1"})
		}
		err := h.Do(func() error {
			for _, kv := range set {
				if err := writeSysctl(kv[0], kv[1]); err != nil {
					return fmt.Errorf("%s: %w", h.name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addLinks makes every veth pair with its ends in place.
func (w *World) addLinks(ctx context.Context) error {
	veth := func(hostA, devA, hostB, devB string) string {
		return fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s",
			devA, w.hosts[hostA].netns, devB, w.hosts[hostB].netns)
	}
	batch := []string{veth(Router, "lan0", LAN, "eth0")}
	for _, p := range w.isps {
		for _, u := range p.uplinks {
			batch = append(batch, veth(Router, u.device, p.name, u.port))
		}
		batch = append(batch, veth(p.name, "up0", Internet, p.name))
	}
	return feed(ctx, strings.Join(batch, "\n")+"\n", w.tools.ip, "-batch", "-")
}

func (w *World) buildLAN(ctx context.Context) error {
	return w.hosts[LAN].ip(ctx, []string{
		"link set lo up",
		addAddress(netip.PrefixFrom(netip.MustParseAddr(LANHost4), 25), "eth0"),
		addAddress(netip.PrefixFrom(netip.MustParseAddr(LANHost6), 64), "eth0"),
		"link set eth0 up",
		"route add default via " + LANRouter4,
		"route add ::/0 via " + LANRouter6,
	})
}

// buildRouter leaves what a DHCP client and a static IPv6 configuration leave, so that every ISP is usable from main.
func (w *World) buildRouter(ctx context.Context) error {
	batch := []string{
		"link set lo up",
		addAddress(netip.PrefixFrom(netip.MustParseAddr(LANRouter4), 25), "lan0"),
		addAddress(netip.PrefixFrom(netip.MustParseAddr(LANRouter6), 64), "lan0"),
		"link set lan0 up",
	}
	for _, u := range w.uplinks {
		now := u.current()
		batch = append(batch,
			addAddress(now.addr4, u.device),
			addAddress(now.addr6, u.device),
			fmt.Sprintf("link set %s up", u.device),
			default4("add", u),
			default6("add", u))
	}
	h := w.hosts[Router]
	if err := h.ip(ctx, batch); err != nil {
		return err
	}
	if !w.opts.DNAT {
		return nil
	}
	return h.nft(ctx, firewall())
}

func default4(verb string, u *uplink) string {
	return fmt.Sprintf("route %s default via %s dev %s proto dhcp metric %d", verb, u.current().gw4, u.device, u.metric)
}

func default6(verb string, u *uplink) string {
	return fmt.Sprintf("route %s ::/0 via %s dev %s proto static metric %d", verb, gatewayLinkLocal, u.device, u.metric)
}

func (w *World) buildISPs(ctx context.Context) error {
	for _, p := range w.isps {
		h, t := w.hosts[p.name], p.transit
		batch := []string{"link set lo up"}
		if p.bridged() {
			batch = append(batch, "link add br0 type bridge stp_state 0 forward_delay 0", "link set dev br0 addrgenmode none")
		}
		for _, u := range p.uplinks {
			// The gateway's link-local address is fe80::1 and no other.
			batch = append(batch, fmt.Sprintf("link set dev %s addrgenmode none", u.port))
			if p.bridged() {
				batch = append(batch, fmt.Sprintf("link set dev %s master br0", u.port))
			}
			batch = append(batch, fmt.Sprintf("link set %s up", u.port))
		}
		if p.bridged() {
			batch = append(batch, "link set br0 up")
		}
		batch = append(batch, addGateways(p)...)
		batch = append(batch,
			addAddress(t.isp4, "up0"), addAddress(t.isp6, "up0"), "link set up0 up",
			fmt.Sprintf("route add default via %s", t.inet4.Addr()),
			fmt.Sprintf("route add ::/0 via %s", t.inet6.Addr()))
		if err := h.ip(ctx, batch); err != nil {
			return err
		}
		if err := h.nft(ctx, sourceFilter(p)); err != nil {
			return err
		}
	}
	return nil
}

// addGateways returns commands that are harmless where the addresses are there already.
func addGateways(p *isp) []string {
	var batch []string
	for addr, dev := range p.gateways() {
		batch = append(batch, fmt.Sprintf("address replace %s dev %s%s", addr, dev, nodad(addr)))
	}
	slices.Sort(batch)
	return batch
}

func (w *World) buildInternet(ctx context.Context) error {
	batch := []string{"link set lo up"}
	for _, a := range internetAddresses() {
		batch = append(batch, addAddress(netip.PrefixFrom(a, a.BitLen()), "lo"))
	}
	for _, p := range w.isps {
		t := p.transit
		batch = append(batch, addAddress(t.inet4, p.name), addAddress(t.inet6, p.name), fmt.Sprintf("link set %s up", p.name))
		batch = append(batch, returnRoutes("add", p, p.networks(false))...)
	}
	return w.hosts[Internet].ip(ctx, batch)
}

// returnRoutes returns the Internet's routes to an ISP's customers.
func returnRoutes(verb string, p *isp, nets []netip.Prefix) []string {
	var batch []string
	for _, net := range nets {
		via := p.transit.isp6.Addr()
		if net.Addr().Is4() {
			via = p.transit.isp4.Addr()
		}
		batch = append(batch, fmt.Sprintf("route %s %s via %s dev %s", verb, net, via, p.name))
	}
	return batch
}

func addAddress(addr netip.Prefix, dev string) string {
	return fmt.Sprintf("address add %s dev %s%s", addr, dev, nodad(addr))
}

func nodad(addr netip.Prefix) string {
	if addr.Addr().Is6() {
		return " nodad"
	}
	return ""
}

// ready waits for what the kernel does in its own time: carrier and the link-local addresses that follow it.
func (w *World) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	need := map[string][]string{LAN: {"eth0"}, Router: {"lan0"}}
	for _, p := range w.isps {
		for _, u := range p.uplinks {
			need[Router] = append(need[Router], u.device)
			need[p.name] = append(need[p.name], p.device(u))
		}
		need[p.name] = append(need[p.name], "up0")
		need[Internet] = append(need[Internet], p.name)
	}
	for name, devices := range need {
		for _, dev := range devices {
			err := Until(ctx, fmt.Sprintf("%s of %s to be usable", dev, name), func() error {
				return w.hosts[name].Do(func() error {
					_, err := linkLocal(dev)
					return err
				})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// linkLocal returns a device's link-local address that the kernel has checked for duplicates, in the namespace of the calling thread.
func linkLocal(dev string) (netip.Addr, error) {
	ifc, err := net.InterfaceByName(dev)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("looking up %s: %w", dev, err)
	}
	usable, err := linksession.LinkLocals(ifc.Index, false)
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Addr{}, errors.New("the lab needs IPv6 in the kernel")
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", dev, err)
	}
	return usable[0], nil
}
