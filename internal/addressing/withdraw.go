package addressing

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/rules"
)

// addWithdrawn tells planning which prefixes the hosts of each LAN may still hold though nobody delegates them: those that
// are being withdrawn, and those that have been taken away since the hosts were told last.
func (e *Engine) addWithdrawn(out *rules.Config, now time.Time) {
	e.lans.mu.Lock()
	defer e.lans.mu.Unlock()
	delegated := func(entry *ndisc.Entry) bool {
		return slices.ContainsFunc(out.Uplinks, func(u rules.Uplink) bool {
			return slices.ContainsFunc(u.Delegations, func(d rules.Delegation) bool { return d.Prefix == entry.Delegation })
		})
	}
	for i := range out.LANs {
		lan := &out.LANs[i]
		advertised := e.lans.advertised[lan.Device]
		if advertised == nil {
			continue
		}
		var list []netip.Prefix
		for n := range advertised.Entries {
			entry := &advertised.Entries[n]
			if entry.Uplink != "" && (entry.Stale && now.Before(entry.Valid) || !entry.Stale && !delegated(entry)) {
				list = append(list, entry.Prefix)
			}
		}
		lan.Withdrawn = list
	}
}

// Store is the state directory.
type Store interface {
	Load(document string, v any) error
	Save(document string, v any) error
}

// WithdrawRA tells the hosts of every LAN that was advertised on that this router goes; no Engine may run. The function that it
// returns waits until that is done, and forgets those hosts.
func WithdrawRA(state Store, snapshot func() (*rules.Observed, error), log *slog.Logger) (wait func()) {
	var advertised map[string]*ndisc.Advertised
	if err := state.Load(docLANs, &advertised); err != nil || len(advertised) == 0 {
		return func() {}
	}
	for _, adv := range advertised {
		if adv != nil {
			adv.Usable(time.Now())
		}
	}
	obs, err := snapshot()
	if err != nil {
		log.Warn("cannot update router advertisements", "err", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var withdrawing, running sync.WaitGroup
	for device, adv := range advertised {
		link, _ := obs.Link(device)
		if adv == nil || !link.Up || !link.Carrier || adv.ByOthers {
			continue
		}
		a := ndisc.NewAdvertiser(ndisc.AdvertiserConfig{Device: device, Log: log})
		a.SetLink(link.Index, true)
		running.Go(func() { _ = a.Run(ctx) })
		withdrawing.Go(func() {
			within, cancel := context.WithTimeout(ctx, withdrawTimeout)
			defer cancel()
			if err := a.Withdraw(within, adv.Content().Withdrawn()); err != nil {
				log.Warn("cannot update router advertisements", "lan", device, "err", err)
			}
		})
	}
	return func() {
		withdrawing.Wait()
		cancel()
		running.Wait()
		if err := state.Save(docLANs, struct{}{}); err != nil {
			log.Warn("cannot forget what was advertised", "err", err)
		}
	}
}
