package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// forwarded are the services of the LAN host as this program forwards them: where the lab's firewall would, and one by another port.
func forwarded(id6 string) string {
	var b strings.Builder
	for _, f := range []string{"name = \"tcp\"\nport = 8080", "name = \"udp\"\nprotocol = \"udp\"\nport = \"8081-8090\"", "name = \"other-port\"\nport = 9443\nto_port = 8080"} {
		fmt.Fprintf(&b, "[[forward]]\n%s\nto4 = %q\nto6 = %q\nlan = \"lan0\"\n", f, lab.LANHost4, id6)
	}
	return b.String()
}

var otherPort = service{"TCP forwarded to another port", "tcp", 9443}

// forwardsEverywhere asks all services, forwarded or not, at each address of the uplinks.
func (r *router) forwardsEverywhere(from string, uplinks ...string) {
	r.Helper()
	r.answersEverywhere(from, uplinks...)
	for _, name := range uplinks {
		for _, at := range r.addresses(name) {
			if err := r.ask(from, otherPort, at, unhurried); err != nil {
				r.Errorf("asked from %s: %v", from, err)
			}
		}
	}
}

// reconfigure has the daemon take another configuration.
func (r *router) reconfigure(config string) {
	r.Helper()
	r.configure(config)
	r.command("reload", "--socket", r.socket())
	r.await("the configuration to be carried out", r.converged)
}

func TestAForwardedPortAnswersAtEveryUplinkWhateverHappens(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.serve()
	before := r.everything()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, at := range append(r.addresses("fiber"), r.addresses("lte")...) {
		if err := r.ask("inet", services[2], at, 200*time.Millisecond); err == nil {
			t.Errorf("%v is forwarded, and nobody has asked for it", at)
		}
	}
	r.reconfigure(dualWAN + forwarded("::2"))
	r.forwardsEverywhere("inet", "fiber", "lte")
	r.forwardsEverywhere("lan", "fiber", "lte") // hairpin
	for _, at := range []string{lab.LANRouter4, lab.LANRouter6} {
		if err := r.ask("lan", services[0], netip.MustParseAddr(at), unhurried); err != nil {
			t.Error(err)
		}
		if err := r.ask("lan", otherPort, netip.MustParseAddr(at), unhurried); !refused(err) {
			t.Errorf("%v is no uplink's, and its port is not the router's own: %v", at, err)
		}
	}
	old := []func(){r.longLived(t, netip.AddrPortFrom(r.addresses("lte")[0], otherPort.port)), r.longLived(t, netip.AddrPortFrom(r.addresses("lte")[1], 8080))}
	live := func() {
		t.Helper()
		for _, f := range old {
			f()
		}
	}
	r.await("the status to say where they lead", func() error {
		if told := r.status().Forwards; len(told) != 3 || told[2].Name != "other-port" || told[2].To4.String() != lab.LANHost4 || told[2].To6.String() != lab.LANHost6 || told[2].ToPort != 8080 {
			return fmt.Errorf("it has %+v", told)
		}
		return nil
	})
	if out := r.command("explain", "-c", r.config, "--socket", r.socket(), "--to", r.addresses("fiber")[0].String(), "--from", lab.Client4, "--iif", "wan1", "--proto", "tcp", "--dport", "9443"); !strings.Contains(out,
		"forward other-port is for it: the destination is 203.0.113.130:8080 from here on") {
		t.Errorf("explain says\n%s", out)
	}
	if findings, code := r.doctor(); code != 0 {
		t.Errorf("the doctor finds %+v", findings)
	}

	r.kill()
	live()
	r.forwardsEverywhere("inet", "lte") // they need no daemon
	r.start()
	live()
	r.sh("router", "nft flush ruleset")
	r.await("the table to be put back", func() error { return r.ask("inet", otherPort, r.addresses("lte")[1], time.Second) })
	live()

	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}

	// Another lease: the kernel tells which addresses are ours. Probes may be on their way with the former one.
	if err := r.Break(lab.Prefix, "fiber"); err != nil {
		t.Fatal(err)
	}
	for _, at := range r.addresses("fiber") {
		r.await(fmt.Sprintf("%v to answer", at), func() error { return r.ask("inet", otherPort, at, time.Second) })
	}
	renumbered := r.foreign()
	r.forwardsEverywhere("inet", "fiber", "lte")
	r.forwardsEverywhere("lan", "fiber")

	r.reconfigure(dualWAN)
	live()
	for _, at := range r.addresses("lte") {
		if err := r.ask("inet", otherPort, at, unhurried); !refused(err) {
			t.Errorf("%v: the port is not the router's own: %v", at, err)
		}
	}
	if n := r.foreign() - renumbered; n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.reconfigure(dualWAN + forwarded("::2"))
	r.stop()
	r.command("clean", "-c", r.config)
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(r.everything(), "\n")); diff != "" {
		t.Errorf("clean leaves traces (-before +after):\n%s", diff)
	}
}

