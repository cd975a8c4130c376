package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// everything is what the router's kernel holds, in the words of its own tools.
func (r *router) everything() string {
	r.Helper()
	return r.sh("router", `
for f in -4 -6; do ip $f rule; ip $f route show table all | sort; done
ip -o address; ip -d -o link; nft -s list ruleset
find /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/fib_multipath_hash_policy -type f ! -name stable_secret | sort | xargs grep -s .`)
}

// foreignState is what other programs keep in our neighbourhood: none of it is ours to touch.
const foreignState = `
ip rule add pref 10005 from 192.0.2.77 lookup 99
ip rule add pref 10900 from 192.0.2.78 lookup 11700 protocol 200
ip -6 rule add pref 10300 from 2001:db8:77::/48 lookup 99 protocol static
ip route add 192.0.2.77 via 203.0.113.130 table 99
ip route add 192.0.2.79 via 203.0.113.130 table 11701 proto static
ip route add 192.0.2.80 via 203.0.113.1 dev wan2 proto static
ip link set lan0 group 117
nft add table inet somebody
nft add chain inet somebody input '{ type filter hook input priority 0; }'
nft add rule inet somebody input meta mark 0x5 counter
`

func TestCleanLeavesTheKernelByteForByteAsItWas(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.sh("router", foreignState)
	before := r.everything()
	r.start()
	r.awaitState("lte", uplink.Up)
	if r.everything() == before {
		t.Fatal("the daemon changed nothing")
	}
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.stop()
	r.command("clean", "-c", r.config)
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(r.everything(), "\n")); diff != "" {
		t.Errorf("clean leaves traces (-before +after):\n%s", diff)
	}
	if out := r.command("clean", "-c", r.config); out != "# nothing of ours is there\n" {
		t.Errorf("clean once more: %q", out)
	}
}

// TestWhatIsTakenAwayIsPutBack takes away, one after the other, each kind of thing that is ours.
func TestWhatIsTakenAwayIsPutBack(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", foreignState)
	r.start()
	r.awaitState("lte", uplink.Up)
	whole := r.settled()
	for what, script := range map[string]string{
		"a rule":                     "ip rule del pref 10010",
		"an IPv6 rule":               "ip -6 rule del pref 10000",
		"every rule of ours":         "for f in -4 -6; do ip $f rule flush protocol 117; done",
		"the weighted default":       "ip route flush table 11700",
		"an uplink table":            "ip route flush table 11702 proto 117; ip -6 route flush table 11702",
		"the unreachable default":    "ip route del unreachable default table 11701 metric 4294967294",
		"the nftables table":         "nft delete table inet uplinkd",
		"a chain's rules":            "nft flush chain inet uplinkd prerouting",
		"a chain":                    "nft flush chain inet uplinkd postrouting; nft delete chain inet uplinkd postrouting",
		"the whole ruleset":          "nft list table inet somebody > /run/somebody.nft; nft flush ruleset; nft -f /run/somebody.nft",
		"a link group":               "ip link set wan1 group default",
		"a replaced default":         "ip route replace default via 203.0.113.1 dev wan2 table 11700 proto 117",
		"something added":            "nft insert rule inet uplinkd output drop",
		"a route too many":           "ip route add 192.0.2.81 dev wan1 table 11701 proto 117",
		"rules too many":             "ip rule add pref 10500 from 192.0.2.82 lookup 11701 protocol 117",
		"an orphan in another table": "ip route add 192.0.2.83 dev wan1 table 4711 proto 117",
	} {
		began := time.Now()
		r.sh("router", script)
		r.await(what+" to be put right", func() error {
			if diff := cmp.Diff(whole, r.settled()); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
		if took := time.Since(began); took > time.Second {
			t.Logf("%s was put right after %v", what, took)
		}
	}
}

// settled is everything that our plan and our neighbours hold, without counters.
func (r *router) settled() string {
	r.Helper()
	return regexp.MustCompile(`(counter )?packets \d+ bytes \d+|# handle \d+`).ReplaceAllString(r.sh("router", `
for f in -4 -6; do ip -N $f rule; ip -N $f route show table all | grep -v 'table 255' | sort; done
ip -o link | sed 's/^[0-9]*: \([a-z0-9]*\).* group \([0-9a-z]*\) .*/\1 \2/'
for t in $(nft list tables | sed 's/table //; s/ /,/' | sort); do nft list table ${t%,*} ${t#*,}; done`), "")
}

func TestASecondRunAgainstAConvergedKernelChangesNothing(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if out := r.command("plan", "-c", r.config); !strings.Contains(out, "# nothing to change") {
		t.Errorf("plan beside the running daemon:\n%s", out)
	}
	r.kill()
	before := r.everything()
	r.start()
	if g := r.status().Generation; g != 0 {
		t.Errorf("the second run changed the kernel in %d passes", g)
	}
	if diff := cmp.Diff(before, r.everything()); diff != "" {
		t.Error(diff)
	}
}

func TestThePrintedPlanDoneByHandIsWhatRunDoes(t *testing.T) {
	t.Parallel()
	outcome := func(t *testing.T, do func(r *router)) string {
		r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
		do(r)
		return r.settled() + r.sh("router", "grep . /proc/sys/net/ipv4/conf/*/src_valid_mark /proc/sys/net/ipv4/conf/*/rp_filter")
	}
	var byHand, byRun string
	t.Run("by hand", func(t *testing.T) {
		byHand = outcome(t, func(r *router) {
			script := r.command("plan", "-c", r.config)
			r.sh("router", script)
			if again := r.command("plan", "-c", r.config); !strings.Contains(again, "# nothing to change") {
				t.Errorf("plan after its own commands:\n%s", again)
			}
		})
	})
	t.Run("by run", func(t *testing.T) {
		byRun = outcome(t, func(r *router) { r.start() })
	})
	if diff := cmp.Diff(strings.Split(byRun, "\n"), strings.Split(byHand, "\n")); diff != "" {
		t.Errorf("(-run +by hand):\n%s", diff)
	}
}

// TestAFloodOfEventsIsSurvived overflows the event sockets: the kernel answers ENOBUFS and drops events.
func TestAFloodOfEventsIsSurvived(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("lte", uplink.Up)
	whole := r.settled()
	r.sh("router", `
seq 20000 | while read i; do echo "route add 192.0.2.$((i % 250))/32 via 203.0.113.130 table $((20000 + i / 250))"; done | ip -batch -
ip rule del pref 10900
seq 20000 20080 | sed 's/^/route flush table /' | ip -batch -`)
	r.await("the flood to be survived", func() error {
		if diff := cmp.Diff(whole, r.settled()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// Two daemons of two files, with a socket and a state directory each, would undo each other's routes for ever.
func TestASecondDaemonIsRefusedWhateverItsFile(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.ready()
	own := func(name string) string { return filepath.Join(r.dir, name) + `"` }
	other := filepath.Join(r.dir, "other.toml")
	text := strings.NewReplacer(own("s"), own("other"), own("state"), own("other-state"), "tier = 2", "").Replace(r.configured())
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	second := r.program("run", "-c", other)
	stop := context.AfterFunc(ctx, func() { _ = second.Process.Kill() })
	defer stop()
	out, err := second.CombinedOutput()
	if want := fmt.Sprintf("another uplinkd manages this network namespace: process %d", r.process.Process.Pid); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v, %s", err, out)
	}
	r.awaitNoChange()
	r.kill() // which ends the claim
	r.start()
}
