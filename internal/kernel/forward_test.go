package kernel_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// What we compile of forwarded ports and what nft compiles of the printed lines must be the same, as nft shows both.
func TestForwardsAreWhatTheirLinesSay(t *testing.T) {
	namespace(t)
	sh(t, delegatedTo+"sysctl -qw net.ipv6.conf.all.forwarding=1\n")
	k, cfg := open(t), config()
	delegate(&cfg)
	cfg.Forwards = forwards()
	ops := converge(t, k, cfg, new(rules.Recorded), verdicts(rules.Good, rules.Good))
	ours := sh(t, "nft list table inet "+nft.TableName)
	for _, has := range []string{"dnat ip to 192.168.1.10:8443", "dnat ip6 to [fd00:77:0:1::10]:8443", "dnat ip to 192.168.1.11 "} {
		if !strings.Contains(ours, has) {
			t.Errorf("there is no %q in\n%s", has, ours)
		}
	}
	for _, op := range ops {
		if put, ok := op.(netcfg.PutTable); ok {
			sh(t, put.Command())
		}
	}
	if diff := cmp.Diff(strings.Split(sh(t, "nft list table inet "+nft.TableName), "\n"), strings.Split(ours, "\n")); diff != "" {
		t.Errorf("(-by nft +by us):\n%s", diff)
	}
}
