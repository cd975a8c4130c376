package kernel_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChainsOfOthersAreListedAndOursAreNot(t *testing.T) {
	namespace(t)
	k := open(t)
	look := func(want [][3]string, wantLegacy bool) {
		t.Helper()
		chains, legacy, err := k.ForeignChains()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, chains); diff != "" || legacy != wantLegacy {
			t.Errorf("legacy %v, (-want +got):\n%s", legacy, diff)
		}
	}
	look(nil, false)
	sh(t, `nft 'table inet uplinkd { chain srcnat { }; }; table ip uplinkd { chain theirs { }; }; table inet firewalld { chain filter_INPUT { }; }'; iptables-nft -N DOCKER`)
	look([][3]string{{"ip", "uplinkd", "theirs"}, {"inet", "firewalld", "filter_INPUT"}, {"ip", "filter", "DOCKER"}}, false)
	sh(t, "ip6tables-legacy -N theirs")
	look([][3]string{{"ip", "uplinkd", "theirs"}, {"inet", "firewalld", "filter_INPUT"}, {"ip", "filter", "DOCKER"}}, true)
}
