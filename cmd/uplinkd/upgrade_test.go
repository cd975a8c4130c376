package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// formerRevision is the commit that this program follows on a router, and is followed by when somebody goes back.
const formerRevision = "3376aa90ef71dd88a24efbc95d944b772e11e21b"

// buildRevision builds the program as it was at a commit of this repository.
func buildRevision(t *testing.T, revision string) (bin string) {
	t.Helper()
	dir := t.TempDir()
	bin = filepath.Join(dir, "bin", "uplinkd")
	source := exec.Command("sh", "-c", `set -eu
git archive --format=tar "$1:" >"$2/tar" || { echo "the history is needed: git fetch --unshallow" >&2; exit 1; }
mkdir "$2/source"; tar -C "$2/source" -xf "$2/tar"
cd "$2/source"; CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$3" ./cmd/uplinkd`, "sh", revision, dir, bin)
	source.Dir = "../.."
	if out, err := source.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// Each revision takes over from the other one, stopped as systemd does it or by kill -9: no packet of a flow is lost or moved, what was
// drained stays drained, the history goes on, and in the end nothing of either is left.
func TestUpgradesAndDowngradesLoseNoPacket(t *testing.T) {
	t.Parallel()
	former := buildRevision(t, formerRevision)
	r := newRouter(t, lab.Options{}, dualWAN)
	rest := func() string {
		return r.sh("router", "ip rule; ip -6 rule; ip route; ip -6 route; nft list tables; tc qdisc; ip link show group 117; grep . /proc/sys/net/ipv4/conf/*/src_valid_mark")
	}
	before := rest()
	r.binary = former
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.command("drain", "--socket", r.socket(), "lte")
	first := r.history()[0]

	streams := []*lab.Stream{
		{From: r.Host("lan"), Target: addrPort("192.0.2.1:7"), Rate: 500},
		{From: r.Host("lan"), Target: addrPort("[2001:db8:ffff::1]:7"), Rate: 500},
	}
	sent, finish := r.countPackets(streams)
	sent(500)
	for _, step := range []struct {
		end    func()
		binary string
	}{
		{r.stop, ""}, {r.kill, former}, {r.kill, ""}, {r.stop, former}, {r.stop, ""},
	} {
		step.end()
		sent(100)
		r.binary = step.binary
		r.start()
		sent(500)
		for _, u := range r.status().Uplinks {
			if want := u.Name == "lte"; u.Drained != want {
				t.Errorf("%s: drained is %v", u.Name, u.Drained)
			}
		}
		if plan := r.command("plan", "-c", r.config); !strings.Contains(plan, "nothing to change") {
			t.Errorf("it has converged, and would change:\n%s", plan)
		}
	}
	finish()
	for _, s := range streams {
		st := s.Stats()
		if st.Answered != st.Sent || len(st.Moves) != 1 {
			t.Errorf("%v: %v, moves %v", s.Target, st, st.Moves)
		}
	}
	if got := r.history()[0]; got.Kind != first.Kind || got.Time != first.Time {
		t.Errorf("the history begins with %+v, which was %+v", got, first)
	}
	r.stop()
	r.command("clean", "-c", r.config)
	if diff := cmp.Diff(before, rest()); diff != "" {
		t.Errorf("what is left (-before +after):\n%s", diff)
	}
}

// What carries our protocol number, or stands in our tables, is ours also when this revision knows nothing of its kind. Some of these
// rules differ in nothing else than what it does not know, so that one of them could be taken for the other.
func TestWhatAnotherRevisionLeftIsRemovedWhateverItIs(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	state := func() string {
		return r.sh("router", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list tables; nft -s list table inet uplinkd")
	}
	before := state()
	for _, command := range []string{
		"ip rule add pref 10009 fwmark 1 prohibit protocol 117",
		"ip rule add pref 10010 fwmark 1 blackhole protocol 117",
		"ip -6 rule add pref 10010 fwmark 1 unreachable protocol 117",
		"ip rule add pref 10011 goto 32766 protocol 117",
		"ip rule add pref 10012 nop protocol 117",
		"ip rule add pref 10500 fwmark 1 lookup 11799 protocol 117",
		"ip rule add pref 10100 oif wan1 tos 0x10 lookup 11701 protocol 117",
		"ip rule add pref 10100 oif wan1 tun_id 5 lookup 11701 protocol 117",
		"ip rule add pref 10100 oif wan1 ipproto tcp dport 80-90 lookup 11701 protocol 117",
		"ip rule add pref 10100 oif wan1 uidrange 5-9 lookup 11701 protocol 117",
		"ip rule add pref 10100 not oif wan1 from 10.0.0.0/8 lookup 11701 protocol 117",
		"ip rule add pref 10502 l3mdev protocol 117",
		"ip route add default dev wan1 table 11763 proto 117",
		"ip route add blackhole 10.99.0.0/16 table 11763 proto 117",
		"ip route add prohibit 10.98.0.0/16 proto 117",
		"ip route add 10.96.0.0/16 via inet6 fe80::1 dev wan1 table 11763 proto 117",
		"ip route add 10.95.0.0/16 table 11763 proto 117 nexthop via 198.51.100.1 dev wan1 nexthop via 203.0.113.1 dev wan2",
		"nft add chain inet uplinkd next '{ type filter hook ingress device wan1 priority 0; }'",
		"nft add set inet uplinkd next '{ type ipv4_addr . inet_service; flags interval; }'",
		"nft add map inet uplinkd next2 '{ type ifname : verdict; }'",
		"nft add rule inet uplinkd srcnat numgen random mod 2 vmap { 0 : accept, 1 : return }",
	} {
		r.sh("router", command)
		r.await(command+" to be taken back", func() error {
			if err := r.converged(); err != nil {
				return err
			}
			if diff := cmp.Diff(before, state()); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
}
