package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// vpnClient is what a VPN client such as OpenVPN leaves on a router: a device without a default, routes for each half of
// the Internet through it, and one to its server by the line that it was dialed on. The tunnel is a pair of veths to the
// Internet, whose side answers by it.
const vpnClient = `
ip link add tun0 type veth peer name vpn netns $INET; ip link set tun0 up; ip address add 198.51.100.225/28 dev tun0
nsenter -t $INET -n sh -ec 'ip link set vpn up; ip address add 198.51.100.226/28 dev vpn'
ip route add 0.0.0.0/1 via 198.51.100.226 dev tun0; ip route add 128.0.0.0/1 via 198.51.100.226 dev tun0
ip route add 192.0.2.3/32 via 198.51.100.1 dev wan1`

// withVPN is a router with such a client. The daemon does not run yet.
func withVPN(t *testing.T, config string) *router {
	r := newRouter(t, lab.Options{}, config)
	r.sh("router", strings.ReplaceAll(vpnClient, "$INET", r.pid("inet")))
	return r
}

// pid returns a process that lives in the host's network namespace.
func (r *router) pid(host string) string {
	r.Helper()
	holder, _, _ := r.background(host, "sleep", "infinity")
	pid := fmt.Sprint(holder.Process.Pid)
	r.await("a process in "+host, func() error {
		comm, err := r.Host(host).Run("cat", "/proc/"+pid+"/comm")
		if err == nil && strings.TrimSpace(comm) != "sleep" {
			err = errors.New("not yet")
		}
		return err
	})
	return pid
}

const vpnUplink = `
[[uplink]]
name = "vpn"
device = "tun0"
%s
  [uplink.ipv6]
  method = "off"
  [uplink.probe]
  targets = ["192.0.2.1", "192.0.2.2"]
`

// awaitSeenAs waits until a target sees new flows with a source.
func (r *router) awaitSeenAs(host, target, source string) {
	r.Helper()
	r.await(fmt.Sprintf("%s to be seen as %s by %s", host, source, target), func() error {
		as, err := r.seenAs(host, target)
		if err == nil && as.String() != source {
			err = fmt.Errorf("seen as %s", as)
		}
		return err
	})
}

func TestAVPNThatIsNoUplinkIsNamedAsBypassed(t *testing.T) {
	r := withVPN(t, dualWAN)
	r.ready()
	if !slices.ContainsFunc(r.status().Problems, func(p rules.Problem) bool {
		return p.Code == "vpn-bypassed" && strings.Contains(p.Fix, `device = "tun0"`)
	}) {
		t.Errorf("problems: %+v", r.status().Problems)
	}
	r.expectBy("lan", other4, "fiber")
}

// The advice of vpn-bypassed, to the letter: an [[uplink]] in a tier before the others.
func TestAVPNOfHalfRoutesCarriesAllTrafficAsAnUplink(t *testing.T) {
	r := withVPN(t, strings.NewReplacer("tier = 2", "tier = 3", "device = \"wan1\"", "device = \"wan1\"\ntier = 2").Replace(dualWAN)+fmt.Sprintf(vpnUplink, "tier = 1"))
	r.ready()
	r.awaitState("vpn", uplink.Up)
	for _, host := range []string{"lan", "router"} {
		r.awaitSeenAs(host, "192.0.2.2:7", "198.51.100.225")
	}
	if problems := r.status().Problems; len(problems) != 0 {
		t.Errorf("%+v", problems)
	}
	r.sh("router", "ip link set tun0 down")
	r.expectBy("lan", other4, "fiber")
}

// Or the same with default = false and a [[policy]].
func TestAVPNOfHalfRoutesCarriesWhatAPolicySends(t *testing.T) {
	t.Parallel()
	r := withVPN(t, dualWAN+fmt.Sprintf(vpnUplink, "default = false")+`
[[policy]]
name = "some"
to = "192.0.2.2"
uplinks = ["vpn"]
fallback = "unreachable"
`)
	r.ready()
	r.awaitState("vpn", uplink.Up)
	for _, host := range []string{"lan", "router"} {
		r.awaitSeenAs(host, "192.0.2.2:7", "198.51.100.225")
	}
	r.expectBy("lan", other4, "fiber")
	for _, line := range []string{"fiber", "lte"} {
		if err := r.Break(lab.Blackhole, line); err != nil {
			t.Fatal(err)
		}
		r.awaitState(line, uplink.Down)
	}
	for _, u := range r.status().Uplinks {
		if u.Name == "vpn" && u.IPv4.Share != 0 {
			t.Errorf("with all others dead the VPN has a share of %v", u.IPv4.Share)
		}
	}
}

// rival installs a default by LTE whenever ours is not in main, and withdraws it when ours is, as a routing daemon does
// that takes ours for the better one.
const rival = `while :; do
	if ip route show default proto 117 | grep -q .; then
		ip route del default via 203.0.113.1 dev wan2 proto static metric 150 2>/dev/null && echo withdrawn
	else
		ip route add default via 203.0.113.1 dev wan2 proto static metric 150 2>/dev/null && echo installed
	fi
	sleep 0.05
done`

func TestADefaultOfARivalIsNotFoughtFor(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(strings.Replace(dualWAN, "tier = 2", "tier = 1", 1), "device = \"wan1\"", "device = \"wan1\"\ntier = 2", 1))
	r.sh("router", "ip route del default dev wan2; ip route replace default via 198.51.100.1 dev wan1 metric 100")
	_, out, _ := r.background("router", "sh", "-c", rival)
	r.ready()
	r.await("the contest to be told", func() error {
		return errors.Join(r.hasProblem("main-default-contested"), r.converged())
	})
	r.expectBy("lan", other4, "lte")
	if n := strings.Count(out.String(), "withdrawn"); n == 0 || n > 5 {
		t.Errorf("withdrawn %d times:\n%s", n, out)
	}
}