// TestForwardedPortsFollowPrefixesFailoverAndFirewalls has a host with a fixed identifier in the prefixes of two providers.
func TestForwardedPortsFollowPrefixesFailoverAndFirewalls(t *testing.T) {
	t.Parallel()
	const onlyByLTE = "[[forward]]\nname = \"lte\"\nport = 9444\nto_port = 8080\nto4 = \"203.0.113.130\"\nto6 = \"::10\"\nuplinks = [\"lte\"]\n"
	config := twoDelegations + forwarded("::10") + onlyByLTE
	r := newRouter(t, lab.Options{}, config)
	r.serve()
	r.sh("lan", "sysctl -qw net.ipv6.conf.eth0.accept_ra=1; ip token set ::10 dev eth0")
	r.listen()
	server := r.delegateByKea(pools["fiber"], lifetimes{3, 6, 900, 1800})
	r.delegateByISC(pools["lte"], anHour)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitHost(pools["fiber"])
	ula := netip.MustParsePrefix(r.lan().ULA)
	host := func(pool netip.Prefix) (at netip.Addr) {
		r.Helper()
		r.await(fmt.Sprintf("the host to have its identifier in %v", pool), func() error {
			for _, a := range r.holds(pool) {
				if strings.HasSuffix(a.Local.String(), "::10") {
					at = a.Local
					return nil
				}
			}
			return fmt.Errorf("it has %+v", r.hostAddresses())
		})
		return at
	}
	r.await("the status to say where they lead", func() error {
		if told := r.status().Forwards; told[0].To6 != host(ula) {
			return fmt.Errorf("it has %+v", told)
		}
		return nil
	})
	direct := func(pools ...netip.Prefix) { // at the host's own addresses, one of whose ports is translated
		t.Helper()
		for _, pool := range pools {
			for _, s := range []service{services[2], services[3], otherPort} {
				if err := r.ask("inet", s, host(pool), unhurried); err != nil {
					t.Error(err)
				}
			}
		}
	}
	some := service{"TCP forwarded at one uplink", "tcp", 9444}
	all := func() {
		t.Helper()
		r.forwardsEverywhere("inet", "fiber", "lte")
		r.forwardsEverywhere("lan", "fiber", "lte")
		for _, from := range []string{"inet", "lan"} {
			for i := range 2 {
				if err := r.ask(from, some, r.addresses("lte")[i], unhurried); err != nil {
					t.Errorf("from %s: %v", from, err)
				}
				if err := r.ask(from, some, r.addresses("fiber")[i], unhurried); !refused(err) {
					t.Errorf("from %s: fiber has the port of lte: %v", from, err)
				}
			}
		}
	}
	all()
	direct(pools["fiber"], pools["lte"])

	// Down for its probes, and all that the LAN begins is locked into the other line.
	r.sh("isp1", `nft 'table inet deaf { chain forward { type filter hook forward priority 0; ip daddr { 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.53 } drop; ip6 daddr { 2001:db8:ffff::1, 2001:db8:ffff::2, 2001:db8:ffff::3, 2001:db8:ffff::53 } drop; }; }'`)
	r.awaitState("fiber", uplink.Down)
	r.reconfigure(config + "[[policy]]\nname = \"locked\"\niif = \"lan0\"\nuplinks = [\"lte\"]\nfallback = \"unreachable\"\n")
	all()
	direct(pools["fiber"], pools["lte"])
	r.sh("isp1", "nft delete table inet deaf")
	r.reconfigure(config)
	r.awaitState("fiber", uplink.Up)

	// The owner's firewall.
	r.sh("router", `nft -f - <<'E'
table inet fw {
 chain forward { type filter hook forward priority 0; policy drop
  ct state established,related accept
  iifname "lan0" oifname { "wan1", "wan2" } accept
 }
}
E`)
	if err := r.ask("inet", services[2], r.addresses("fiber")[1], time.Second); err == nil {
		t.Error("the firewall drops nothing")
	}
	findings, _ := r.doctor()
	for _, words := range []string{"no new IPv4 connection from fiber (wan1) to lan0: forward tcp is not reached by it (nftables inet fw, chain forward)", "no new IPv6 connection from lte (wan2) to lan0: forward lte"} {
		f := wantFinding(t, findings, "forward-refused", words)
		command, _, _ := strings.Cut(f.Fix, ", and")
		r.sh("router", "nft() { command nft \"$@\"; }; "+strings.NewReplacer(`"wan1"`, `'"wan1"'`, `"wan2"`, `'"wan2"'`, `"lan0"`, `'"lan0"'`).Replace(command))
	}
	r.sh("router", `nft 'insert rule inet fw forward ip6 daddr & ::ffff:ffff:ffff:ffff == ::10 meta l4proto { tcp, udp } th dport 8080-8090 accept'
		nft 'insert rule inet fw forward iifname "lan0" oifname "lan0" accept'`)
	all()
	direct(pools["fiber"], pools["lte"])
	if findings, _ := r.doctor(); slices.ContainsFunc(findings, func(f doctor.Finding) bool { return f.Check == "forward-refused" }) {
		t.Errorf("the doctor finds %+v", findings)
	}

	// Another prefix: what was called at the router's address lives on, for it leads to the address that lasts.
	old := r.longLived(t, netip.AddrPortFrom(r.addresses("fiber")[1], 8080))
	next := netip.MustParsePrefix("2001:db8:f100::/48")
	server.stop()
	if err := r.Revoke(context.Background(), "fiber", pools["fiber"]); err != nil {
		t.Fatal(err)
	}
	r.delegateByKea(next, anHour)
	r.awaitHost(next)
	old()
	all()
	r.await("the port at the new prefix", func() error { return r.ask("inet", otherPort, host(next), time.Second) })
	direct(next, pools["lte"])
	r.kill()
	old()
	all()
	r.start()
	old()
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
	if r.Failed() {
		t.Log(errors.New(r.sh("router", "nft list table inet uplinkd; conntrack -L 2>/dev/null || true")))
	}
}
