package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Options choose the world. The zero value is two uplinks of two ISPs and strict reverse-path filtering.
type Options struct {
	// Prefix goes before the names below /run/netns, so that one process can hold several worlds.
	Prefix string
	// Uplinks is 2 (also when zero) to 4; the third and fourth are named isp3 and isp4, as their ISPs.
	Uplinks int
	// RPFilter is "strict" (also when empty), "loose" or "off", for all, default and every device of the router.
	RPFilter string
	// DNAT installs somebody else's firewall on the router: see firewall.go.
	DNAT bool
	// SameSubnet puts wan1 and wan2 into one segment and subnet: two customers of isp1, and no isp2. Each port lets
	// only its own customer's address pass.
	SameSubnet bool
	// Delegation has every ISP delegate a prefix by DHCPv6.
	Delegation bool
	// Twins makes two sticks that gave us the same IPv4 address and gateway; each ISP translates to its own address.
	Twins bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Uplinks == 0 {
		o.Uplinks = 2
	}
	if o.RPFilter == "" {
		o.RPFilter = "strict"
	}
	var errs []error
	if o.Uplinks < 2 || o.Uplinks > 4 {
		errs = append(errs, fmt.Errorf("a world has 2 to 4 uplinks, not %d", o.Uplinks))
	}
	if _, err := rpFilterValue(o.RPFilter); err != nil {
		errs = append(errs, err)
	}
	if o.SameSubnet && o.Twins {
		errs = append(errs, errors.New("a world has either two devices in the same subnet or twins, not both"))
	}
	return o, errors.Join(errs...)
}

func rpFilterValue(name string) (string, error) {
	switch name {
	case "off":
		return "0", nil
	case "strict":
		return "1", nil
	case "loose":
		return "2", nil
	}
	return "", fmt.Errorf("rp_filter is strict, loose or off, not %q", name)
}

// Uplink is what an uplink looks like at the moment; renumbering changes it.
type Uplink struct {
	Name     string       `json:"name"`   // fiber, lte, isp3, isp4
	ISP      string       `json:"isp"`    // the host that is its provider
	Device   string       `json:"device"` // the router's
	Metric   int          `json:"metric"` // of its default routes in main
	Address4 netip.Prefix `json:"address4"`
	Gateway4 netip.Addr   `json:"gateway4"`
	Address6 netip.Prefix `json:"address6"`
	Gateway6 netip.Addr   `json:"gateway6"` // link-local
}

// uplink is the world's own record of an uplink.
type uplink struct {
	name, device string
	number       int    // from 1, in the order of the uplinks
	port         string // the ISP's end of the router's device
	metric       int
	isp          *isp
	plans        [2]addressing
	renumbered   bool
	delegated    []netip.Prefix
	breaks       map[string]*broken // by kind
}

func (u *uplink) current() addressing {
	if u.renumbered {
		return u.plans[1]
	}
	return u.plans[0]
}

func (u *uplink) export() Uplink {
	now := u.current()
	return Uplink{
		Name: u.name, ISP: u.isp.name, Device: u.device, Metric: u.metric,
		Address4: now.addr4, Gateway4: now.gw4, Address6: now.addr6, Gateway6: netip.MustParseAddr(gatewayLinkLocal),
	}
}

// allowed returns the sources that the ISP lets pass: the customer's subnets, or where two customers share one, the
// customer's addresses.
func (u *uplink) allowed() (v4, v6 netip.Prefix) {
	now := u.current()
	if u.isp.bridged() {
		return netip.PrefixFrom(now.addr4.Addr(), 32), netip.PrefixFrom(now.addr6.Addr(), 128)
	}
	return now.addr4.Masked(), now.addr6.Masked()
}

// isp is a provider: its customers on one side, the Internet behind up0.
type isp struct {
	name    string // host, and the Internet's device towards it
	transit transit
	nat     bool // IPv4 customers are translated to the transit address
	uplinks []*uplink
}

// bridged reports whether several customers share a segment.
func (p *isp) bridged() bool { return len(p.uplinks) > 1 }

// device returns the ISP's device that holds the gateway addresses of u.
func (p *isp) device(u *uplink) string {
	if p.bridged() {
		return "br0"
	}
	return u.port
}

// networks returns the customers' networks that the Internet reaches through this ISP; now or at any time.
func (p *isp) networks(always bool) []netip.Prefix {
	var nets []netip.Prefix
	for _, u := range p.uplinks {
		wanted := []addressing{u.current()}
		if always {
			wanted = u.plans[:]
		}
		for _, a := range wanted {
			nets = append(nets, a.addr6.Masked())
			if !p.nat {
				nets = append(nets, a.addr4.Masked())
			}
		}
	}
	return unique(nets)
}

// gateways returns the addresses that the ISP has on its customers' side, with the device of each.
func (p *isp) gateways() map[netip.Prefix]string {
	all := make(map[netip.Prefix]string)
	for _, u := range p.uplinks {
		now, dev := u.current(), p.device(u)
		all[netip.PrefixFrom(now.gw4, now.addr4.Bits())] = dev
		all[netip.PrefixFrom(now.gw6, now.addr6.Bits())] = dev
		all[netip.PrefixFrom(netip.MustParseAddr(gatewayLinkLocal), 64)] = dev
	}
	return all
}

func unique(nets []netip.Prefix) []netip.Prefix {
	slices.SortFunc(nets, netip.Prefix.Compare)
	return slices.Compact(nets)
}

// topology lays out the ISPs and their customers.
func topology(o Options) (isps []*isp) {
	names := [...]string{Fiber, LTE, "isp3", "isp4"}
	for i := range o.Uplinks {
		u := &uplink{
			name: names[i], device: fmt.Sprintf("wan%d", i+1), port: fmt.Sprintf("cust%d", i+1),
			metric: 100 * (i + 1), plans: plans(i), breaks: make(map[string]*broken),
		}
		p := &isp{name: fmt.Sprintf("isp%d", i+1), transit: transits(i), nat: o.Twins && i < 2}
		switch {
		case i == 1 && o.SameSubnet:
			u.plans = sameSubnetPlans()
			p = isps[0]
		case i == 1 && o.Twins:
			u.plans = twinPlans()
		}
		u.isp = p
		p.uplinks = append(p.uplinks, u)
		if !slices.Contains(isps, p) {
			isps = append(isps, p)
		}
	}
	return isps
}
