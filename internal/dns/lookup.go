package dns

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// errNobodyToAsk means that there is no DNS server whose uplink works.
var errNobodyToAsk = errors.New("no DNS server of an uplink that works is known")

// LookUp asks a server of each uplink that works for the addresses of a name, for providers give others, and returns them all with how
// long they hold. It fails when none has answered.
func (e *Engine) LookUp(ctx context.Context, name string) (map[netip.Addr]time.Duration, error) {
	all, failed := make(map[netip.Addr]time.Duration), errNobodyToAsk
	answered := make(map[string]bool)
	for _, a := range e.askable() {
		if answered[a.uplink] {
			continue
		}
		found, err := probe.LookUp(ctx, a.binding, a.addr, name)
		if err != nil {
			failed = err
			continue
		}
		answered[a.uplink] = true
		for addr, ttl := range found {
			all[addr] = max(all[addr], ttl)
		}
	}
	if len(answered) == 0 {
		return nil, failed
	}
	return all, nil
}

type askedServer struct {
	uplink  string
	addr    netip.Addr
	binding probe.Binding
}

// askable lists the servers that are not known to be no good, in the order of planning.
func (e *Engine) askable() (list []askedServer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.servers() {
		if binding, can := e.paths[rules.Path{Uplink: s.Uplink, Family: s.Family()}]; can && !s.state.bad() {
			list = append(list, askedServer{s.uplink, s.Addr, binding})
		}
	}
	return list
}
