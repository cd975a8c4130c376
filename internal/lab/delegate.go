package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Delegate has an uplink's ISP route a prefix to the router, by the router's link-local address as it is now, and let
// its addresses pass as sources. It is what an ISP does for a prefix that its DHCPv6 server has delegated; for the same
// prefix again it follows a router whose device was made anew.
func (w *World) Delegate(ctx context.Context, uplink string, prefix netip.Prefix) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, err := w.find(uplink)
	if err != nil {
		return err
	}
	return w.delegate(ctx, u, prefix)
}

// delegate is Delegate for a caller that holds mu, or that is still building the world.
func (w *World) delegate(ctx context.Context, u *uplink, prefix netip.Prefix) error {
	var router netip.Addr
	err := w.hosts[Router].Do(func() (err error) {
		router, err = linkLocal(u.device)
		return err
	})
	if err != nil {
		return err
	}
	p := u.isp
	if err := w.hosts[p.name].ip(ctx, []string{fmt.Sprintf("route replace %s via %s dev %s", prefix, router, p.device(u))}); err != nil {
		return err
	}
	if slices.Contains(u.delegated, prefix) {
		return nil
	}
	element := fmt.Sprintf("add element netdev isp %s_net6 { %s }\n", u.name, prefix)
	if err := w.hosts[p.name].nft(ctx, element); err != nil {
		return err
	}
	u.delegated = append(u.delegated, prefix)
	return w.hosts[Internet].ip(ctx, returnRoutes("replace", p, []netip.Prefix{prefix}))
}

// Revoke undoes Delegate.
func (w *World) Revoke(ctx context.Context, uplink string, prefix netip.Prefix) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, err := w.find(uplink)
	if err != nil {
		return err
	}
	return w.revoke(ctx, u, prefix)
}

func (w *World) revoke(ctx context.Context, u *uplink, prefix netip.Prefix) error {
	i := slices.Index(u.delegated, prefix)
	if i < 0 {
		return fmt.Errorf("%s has not delegated %v", u.name, prefix)
	}
	u.delegated = slices.Delete(u.delegated, i, i+1)
	element := fmt.Sprintf("delete element netdev isp %s_net6 { %s }\n", u.name, prefix)
	if err := w.hosts[u.isp.name].nft(ctx, element); err != nil {
		return err
	}
	if err := w.hosts[Internet].ip(ctx, returnRoutes("delete", u.isp, []netip.Prefix{prefix})); err != nil {
		return err
	}
	return w.hosts[u.isp.name].ip(ctx, []string{fmt.Sprintf("route delete %s", prefix)})
}
