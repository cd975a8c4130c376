package addressing

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/ndisc"
)

// Pair is what two routers are known by where one of them stands in the other's place.
type Pair struct {
	DUID   dhcp6.DUID   // to the servers of uplinks that the primary alone has
	ULA    netip.Prefix // as [identity.ULA]
	Router netip.Addr   // the link-local address that is the router of hosts; zero: each router's own
}

// SetPair says that this router is one of two. It is to be called before Configure.
func (e *Engine) SetPair(p Pair) { e.pair = p }

// SaveLeases saves the leases that are held.
func (e *Engine) SaveLeases() {
	e.leases.keep()
	e.delegations.keep()
}

// clientIDOf makes a DHCPv4 client identifier of a DUID and an IAID (RFC 4361 section 6.1).
func clientIDOf(id int, duid dhcp6.DUID) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{255}, uint32(id)), duid...)
}

// TakeOver takes what another router knew, by document and name, for uplinks and LANs that are configured next. Null is what there is no more. What of it
// cannot be read is left out, and is in the error.
func (e *Engine) TakeOver(documents map[string]map[string]json.RawMessage, now time.Time) error {
	var failed error
	take := func(document string, into func(name string, value json.RawMessage) error) {
		for name, value := range documents[document] {
			failed = errors.Join(failed, into(name, value))
		}
	}
	e.leases.mu.Lock()
	take(docLeases4, func(name string, value json.RawMessage) error {
		delete(e.leases.held, name)
		var lease dhcp4.Lease
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(value, &lease); err != nil {
			return err
		}
		if lease, ok := lease.Usable(now); ok {
			e.leases.held[name] = lease
		}
		return nil
	})
	e.leases.mu.Unlock()
	e.delegations.mu.Lock()
	take(docLeases6, func(name string, value json.RawMessage) error {
		delete(e.delegations.held, name)
		var lease dhcp6.Lease
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(value, &lease); err != nil {
			return err
		}
		e.delegations.held[name] = lease
		return nil
	})
	e.delegations.mu.Unlock()
	e.lans.mu.Lock()
	take(docLANs, func(device string, value json.RawMessage) error {
		delete(e.lans.advertised, device)
		advertised := new(ndisc.Advertised)
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(value, advertised); err != nil {
			return err
		}
		advertised.Usable(now)
		e.lans.advertised[device] = advertised
		return nil
	})
	e.lans.mu.Unlock()
	return failed
}
