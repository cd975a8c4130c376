package tunnel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The kernel forgets which of our addresses a peer has called when the mark leads by another device.
func TestATunnelThatOthersCallHasNoMarkAndCallsItsOwnPeersByRules(t *testing.T) {
	const ours, ours6, name, theirs = "192.0.2.9:51820", "[2001:db8:9::9]:443", "vps.example.net:51820", ""
	for name, c := range map[string]struct {
		endpoints []string
		mark      uint32
		calls     []string
	}{
		"a client":                             {[]string{ours}, 9, nil},
		"a server":                             {[]string{theirs, theirs}, 0, nil},
		"a server that calls":                  {[]string{theirs, ours}, 0, []string{ours}},
		"a client in IPv6":                     {[]string{ours6}, 9, nil},
		"a client of a name":                   {[]string{name, ours}, 9, nil},
		"a server that calls by both families": {[]string{ours6, theirs, ours}, 0, []string{ours6, ours}},
		"a server that calls one end twice":    {[]string{theirs, ours, ours}, 0, []string{ours}},
		"a server that calls a name, unknown":  {[]string{theirs, name}, 0, nil},
		"nobody in particular":                 {nil, 9, nil},
	} {
		u := config.Uplink{Name: "vps", Device: "wg0", WireGuard: &config.WireGuard{}}
		for i, e := range c.endpoints {
			u.WireGuard.Peers = append(u.WireGuard.Peers, config.Peer{PublicKey: [32]byte{byte(i + 1)}, Endpoint: e})
		}
		w := newWGUplink(&u, someIDs, someNumbers)
		if got := w.config().FwMark; got != c.mark {
			t.Errorf("%s: mark %d, want %d", name, got, c.mark)
		}
		var want []netip.AddrPort
		for _, e := range c.calls {
			want = append(want, netip.MustParseAddrPort(e))
		}
		if got := w.calls(); !slices.Equal(got, want) {
			t.Errorf("%s: calls %v, want %v", name, got, want)
		}
		for i, e := range c.endpoints {
			if p := w.config().Peers[i]; p.PublicKey != (netcfg.Key{byte(i + 1)}) || p.Called != (e != "") {
				t.Errorf("%s: peer %d is called: %v", name, i, p.Called)
			}
		}
	}
}

// What others have configured for their peers is not known: one that leads to the Internet is called.
func TestADeviceOfOthersHasTheMarkWhileItLeadsToTheInternet(t *testing.T) {
	for network, mark := range map[string]uint32{"0.0.0.0/0": 9, "::/0": 9, "10.8.0.2/32": 0, "fd00:8::/64": 0, "192.168.0.0/16": 0} {
		w := newWGUplink(&config.Uplink{Name: "vps", Device: "wg0"}, someIDs, someNumbers)
		if w.config().FwMark != 0 {
			t.Error("a mark before its peers are known")
		}
		w.state = &rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{{WireGuardPeer: netcfg.WireGuardPeer{AllowedIPs: []netip.Prefix{netip.MustParsePrefix(network)}}}}}
		if got := w.config().FwMark; got != mark {
			t.Errorf("%s: mark %d, want %d", network, got, mark)
		}
	}
}
