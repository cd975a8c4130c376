// Package fakekernel is a kernel in memory, for tests: it holds what a snapshot shows and obeys the same
// changes as the real one, with the refusals that matter.
package fakekernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Kernel is a kernel in memory. Its methods may be called from any goroutine.
type Kernel struct {
	mu      sync.Mutex
	numbers rules.Kernel
	obs     rules.Observed
	applied []netcfg.Op
	log     []string
	refuse  func(netcfg.Op) error
}

// New makes a kernel that shows the given state.
func New(numbers rules.Kernel, obs rules.Observed) *Kernel {
	return &Kernel{numbers: numbers, obs: clone(obs)}
}

func clone(o rules.Observed) rules.Observed {
	o.Links, o.Addrs, o.Rules = slices.Clone(o.Links), slices.Clone(o.Addrs), slices.Clone(o.Rules)
	o.Routes = slices.Clone(o.Routes)
	for i := range o.Routes {
		o.Routes[i].Nexthops = slices.Clone(o.Routes[i].Nexthops)
	}
	o.Tunnels, o.WireGuard = slices.Clone(o.Tunnels), slices.Clone(o.WireGuard)
	o.Sysctls = maps.Clone(o.Sysctls)
	o.Recorded = o.Recorded.Clone()
	return o
}

// Change changes the state behind the reconciler's back.
func (k *Kernel) Change(fn func(*rules.Observed)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(&k.obs)
}

// Refuse makes every change fail for which fn returns an error; nil ends that.
func (k *Kernel) Refuse(fn func(netcfg.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = fn
}

// Applied returns the changes carried out since the last call.
func (k *Kernel) Applied() []netcfg.Op {
	k.mu.Lock()
	defer k.mu.Unlock()
	ops := k.applied
	k.applied = nil
	return ops
}

// Log returns, in order, what was done beside changes: "apply", "flush MARK/MASK FAMILY", "destroy ADDRS", "pin".
func (k *Kernel) Log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.log)
}

// Snapshot shows the state. Sysctls that were never set do not exist.
func (k *Kernel) Snapshot(rules.Query) (*rules.Observed, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	obs := clone(k.obs)
	return &obs, nil
}

// FlushConntrack notes the call.
func (k *Kernel) FlushConntrack(family rules.Family, mark, mask uint32) error {
	k.note("flush %#x/%#x %v", mark, mask, family)
	return nil
}

// DestroySockets notes the call.
func (k *Kernel) DestroySockets(local []netip.Addr) (int, error) {
	k.note("destroy %v", local)
	return 0, nil
}

// DestroyConnections notes the call.
func (k *Kernel) DestroyConnections(list []rules.Connection) (int, error) {
	k.note("destroy connections %v", list)
	return len(list), nil
}

// DeleteConnections finds none: nothing is tracked here.
func (k *Kernel) DeleteConnections(func(*rules.Connection) string) (map[string]int, error) {
	return nil, nil
}

// PinConnections notes the call. It finds none.
func (k *Kernel) PinConnections(func(*rules.Connection) int) (int, error) {
	k.note("pin")
	return 0, nil
}

func (k *Kernel) note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log = append(k.log, fmt.Sprintf(format, args...))
}

// Apply carries out the changes in order.
func (k *Kernel) Apply(ops []netcfg.Op) error {
	k.note("apply")
	k.mu.Lock()
	defer k.mu.Unlock()
	var failed []error
	for _, op := range ops {
		err := k.apply(op)
		if err != nil {
			failed = append(failed, &netcfg.Refusal{Op: op, Err: err})
			continue
		}
		k.applied = append(k.applied, op)
	}
	return errors.Join(failed...)
}

func (k *Kernel) apply(op netcfg.Op) error {
	if k.refuse != nil {
		if err := k.refuse(op); err != nil {
			return err
		}
	}
	o := &k.obs
	switch op := op.(type) {
	case netcfg.AddAddr:
		return k.addAddr(op)
	case netcfg.ChangeAddr:
		i := slices.IndexFunc(o.Addrs, func(a rules.Addr) bool { return a.Device == op.Device && a.Prefix == op.Prefix })
		if i < 0 {
			return unix.EADDRNOTAVAIL
		}
		o.Addrs[i].Deprecated = op.Deprecated
	case netcfg.DelAddr:
		o.Addrs = slices.DeleteFunc(o.Addrs, func(a rules.Addr) bool { return a.Device == op.Device && a.Prefix == op.Prefix })
	case netcfg.PutRoute:
		return k.putRoute(op)
	case netcfg.DelRoute:
		removes := op.Equal
		if op.Family == rules.IPv4 {
			removes = func(r netcfg.Route) bool { return op.Removes(&r) }
		}
		i := slices.IndexFunc(o.Routes, removes)
		if i >= 0 {
			o.Routes = slices.Delete(o.Routes, i, i+1)
		}
	case netcfg.AddRule:
		if !slices.Contains(o.Rules, op.Rule) {
			o.Rules = append(o.Rules, op.Rule)
		}
	case netcfg.DelRule:
		o.Rules = slices.DeleteFunc(o.Rules, func(r netcfg.Rule) bool { return r == op.Rule })
	case netcfg.PutTable:
		o.Table = op.Table
	case netcfg.PutPolicies:
		o.Policies = op.Table
	case netcfg.PutEgress:
		o.Egress = withoutFilter(o.Egress, op.Device)
		o.Egress.Filters, o.Egress.Qdiscs[op.Device] = append(o.Egress.Filters, op.EgressFilter), true
	case netcfg.DelEgress:
		o.Egress = withoutFilter(o.Egress, op.Device)
		if op.Qdisc {
			delete(o.Egress.Qdiscs, op.Device)
		}
	case netcfg.SetGroup:
		for i := range o.Links {
			if o.Links[i].Name == op.Device {
				o.Links[i].Group = op.Group
			}
		}
	case netcfg.SetHardware:
		for i := range o.Links {
			if o.Links[i].Name == op.Device {
				o.Links[i].Hardware = op.Address
			}
		}
	case netcfg.SetSysctl:
		o.Sysctls[op.Name] = op.Value
	case netcfg.AddTunnel:
		return k.addTunnel(op)
	case netcfg.DelTunnel:
		k.delTunnel(op.Device)
	case netcfg.SetMTU:
		return k.changeTunnel(op.Device, func(l *rules.Link, t *netcfg.TunnelLink) { l.MTU, t.MTU = op.MTU, op.MTU })
	case netcfg.SetMaster:
		return k.changeTunnel(op.Device, func(_ *rules.Link, t *netcfg.TunnelLink) { t.Bridge, t.Floods = op.Bridge, true })
	case netcfg.SetUp:
		return k.setUp(op.Device)
	case netcfg.SetWireGuard:
		return k.setWireGuard(op)
	case netcfg.AddEndpoint, netcfg.ChangeEndpoint, netcfg.DelEndpoint, netcfg.SetSubflows:
		o.MPTCP = ChangeMPTCP(o.MPTCP, op)
	case netcfg.AddProxyNeighbour:
		o.Proxied = AddProxied(o.Proxied, op.ProxyNeighbour)
	case netcfg.DelProxyNeighbour:
		o.Proxied = WithoutProxied(o.Proxied, op.ProxyNeighbour)
	default:
		return fmt.Errorf("unknown change %T", op)
	}
	return nil
}

