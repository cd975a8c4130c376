package tunnel

import (
	"slices"
	"testing"
)

func TestWhatBreaksATunnelWithoutAWordIsFound(t *testing.T) {
	sound := []Link{{Device: "br0", MTU: 1500, Multicast: true}, {Device: "t", MTU: 1500, Bridge: "br0", Multicast: true, Floods: true}}
	spec := Spec{Device: "t", Bridge: "br0", Params: Params{Kind: GRETAP, Local: local4}}
	for _, tt := range []struct {
		name    string
		alter   func(device *Link)
		spec    func(*Spec)
		filters []string
		want    []string
	}{
		{name: "nothing"},
		{name: "a device without multicast", alter: func(l *Link) { l.Multicast = false }, want: []string{"tunnel-multicast"}},
		{name: "a port that gets none", alter: func(l *Link) { l.Floods = false }, want: []string{"tunnel-multicast"}},
		{name: "a port that is narrower than its bridge", alter: func(l *Link) { l.MTU = 1462 }, want: []string{"bridge-mtu"}},
		{name: "a firewall in the bridge", filters: []string{"net/bridge/bridge-nf-call-iptables"}, want: []string{"bridge-filter"}},
		{name: "an uplink is on no bridge", spec: func(s *Spec) { s.Bridge = "" }, alter: func(l *Link) { l.Bridge, l.MTU, l.Floods = "", 1382, false },
			filters: []string{"net/bridge/bridge-nf-call-iptables"}},
		{name: "an uplink without multicast", spec: func(s *Spec) { s.Bridge = "" }, alter: func(l *Link) { l.Bridge, l.Multicast = "", false }, want: []string{"tunnel-multicast"}},
		{name: "WireGuard carries none", spec: func(s *Spec) { *s = Spec{Device: "t", Params: Params{Kind: WireGuard}} }, alter: func(l *Link) { l.Bridge, l.Multicast = "", false }},
		{name: "a device that is not there", spec: func(s *Spec) { s.Device = "u" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			links, s := slices.Clone(sound), spec
			if tt.alter != nil {
				tt.alter(&links[1])
			}
			if tt.spec != nil {
				tt.spec(&s)
			}
			var got []string
			for _, f := range Check([]Spec{s}, links, tt.filters) {
				got = append(got, f.Code)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
