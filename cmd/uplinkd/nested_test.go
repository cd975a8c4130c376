package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// nested is a router on the LAN, in the place of its host, with a host of its own.
type nested struct {
	*router
	leaf string // a process in the network of that host
}

// delegatingParts has twoDelegations delegate parts of them.
var delegatingParts = twoDelegations + "delegate_length = 62\n"

// newNested makes a world whose providers delegate prefixes, and whose LAN has a router instead of a host. Nothing runs yet.
func newNested(t *testing.T, config string) *nested {
	r := newRouter(t, lab.Options{Delegation: true}, config)
	r.listen()
	n := &nested{router: r, leaf: r.unshareNet("lan")}
	r.sh("lan", `ip link add in0 type veth peer name leaf0; ip link set leaf0 netns `+n.leaf+`; ip link set in0 up
		nsenter -t `+n.leaf+` -n sh -ec 'sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link set lo up; ip link set leaf0 up'
		sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.in0.accept_dad=0`)
	return n
}

// ready starts the router, and waits until both providers have delegated something.
func (n *nested) ready() {
	n.Helper()
	n.start()
	n.awaitState("fiber", uplink.Up)
	n.awaitState("lte", uplink.Up)
	n.await("two delegations", func() error {
		if p := n.lan().Prefixes; len(p) != 2 {
			return fmt.Errorf("there are %+v", p)
		}
		return nil
	})
}

// given lists what routers have of an uplink, "" for the router's own prefix.
func (n *nested) given(uplink string) []status.Downstream {
	n.Helper()
	return slices.DeleteFunc(slices.Clone(n.lan().Downstream), func(d status.Downstream) bool { return d.Uplink != uplink })
}

// awaitGiven waits until exactly one prefix of an uplink is given, and returns it.
func (n *nested) awaitGiven(uplink string, within netip.Prefix) status.Downstream {
	n.Helper()
	var given []status.Downstream
	n.await("a prefix of "+uplink, func() error {
		if given = n.given(uplink); len(given) != 1 || within.IsValid() && !within.Contains(given[0].Prefix.Addr()) {
			return fmt.Errorf("there are %+v", n.lan().Downstream)
		}
		return nil
	})
	return given[0]
}

// pings asks the Internet from an address of the leaf.
func (n *nested) pings(source netip.Addr) error {
	out, err := n.Host("lan").Run("nsenter", "-t", n.leaf, "-n", "ping", "-c1", "-W2", "-I", source.String(), "2001:db8:ffff::1")
	if err != nil {
		return fmt.Errorf("from %v: %w: %s", source, err, out)
	}
	return nil
}

// awaitRefused waits until the leaf is told to choose another source (ICMPv6 type 1 code 5).
func (n *nested) awaitRefused(source netip.Addr) {
	n.Helper()
	n.await(fmt.Sprintf("%v to be refused", source), func() error {
		if err := n.pings(source); err == nil || !strings.Contains(err.Error(), "code 5") && !strings.Contains(err.Error(), "policy") {
			return fmt.Errorf("the answer is %w", errors.Join(err, errors.New("not a refusal")))
		}
		return nil
	})
}

// leafAddresses lists the addresses of the leaf.
func (n *nested) leafAddresses() []hostAddress {
	n.Helper()
	var links []struct {
		AddrInfo []hostAddress `json:"addr_info"`
	}
	out := n.sh("lan", "nsenter -t "+n.leaf+" -n ip -6 -j address show dev leaf0 scope global")
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		n.Fatal(err)
	}
	var list []hostAddress
	for _, l := range links {
		list = append(list, l.AddrInfo...)
	}
	return slices.DeleteFunc(list, func(a hostAddress) bool { return !a.Local.IsValid() })
}

// awaitLeaf waits until the leaf has addresses in these prefixes, and prefers exactly those of them that are preferred.
func (n *nested) awaitLeaf(what string, preferred map[netip.Prefix]bool) (found map[netip.Prefix]netip.Addr) {
	n.Helper()
	n.await(what, func() error {
		list := n.leafAddresses()
		found = make(map[netip.Prefix]netip.Addr)
		for p, want := range preferred {
			i := slices.IndexFunc(list, func(a hostAddress) bool { return p.Contains(a.Local) })
			if i < 0 || list[i].Deprecated == want {
				return fmt.Errorf("%v preferred %v: the leaf has %+v", p, want, list)
			}
			found[p] = list[i].Local
		}
		return nil
	})
	return found
}