// ChangeMPTCP returns what a change makes of the path manager: a snapshot may still hold what was.
func ChangeMPTCP(m *rules.MPTCP, op netcfg.Op) *rules.MPTCP {
	next := &rules.MPTCP{Endpoints: slices.Clone(m.Endpoints), Subflows: m.Subflows}
	remove := func(id uint8) {
		next.Endpoints = slices.DeleteFunc(next.Endpoints, func(e netcfg.Endpoint) bool { return e.ID == id })
	}
	switch op := op.(type) {
	case netcfg.AddEndpoint:
		next.Endpoints = append(next.Endpoints, op.Endpoint)
	case netcfg.ChangeEndpoint:
		remove(op.ID)
		next.Endpoints = append(next.Endpoints, op.Endpoint)
	case netcfg.DelEndpoint:
		remove(op.ID)
	case netcfg.SetSubflows:
		next.Subflows = op.Limit
	}
	return next
}

// AddProxied and WithoutProxied return what a change makes of the addresses that the kernel answers for: a snapshot may still hold what was.
func AddProxied(list []netcfg.ProxyNeighbour, n netcfg.ProxyNeighbour) []netcfg.ProxyNeighbour {
	return append(WithoutProxied(list, n), n)
}

// WithoutProxied is explained there.
func WithoutProxied(list []netcfg.ProxyNeighbour, n netcfg.ProxyNeighbour) []netcfg.ProxyNeighbour {
	return slices.DeleteFunc(slices.Clone(list), func(o netcfg.ProxyNeighbour) bool { return netcfg.CompareProxyNeighbours(o, n) == 0 })
}

// withoutFilter copies what a snapshot may still hold.
func withoutFilter(e *rules.Egress, device string) *rules.Egress {
	without := &rules.Egress{Qdiscs: maps.Clone(e.Qdiscs), Impossible: e.Impossible}
	if without.Qdiscs == nil {
		without.Qdiscs = make(map[string]bool)
	}
	for _, f := range e.Filters {
		if f.Device != device {
			without.Filters = append(without.Filters, f)
		}
	}
	return without
}

// addAddr also makes the connected route, as the kernel does.
func (k *Kernel) addAddr(op netcfg.AddAddr) error {
	if _, ok := k.obs.Link(op.Device); !ok {
		return unix.ENODEV
	}
	k.obs.Addrs = append(k.obs.Addrs, rules.Addr{Device: op.Device, Prefix: op.Prefix, NoPrefixRoute: op.NoPrefixRoute, LinkScope: op.LinkScope, Protocol: k.numbers.Protocol})
	if !op.Prefix.IsSingleIP() && !op.NoPrefixRoute {
		k.obs.Routes = append(k.obs.Routes, Connected(op.Device, op.Prefix))
	}
	return nil
}

// putRoute refuses routes through devices that are not there or not up. A replacing change takes the
// place of the first route with the same family, table, destination and metric.
func (k *Kernel) putRoute(op netcfg.PutRoute) error {
	for _, hop := range op.Nexthops {
		link, ok := k.obs.Link(hop.Device)
		if !ok {
			return unix.ENODEV
		}
		if !link.Up {
			return unix.ENETDOWN
		}
	}
	same := func(r netcfg.Route) bool { return r.SameKey(&op.Route) }
	i := slices.IndexFunc(k.obs.Routes, same)
	switch {
	case i < 0:
		k.obs.Routes = append(k.obs.Routes, op.Route)
	case op.Prepend:
		k.obs.Routes = slices.Insert(k.obs.Routes, i, op.Route)
	default:
		k.obs.Routes[i] = op.Route
	}
	return nil
}

// Connected is the route that the kernel installs with an address.
func Connected(device string, address netip.Prefix) netcfg.Route {
	const protoKernel = 2 // RTPROT_KERNEL
	r := netcfg.Route{Family: rules.FamilyOf(address.Addr()), Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: address.Masked(),
		Protocol: protoKernel, Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}}
	if r.Family == rules.IPv4 {
		r.Scope, r.Src = netcfg.ScopeLink, address.Addr()
	} else {
		r.Metric = 256
	}
	return r
}
