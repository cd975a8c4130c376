package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// MissingFeature is something that this kernel cannot do.
type MissingFeature struct {
	What   string
	Module string // that would bring it, "" when none does
	Err    error
}

// feature is something that is tried out.
type feature struct {
	what, module string
	try          func(k *Kernel) error
}

// features are tried in this order, in a namespace with a device "up0" that has 192.0.2.1/24 and 2001:db8::1/64.
func features(numbers rules.Kernel, tunnels []*encap.Kind) []feature {
	table := func(t nft.Table) func(*Kernel) error {
		return func(k *Kernel) error {
			if err := k.replaceTable(&t); err != nil {
				return err
			}
			return k.replaceTable(nil)
		}
	}
	chain := func(c nft.Chain) func(*Kernel) error { return table(nft.Table{Chains: []nft.Chain{c}}) }
	rule := func(family rules.Family) func(*Kernel) error {
		return func(k *Kernel) error {
			return k.changeRule(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, netcfg.Rule{Family: family, Priority: 100, Table: netcfg.TableMain,
				Mark: 1, Mask: 1, SuppressPrefixLen: 1, SuppressGroup: 117, Protocol: numbers.Protocol})
		}
	}
	shared := func(family rules.Family, a, b string) func(*Kernel) error {
		return func(k *Kernel) error {
			r := netcfg.Route{Family: family, Table: 100, Type: netcfg.Unicast, Dst: family.Default(), Protocol: numbers.Protocol, Nexthops: []netcfg.Nexthop{
				{Device: "up0", Gateway: netip.MustParseAddr(a), Weight: 1}, {Device: "up0", Gateway: netip.MustParseAddr(b), Weight: 2}}}
			return k.changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r)
		}
	}
	match := nft.CtMark{Mask: 1, Value: 1}
	list := []feature{
		{"policy rules of IPv4", "", rule(rules.IPv4)},
		{"policy rules of IPv6", "", rule(rules.IPv6)},
		{"shared default routes of IPv4", "", shared(rules.IPv4, "192.0.2.2", "192.0.2.3")},
		{"shared default routes of IPv6", "", shared(rules.IPv6, "2001:db8::2", "2001:db8::3")},
		{"nftables with connection marks", "nft_ct", chain(nft.Chain{Name: "a", Type: "filter", Hook: "prerouting", Rules: []nft.Rule{{
			Exprs: []nft.Expr{match, nft.SetMark{Mask: 1, Value: 1}, nft.SetCtMark{Mask: 1, Value: 1}, nft.Counter{}, nft.Drop{}}}}})},
		{"nftables maps to chains", "nf_tables", table(nft.Table{Sets: []nft.Set{{Name: "m", Map: true, Devices: []string{"up0"}, Chains: []string{"d"}}},
			Chains: []nft.Chain{{Name: "d"}, {Name: "e", Type: "filter", Hook: "forward"}}})},
		{"nftables chains of type route", "nf_tables", chain(nft.Chain{Name: "b", Type: "route", Hook: "output"})},
		{"masquerading", "nft_masq", chain(nft.Chain{Name: "c", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []nft.Rule{{Exprs: []nft.Expr{nft.Masquerade{}}}}})},
		{"deleting connections by mark", "nf_conntrack_netlink", func(k *Kernel) error { return k.FlushConntrack(rules.IPv4, 1, 1) }},
		{"listing TCP connections", "tcp_diag", func(k *Kernel) error {
			_, err := k.DestroySockets([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
			return err
		}},
	}
	for i, kind := range tunnels {
		list = append(list, feature{kind.Name + " tunnels", kind.Module, func(k *Kernel) error {
			err := k.addLink(fmt.Sprintf("try%d", i), kind.KernelName())
			// Who asks for more knows the kind: a VXLAN has an id, and of GRE there can be one tunnel without addresses, which the module
			// makes by itself (net.core.fb_tunnels_only_for_init_net).
			if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) {
				return nil
			}
			return err
		}})
	}
	return list
}

// MissingFeatures tries out what uplinkd needs of a kernel, and the given kinds of tunnel, in a network
// namespace of its own that is thrown away. Nothing else can tell: what is built in or can be loaded differs, and
// is nowhere listed.
func MissingFeatures(numbers rules.Kernel, tunnels []*encap.Kind) ([]MissingFeature, error) {
	type outcome struct {
		missing []MissingFeature
		err     error
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and the namespace, end with this goroutine
		missing, err := missingFeatures(numbers, tunnels)
		done <- outcome{missing, err}
	}()
	o := <-done
	return o.missing, o.err
}

func missingFeatures(numbers rules.Kernel, tunnels []*encap.Kind) ([]MissingFeature, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace to try things in: %w", err)
	}
	k, err := Open(numbers, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if err := k.addTestDevice(); err != nil {
		return nil, err
	}
	var missing []MissingFeature
	for _, f := range features(numbers, tunnels) {
		if err := f.try(k); err != nil {
			missing = append(missing, MissingFeature{f.what, f.module, err})
		}
	}
	return missing, nil
}

// addTestDevice makes the device that routes need.
func (k *Kernel) addTestDevice() error {
	// A pair of Ethernet devices is what every kernel of a router can make.
	if err := k.addLink("up0", "veth"); err != nil {
		return fmt.Errorf("making a device to try things with: %w", err)
	}
	links, _, err := k.links()
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range links {
		if !l.Loopback && l.Name == "up0" || strings.HasPrefix(l.Name, "veth") {
			failed = append(failed, k.setLink(l.Name, unix.IFF_UP, unix.IFF_UP))
		}
	}
	if _, err := k.Snapshot(rules.Query{}); err != nil {
		return err
	}
	for _, prefix := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		failed = append(failed, k.changeAddr(unix.RTM_NEWADDR, unix.NLM_F_CREATE, netcfg.AddrAssignment{Device: "up0", Prefix: netip.MustParsePrefix(prefix)}))
	}
	return errors.Join(failed...)
}

// addLink makes a device of a kind without any settings.
func (k *Kernel) addLink(name, kind string) error {
	req := k.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