// nestedDaemon is uplinkd on the nested router.
type nestedDaemon struct {
	*nested
	client *api.Client
	stop   func()
}

func (n *nested) daemon() *nestedDaemon {
	n.Helper()
	dir := filepath.Join(n.dir, "n")
	n.write(n.dir+"/nested.toml", fmt.Sprintf("[daemon]\nstate_dir = %q\nsocket = %q\nlisten = \"\"\nhooks = \"\"\n[kernel]\ntable_names = %q\n", dir, dir+".s", dir+".conf")+`
[[uplink]]
name = "above"
device = "eth0"
  [uplink.ipv6]
  method = "ra"
  delegation = true
`+targets+`
[[lan]]
device = "in0"
`)
	d := &nestedDaemon{nested: n, client: api.Dial(dir + ".s")}
	d.start()
	return d
}

func (d *nestedDaemon) start() {
	d.Helper()
	self, err := os.Executable()
	if err != nil {
		d.Fatal(err)
	}
	cmd := d.Host("lan").Command(context.Background(), self, "run", "-c", d.dir+"/nested.toml", "--log", "debug")
	cmd.Env = append(os.Environ(), actAsProgram+"=1")
	_, _, d.stop = d.runBeside(cmd)
}

// again kills it and starts it: it asks whether what it holds still holds, as at the end of T1.
func (d *nestedDaemon) again() {
	d.Helper()
	d.stop()
	d.start()
}

// A nested router has a part of each provider's prefix and of the router's own, and what the router in front knows outlives it.
func TestARouterBehindTheLANHasPartsOfEachPrefix(t *testing.T) {
	t.Parallel()
	n := newNested(t, delegatingParts)
	n.ready()
	n.daemon()
	fiber, lte, own := n.awaitGiven("fiber", netip.Prefix{}), n.awaitGiven("lte", netip.Prefix{}), n.awaitGiven("", netip.Prefix{})
	if !fiber.Usable || lte.Usable || !own.Usable || fiber.Prefix.Bits() != 62 || !own.Prefix.Addr().IsPrivate() {
		t.Errorf("given %+v, %+v, %+v", fiber, lte, own)
	}
	leaf := n.awaitLeaf("the leaf to have an address of each", map[netip.Prefix]bool{fiber.Prefix: true, lte.Prefix: false, own.Prefix: true})
	for _, p := range []status.Downstream{fiber, lte} {
		n.await("a ping by "+p.Uplink, func() error { return n.pings(leaf[p.Prefix]) })
	}

	if plan := n.command("plan", "-c", n.config); strings.Contains(plan, "/62") {
		t.Errorf("the plan would change what stands:\n%s", plan)
	}

	n.kill()
	if err := n.pings(leaf[fiber.Prefix]); err != nil {
		t.Errorf("the router is killed: %v", err)
	}
	n.router.start()
	for _, was := range []status.Downstream{fiber, lte, own} {
		if is := n.awaitGiven(was.Uplink, netip.Prefix{}); is.Prefix != was.Prefix || is.Router != was.Router {
			t.Errorf("after a crash %+v, before %+v", is, was)
		}
	}
	n.await("the way to the leaf to be as it was", func() error {
		return errors.Join(n.converged(), n.pings(leaf[fiber.Prefix]), n.pings(leaf[lte.Prefix]))
	})
	n.configure(twoDelegations)
	n.command("reload", "--socket", n.socket())
	n.await("routes to routers to be gone", func() error {
		if routes := n.sh("router", "ip -6 route show proto 117"); strings.Contains(routes, "/62") {
			return errors.New(routes)
		}
		return n.converged()
	})
	if count := n.foreign(); count != 0 {
		t.Errorf("%d packets with a foreign source: %s", count, n.foreignSources())
	}
}

// Its hosts are taken along when an uplink is left, and when a provider renumbers.
func TestARouterBehindTheLANFollowsItsProviders(t *testing.T) {
	t.Parallel()
	n := newNested(t, delegatingParts)
	n.ready()
	inner := n.daemon()
	fiber, lte := n.awaitGiven("fiber", netip.Prefix{}), n.awaitGiven("lte", netip.Prefix{})
	leaf := n.awaitLeaf("the leaf to have an address of each", map[netip.Prefix]bool{fiber.Prefix: true, lte.Prefix: false})
	if err := n.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	n.awaitRefused(leaf[fiber.Prefix])
	inner.again()
	n.awaitLeaf("the leaf to prefer the other", map[netip.Prefix]bool{fiber.Prefix: false, lte.Prefix: true})
	n.await("a ping by lte", func() error { return n.pings(leaf[lte.Prefix]) })
	if err := n.Heal(); err != nil {
		t.Fatal(err)
	}
	n.awaitState("fiber", uplink.Up)
	inner.again()
	n.awaitLeaf("the leaf to prefer the first again", map[netip.Prefix]bool{fiber.Prefix: true, lte.Prefix: false})
	if count := n.foreign(); count != 0 {
		t.Errorf("%d packets with a foreign source: %s", count, n.foreignSources())
	}

	if err := n.Break(lab.Prefix, "fiber"); err != nil { // the provider renumbers, and says so at the next T1
		t.Fatal(err)
	}
	n.await("the new prefix of fiber", func() error {
		if p := n.lan().Prefixes; !slices.ContainsFunc(p, func(p status.LANPrefix) bool {
			return p.Uplink == "fiber" && p.Usable && !p.Prefix.Overlaps(pools["fiber"])
		}) {
			return fmt.Errorf("there are %+v", p)
		}
		return nil
	})
	n.awaitRefused(leaf[fiber.Prefix])
	before := n.foreign()
	inner.again()
	moved := n.awaitGiven("fiber", netip.MustParsePrefix("2001:db8:f100::/40"))
	after := n.awaitLeaf("the leaf to have an address of the new prefix", map[netip.Prefix]bool{moved.Prefix: true})
	n.await("a ping from the new address", func() error { return n.pings(after[moved.Prefix]) })
	n.await("the leaf to have left the former", func() error {
		for _, a := range n.leafAddresses() {
			if fiber.Prefix.Contains(a.Local) && !a.Deprecated {
				return fmt.Errorf("it has %+v", a)
			}
		}
		return nil
	})
	n.awaitRefused(leaf[fiber.Prefix])
	if after := n.foreign(); after != before {
		t.Errorf("%d packets with a foreign source: %s", after-before, n.foreignSources())
	}
}

// Where hosts never see a provider's prefix, those of a nested router have unique-local addresses of the router in front, and appear by
// the delegation of whichever uplink carries them.
func TestARouterBehindTheLANIsTranslated(t *testing.T) {
	t.Parallel()
	n := newNested(t, strings.ReplaceAll(delegatingParts, "delegation = true\n", "delegation = true\n  translate = true\n"))
	n.start()
	n.awaitState("fiber", uplink.Up)
	n.awaitState("lte", uplink.Up)
	n.daemon()
	own := n.awaitGiven("", netip.Prefix{})
	leaf := n.awaitLeaf("the leaf to have an address", map[netip.Prefix]bool{own.Prefix: true})[own.Prefix]
	n.await("a ping", func() error { return n.pings(leaf) })
	if err := n.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	n.await("a ping by the other uplink", func() error { return n.pings(leaf) })
	if given := n.lan().Downstream; len(given) != 1 {
		t.Errorf("given %+v", given)
	}
	if count := n.foreign(); count != 0 {
		t.Errorf("%d packets with a foreign source: %s", count, n.foreignSources())
	}
}

// A server of addresses beside ours that does not share the port keeps routers from being answered, which is told until it is over.
func TestAServerThatHasThePortIsNamed(t *testing.T) {
	t.Parallel()
	n := newNested(t, delegatingParts)
	serve := func(option string) (stop func()) {
		_, _, stop = n.background("router", "dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface=lan0",
			"--dhcp-leasefile="+n.dir+"/leases", "--dhcp-range=2001:db8:1::10,2001:db8:1::20,64,1h", option)
		n.await("a server of addresses", func() error {
			if out := n.sh("router", "ss -ulpn"); !strings.Contains(out, ":547") {
				return errors.New(out)
			}
			return nil
		})
		return stop
	}
	stop := serve("--dhcp-authoritative")
	n.start()
	n.awaitProblem("dhcpv6-server", "lan0", "in use")
	stop()
	n.awaitProblem("dhcpv6-server") // is over
	n.kill()
	serve("--bind-dynamic")
	n.start()
	n.daemon()
	n.awaitGiven("", netip.Prefix{})
}
